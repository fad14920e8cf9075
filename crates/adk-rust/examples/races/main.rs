//! Concurrent calls on Seabed under adk-rust. `tests/adk-rust-races` runs the same on adk-rust's own services.
//!
//! `cargo run --release -p seabed-adk-rust --example races --features migrate,postgres,sqlite -- URL`, on an empty
//! database.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures and prints")]

mod race;

use std::sync::Arc;

use anyhow::Context as _;
use seabed_adk_rust::{SeabedSessionService, seabed};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args().nth(1).context("a URL of a database")?;
    let connection = seabed::open(&url).await?;
    seabed::migrate(&connection).await?;
    race::race(Arc::new(SeabedSessionService::connect(&url).await?)).await?;
    Ok(())
}
