//! Concurrent calls on adk-rust's own session services: `cargo run --release -- URL`, on an empty database.

#[path = "../../../crates/adk-rust/examples/races/race.rs"]
mod race;

use std::sync::Arc;

use adk_session::{PostgresSessionService, SessionService, SqliteSessionService};
use anyhow::Context as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args().nth(1).context("a URL of a database")?;
    let service: Arc<dyn SessionService> = if url.starts_with("sqlite") {
        let service = SqliteSessionService::new(&url).await?;
        service.migrate().await?;
        Arc::new(service)
    } else {
        let service = PostgresSessionService::new(&url).await?;
        service.migrate().await?;
        Arc::new(service)
    };
    race::race(service).await?;
    Ok(())
}
