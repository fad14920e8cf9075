//! Servers for two programs that are compared: both must meet the same.

use seabed_tests::{Kind, Server};

/// Starts a server for each target that needs one, prints a line `VARIABLE=URL` for each and an empty one, and stops
/// them when standard input is closed.
pub(crate) async fn run(targets: &[String]) -> anyhow::Result<()> {
    let mut servers = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| targets.iter().any(|target| target == kind.name())) {
        match Server::start(kind).await {
            Ok(server) => {
                println!("{}={}", kind.variable(), server.url());
                servers.push(server);
            }
            Err(error) => eprintln!("{}: {error:#}", kind.name()),
        }
    }
    println!();
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    let mut outcome = Ok(());
    for server in servers {
        outcome = outcome.and(server.stop().await);
    }
    outcome
}
