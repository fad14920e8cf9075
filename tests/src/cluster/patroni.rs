//! Two PostgreSQL servers under Patroni, and an etcd server that they agree through.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::haproxy::HaProxy;
use super::pair::{admin_url, installed};
use super::{Servers, until};
use crate::installed::candidates;
use crate::program::{Account, Program, free_port};
use crate::server::{ADMIN_PASSWORD, wait_until_ready};

pub(super) struct Patroni {
    etcd: Program,
    all: [Node; 2],
    /// The place of the one that was killed.
    killed: usize,
}

struct Node {
    program: Program,
    port: u16,
    /// The port of Patroni itself.
    api: u16,
}

impl Patroni {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let (etcd, client) = start_etcd()?;
        let first = Node::start("one", client)?;
        // It makes the database, which the second copies.
        wait_until_ready(&admin_url(first.port)).await?;
        let second = Node::start("two", client)?;
        let mut cluster = Self { etcd, all: [first, second], killed: 1 };
        cluster.wait_for_standby().await?;
        Ok(cluster)
    }

    /// Waits until Patroni would promote the node that was killed.
    async fn wait_for_standby(&mut self) -> anyhow::Result<()> {
        let started = std::time::Instant::now();
        while !is_synchronous(self.all[self.killed].api).await.unwrap_or(false) {
            ensure!(started.elapsed() < std::time::Duration::from_mins(3), "the node is no synchronous standby");
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        Ok(())
    }
}

impl Node {
    fn start(name: &str, etcd: u16) -> anyhow::Result<Self> {
        let patroni = find("patroni", "patroni")?;
        let postgres = installed()?.program().context("PostgreSQL was removed")?;
        let account = Account::postgres();
        let folder = account.folder()?;
        let (port, api) = (free_port()?, free_port()?);
        let file = folder.path().join("patroni.yml");
        let path = |path: &Path| path.display().to_string();
        let configuration = [
            ("name: one", format!("name: {name}")),
            ("10.0.0.1:5432", format!("127.0.0.1:{port}")),
            ("10.0.0.1:8008", format!("127.0.0.1:{api}")),
            ("10.0.0.9:2379", format!("127.0.0.1:{etcd}")),
            ("10.0.0.0/24", "127.0.0.1/32".to_owned()),
            ("/var/lib/postgresql/15/main", path(&folder.path().join("data"))),
            ("/usr/lib/postgresql/15/bin", path(postgres.parent().context("no folder")?)),
            ("/var/run/postgresql", path(folder.path())),
            ("SECRET", ADMIN_PASSWORD.to_owned()),
        ];
        let configuration = configuration.iter().fold(
            include_str!("../../../docs/clusters/patroni.yml").to_owned(),
            |configuration, (documented, here)| configuration.replace(documented, here),
        );
        std::fs::write(&file, configuration)?;
        let program = account.supervise("TERM", folder, &patroni, [file].into_iter())?;
        Ok(Self { program, port, api })
    }
}

fn start_etcd() -> anyhow::Result<(Program, u16)> {
    let etcd = find("etcd", "etcd-server")?;
    let account = Account::of(&["etcd", "nobody"]);
    let folder = account.folder()?;
    let (client, peer) = (free_port()?, free_port()?);
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let arguments = [
        format!("--data-dir={}", folder.path().join("etcd").display()),
        format!("--listen-client-urls={}", url(client)),
        format!("--advertise-client-urls={}", url(client)),
        format!("--listen-peer-urls={}", url(peer)),
        format!("--initial-advertise-peer-urls={}", url(peer)),
        format!("--initial-cluster=default={}", url(peer)),
    ];
    let program = account.supervise("TERM", folder, &etcd, arguments.into_iter().map(PathBuf::from))?;
    Ok((program, client))
}

fn find(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    let found = candidates(program).into_iter().next();
    found.with_context(|| format!("{program} is not installed (Debian: {package})"))
}

/// Whether the Patroni at `port` says that its server is the synchronous standby.
async fn is_synchronous(port: u16) -> anyhow::Result<bool> {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    connection.write_all(b"GET /synchronous HTTP/1.0\r\n\r\n").await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.0 200"))
}

#[async_trait]
impl Servers for Patroni {
    fn front(&self) -> anyhow::Result<HaProxy> {
        let configuration = include_str!("../../../docs/clusters/haproxy-patroni.cfg");
        let [one, two] = &self.all;
        let apis = [("10.0.0.1:5432 check port", one.api), ("10.0.0.2:5432 check port", two.api)];
        let configuration = apis.iter().fold(configuration.to_owned(), |configuration, (server, api)| {
            configuration.replace(&format!("{server} 8008"), &format!("{server} {api}"))
        });
        HaProxy::start(&configuration, &[("10.0.0.1:5432", one.port), ("10.0.0.2:5432", two.port)])
    }

    fn admin_url(&self, port: u16) -> String {
        admin_url(port)
    }

    async fn kill(&mut self, port: u16) -> anyhow::Result<()> {
        self.killed = self.all.iter().position(|node| node.port == port).context("no such node")?;
        self.all[self.killed].program.order("kill").await?;
        let other = admin_url(self.all[1 - self.killed].port);
        until(&[other], "SELECT CAST(pg_is_in_recovery() AS TEXT) AS text", "false").await
    }

    async fn heal(&mut self) -> anyhow::Result<()> {
        self.all[self.killed].program.order("start").await?;
        self.wait_for_standby().await
    }

    async fn stop(self: Box<Self>) -> anyhow::Result<()> {
        for node in self.all {
            node.program.stop().await?;
        }
        self.etcd.stop().await
    }
}
