//! Clusters whose primary is killed: several servers on this machine, and HAProxy in front of them.

mod galera;
mod group;
mod haproxy;
mod node;
mod pair;
mod patroni;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use seabed::sea_orm::{ConnectionTrait as _, Statement};

use crate::Family;
use crate::server::wait_until_ready;
use haproxy::HaProxy;

/// A kind of cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// PostgreSQL and a synchronous standby that a script promotes, behind HAProxy.
    PostgresPair,
    /// The same, without HAProxy: the service knows the addresses of both.
    PostgresAddresses,
    /// Two PostgreSQL servers under Patroni with its synchronous mode, behind HAProxy.
    Patroni,
    /// Three nodes of MariaDB Galera, one of which takes all writes, behind HAProxy.
    Galera,
    /// Three members of MySQL Group Replication in single-primary mode, behind HAProxy.
    GroupReplication,
}

impl Setup {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::PostgresPair, Self::PostgresAddresses, Self::Patroni, Self::Galera, Self::GroupReplication];

    /// Returns the name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::PostgresPair => "postgres_pair",
            Self::PostgresAddresses => "postgres_addresses",
            Self::Patroni => "patroni",
            Self::Galera => "galera",
            Self::GroupReplication => "group_replication",
        }
    }

    /// Returns the protocol family.
    pub fn family(self) -> Family {
        match self {
            Self::PostgresPair | Self::PostgresAddresses | Self::Patroni => Family::Postgres,
            Self::Galera | Self::GroupReplication => Family::MySql,
        }
    }
}

/// The servers of a cluster. Each is named by its port.
#[async_trait]
trait Servers: Send + Sync {
    /// Starts HAProxy in front of them.
    fn front(&self) -> anyhow::Result<HaProxy>;

    /// The URL of the administrator of one server.
    fn admin_url(&self, port: u16) -> String;

    /// Kills the server at `port`, which takes the writes, and waits until another can take them.
    async fn kill(&mut self, port: u16) -> anyhow::Result<()>;

    /// Brings the server that was killed back into the cluster, and waits until the next one may be killed.
    async fn heal(&mut self) -> anyhow::Result<()>;

    async fn stop(self: Box<Self>) -> anyhow::Result<()>;
}

/// A running cluster.
pub(crate) struct Cluster {
    setup: Setup,
    servers: Box<dyn Servers>,
    haproxy: HaProxy,
}

impl Cluster {
    /// Starts one, and waits until it takes writes.
    pub(crate) async fn start(setup: Setup) -> anyhow::Result<Self> {
        HaProxy::find()?;
        let servers: Box<dyn Servers> = match setup {
            Setup::PostgresPair | Setup::PostgresAddresses => Box::new(pair::Pair::start().await?),
            Setup::Patroni => Box::new(patroni::Patroni::start().await?),
            Setup::Galera => Box::new(galera::start().await?),
            Setup::GroupReplication => Box::new(group::start().await?),
        };
        let haproxy = servers.front()?;
        // HAProxy takes every server for a primary until it has checked it.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let cluster = Self { setup, servers, haproxy };
        wait_until_ready(&cluster.admin_url()).await?;
        Ok(cluster)
    }

    /// Returns the administrator's URL through HAProxy.
    pub(crate) fn admin_url(&self) -> String {
        self.servers.admin_url(self.haproxy.port())
    }

    /// Returns the URL for a service, given one that goes through HAProxy.
    pub(crate) fn service_url(&self, url: &str) -> String {
        if self.has_one_address() {
            return url.to_owned();
        }
        let addresses: Vec<String> = self.haproxy.servers().iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let url = url.replace(&format!("127.0.0.1:{}", self.haproxy.port()), &addresses.join(","));
        format!("{url}?target_session_attrs=read-write")
    }

    /// Whether services go through HAProxy.
    pub(crate) fn has_one_address(&self) -> bool {
        self.setup != Setup::PostgresAddresses
    }

    /// Returns the port of the server that takes the writes.
    pub(crate) async fn primary(&self) -> anyhow::Result<u16> {
        let port = match self.setup.family() {
            Family::Postgres => "SELECT CAST(inet_server_port() AS TEXT) AS text",
            Family::MySql => "SELECT CAST(@@port AS CHAR) AS text",
        };
        let url = self.admin_url();
        wait_until_ready(&url).await?;
        Ok(ask(&url, port).await?.context("no port")?.parse()?)
    }

    /// Kills the server at `port`, which takes the writes, and waits until another can take them.
    pub(crate) async fn kill(&mut self, port: u16) -> anyhow::Result<()> {
        self.servers.kill(port).await
    }

    /// Brings the server that was killed back.
    pub(crate) async fn heal(&mut self) -> anyhow::Result<()> {
        self.servers.heal().await
    }

    /// Ends all servers and removes their data.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.haproxy.stop().await?;
        self.servers.stop().await
    }
}

/// Runs statements at `url`.
async fn tell(url: &str, statements: &[&str]) -> anyhow::Result<()> {
    let server = seabed::open(url).await?;
    for statement in statements {
        server.execute_unprepared(statement).await.with_context(|| (*statement).to_owned())?;
    }
    Ok(server.close().await?)
}

/// Returns the column `text` of the first row, if there is one.
async fn ask(url: &str, query: &str) -> anyhow::Result<Option<String>> {
    let server = seabed::open(url).await?;
    let query = Statement::from_string(server.get_database_backend(), query);
    let row = server.query_one_raw(query).await?;
    server.close().await?;
    Ok(row.map(|row| row.try_get("", "text")).transpose()?)
}

/// Asks one server after the other until one answers `answer`.
async fn until(urls: &[String], query: &str, answer: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        for url in urls {
            // A server that does not answer may do so later.
            let asked = tokio::time::timeout(Duration::from_secs(2), ask(url, query)).await;
            if matches!(asked, Ok(Ok(Some(text))) if text == answer) {
                return Ok(());
            }
        }
        ensure!(started.elapsed() < Duration::from_mins(3), "no server answers {query} with {answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until nothing listens at `port`.
async fn until_refused(port: u16) {
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
