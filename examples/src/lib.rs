//! Only examples: `cargo run --example quickstart`.
