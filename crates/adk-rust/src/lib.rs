//! Seabed as the session service of [adk-rust](https://docs.rs/adk-session): durable, race-free, and on google-adk's
//! own tables, so that Rust and Python agents share their sessions.
//!
//! ```toml
//! seabed-adk-rust = { version = "0.1", features = ["migrate", "sqlite"] } # or "postgres", "mysql" (also for MariaDB)
//! ```
//!
#![cfg_attr(all(feature = "migrate", feature = "sqlite"), doc = "```")]
#![cfg_attr(not(all(feature = "migrate", feature = "sqlite")), doc = "```ignore")]
//! use std::sync::Arc;
//!
//! use adk_session::SessionService;
//! use seabed_adk_rust::{SeabedSessionService, seabed};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! // Once, or with the command `seabed-migrate up`: create the tables.
//! let database = seabed::open("sqlite::memory:").await?;
//! seabed::migrate(&database).await?;
//!
//! let sessions = SeabedSessionService::new(seabed::from_connection(database).await?);
//! // For the runner: `Runner::builder().session_service(sessions)`.
//! let sessions: Arc<dyn SessionService> = Arc::new(sessions);
//! # sessions.health_check().await?;
//! # Ok(())
//! # }
//! ```
//!
//! On a database that has its tables, [`SeabedSessionService::connect`] is all that a program needs.

mod codec;
mod error;
mod recent;
mod service;
mod session;

/// Seabed itself, for its options and its errors.
pub use seabed;
pub use service::SeabedSessionService;
