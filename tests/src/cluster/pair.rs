//! A PostgreSQL server and its synchronous standby, which a script promotes.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use tempfile::TempDir;
use url::Url;

use super::haproxy::HaProxy;
use super::{Servers, tell, until, until_refused};
use crate::Kind;
use crate::program::{Account, Program, free_port, run};
use crate::server::{ADMIN_PASSWORD, wait_until_ready};

/// Who may log in: the check of HAProxy without a password.
const ACCESS: &str = "host postgres haproxy 127.0.0.1/32 trust\n\
                      host all all 127.0.0.1/32 scram-sha-256\n\
                      host replication all 127.0.0.1/32 scram-sha-256\n";

pub(super) struct Pair {
    kind: Kind,
    /// Holds the file with `ACCESS`.
    folder: TempDir,
    primary: Node,
    standby: Option<Node>,
    /// The server that was killed.
    killed: Option<Node>,
}

struct Node {
    program: Program,
    port: u16,
}

/// The URL of the administrator of the PostgreSQL server at `port`.
pub(super) fn admin_url(port: u16) -> String {
    format!("postgres://postgres:{ADMIN_PASSWORD}@127.0.0.1:{port}/postgres")
}

/// The newest PostgreSQL that is installed.
pub(super) fn installed() -> anyhow::Result<Kind> {
    let kinds = [Kind::Postgres18, Kind::Postgres15];
    kinds.into_iter().find(|kind| kind.program().is_some()).context("PostgreSQL is not installed (Debian: postgresql)")
}

impl Pair {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let kind = installed()?;
        let folder = Account::postgres().folder()?;
        std::fs::write(folder.path().join("access"), ACCESS)?;
        let (program, url) = Program::start(kind, &arguments(&folder)).await?;
        wait_until_ready(&url).await?;
        tell(&url, &["CREATE ROLE haproxy LOGIN"]).await?;
        let primary = Node { program, port: Url::parse(&url)?.port().context("no port")? };
        let mut pair = Self { kind, folder, primary, standby: None, killed: None };
        pair.heal().await?;
        Ok(pair)
    }
}

fn arguments(folder: &TempDir) -> [String; 2] {
    ["-c".to_owned(), format!("hba_file={}", folder.path().join("access").display())]
}

#[async_trait]
impl Servers for Pair {
    fn front(&self) -> anyhow::Result<HaProxy> {
        let configuration = include_str!("../../../docs/clusters/haproxy-postgres.cfg");
        let standby = self.standby.as_ref().context("no standby")?.port;
        HaProxy::start(configuration, &[("10.0.0.1:5432", self.primary.port), ("10.0.0.2:5432", standby)])
    }

    fn admin_url(&self, port: u16) -> String {
        admin_url(port)
    }

    async fn kill(&mut self, port: u16) -> anyhow::Result<()> {
        ensure!(port == self.primary.port, "the server at {port} is not the primary");
        self.primary.program.order("kill").await?;
        until_refused(port).await;
        let standby = self.standby.take().context("no standby")?;
        let url = admin_url(standby.port);
        tell(&url, &["SELECT pg_promote()"]).await?;
        // Nobody is left to wait for. What commits before this does wait.
        tell(&url, &["ALTER SYSTEM SET synchronous_standby_names = ''", "SELECT pg_reload_conf()"]).await?;
        self.killed = Some(std::mem::replace(&mut self.primary, standby));
        Ok(())
    }

    async fn heal(&mut self) -> anyhow::Result<()> {
        let port = match self.killed.take() {
            Some(Node { program, port }) => {
                program.stop().await?;
                port
            }
            None => free_port()?,
        };
        let postgres = self.kind.program().context("PostgreSQL was removed")?;
        let account = Account::postgres();
        let folder = account.folder()?;
        let mut copy = account.command(postgres.with_file_name("pg_basebackup"));
        copy.arg("--dbname").arg(admin_url(self.primary.port)).arg("--pgdata").arg(folder.path().join("data"));
        copy.args(["--write-recovery-conf", "--checkpoint=fast"]);
        run(copy).await?;
        let more = arguments(&self.folder).map(PathBuf::from).into_iter();
        let program = Program::postgres_on_data(&postgres, folder, port, more)?;
        self.standby = Some(Node { program, port });
        let primary = admin_url(self.primary.port);
        let standbys = |is: &str| format!("SELECT CAST(COUNT(*) AS TEXT) AS text FROM pg_stat_replication WHERE {is}");
        until(std::slice::from_ref(&primary), &standbys("state = 'streaming'"), "1").await?;
        let wait_for_it = ["ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"];
        tell(&primary, &wait_for_it).await?;
        until(&[primary], &standbys("sync_state = 'sync'"), "1").await
    }

    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        if let Some(standby) = self.standby {
            standby.program.stop().await?;
        }
        self.primary.program.stop().await
    }
}
