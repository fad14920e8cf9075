//! The memory needed to stream a long session, measured in a process that does nothing else.

use std::process::Stdio;

use anyhow::Context as _;
use futures_util::{StreamExt, pin_mut};
use seabed::{ListEvents, SessionServiceExt};
use tokio::process::Command;

use crate::tables::{Store, key};

/// Streams the events of a session in a separate process, and prints how much memory that took.
pub(crate) async fn report(store: &Store, session: &str) -> anyhow::Result<()> {
    let itself = std::env::current_exe()?;
    let output =
        Command::new(itself).args(["--stream", &store.url, "--only", session]).stdin(Stdio::null()).output().await?;
    let told = String::from_utf8_lossy(&output.stdout);
    let kib: u64 =
        told.trim().parse().with_context(|| format!("no figure: {told}{}", String::from_utf8_lossy(&output.stderr)))?;
    let reached = if kib <= 32 * 1024 { "✓" } else { "✗" };
    println!("\nStreaming the events of {session}: {} MiB above idle; goal ≤ 32 MiB {reached}", kib.div_ceil(1024));
    Ok(())
}

/// Prints by how many KiB the resident memory grows at most while the events of a session are streamed.
pub(crate) async fn measure(url: &str, session: &str) -> anyhow::Result<()> {
    let service = seabed::connect(url).await?;
    // Reads one page first, so that the pool and its statements exist.
    let _: usize = service.list_events(ListEvents::new(key(session)?).with_limit(1)).await?.items.len();
    let idle = resident()?;
    let mut most = idle;
    // Uses large pages, because MySQL reads for each page everything that follows it (see docs/PERFORMANCE.md).
    let events = service.stream_events(ListEvents::new(key(session)?).with_limit(ListEvents::MAX_LIMIT));
    pin_mut!(events);
    let mut count = 0_usize;
    while let Some(event) = events.next().await {
        event?;
        count += 1;
        if count.is_multiple_of(100) {
            most = most.max(resident()?);
        }
    }
    anyhow::ensure!(count > 0, "no events");
    println!("{}", most - idle);
    Ok(())
}

/// Returns the resident memory in KiB, as reported by Linux.
fn resident() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
