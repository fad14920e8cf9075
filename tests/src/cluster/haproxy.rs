//! HAProxy in front of the servers of a cluster, with the configurations of `docs/clusters`.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::installed::candidates;
use crate::program::{Account, Program, free_port};

/// A running HAProxy.
pub(super) struct HaProxy {
    program: Program,
    port: u16,
    servers: Vec<u16>,
}

impl HaProxy {
    /// Returns the installed program.
    pub(super) fn find() -> anyhow::Result<PathBuf> {
        candidates("haproxy").into_iter().next().context("HAProxy is not installed (Debian: haproxy)")
    }

    /// Starts it with a configuration in which each of `servers` takes the place of an address of the documents.
    pub(super) fn start(configuration: &str, servers: &[(&str, u16)]) -> anyhow::Result<Self> {
        let (account, port) = (Account::of(&["haproxy", "nobody"]), free_port()?);
        let configuration = configuration.replace("127.0.0.1:6000", &format!("127.0.0.1:{port}"));
        let configuration = servers.iter().fold(configuration, |configuration, (address, port)| {
            configuration.replace(address, &format!("127.0.0.1:{port}"))
        });
        let folder = account.folder()?;
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, configuration)?;
        let program =
            account.supervise("TERM", folder, &Self::find()?, ["-db".into(), "-f".into(), file].into_iter())?;
        Ok(Self { program, port, servers: servers.iter().map(|(_, port)| *port).collect() })
    }

    /// The port that takes connections.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The ports of the servers.
    pub(super) fn servers(&self) -> &[u16] {
        &self.servers
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.program.stop().await
    }
}
