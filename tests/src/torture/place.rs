//! Where a run takes place, and how its server is killed.

use anyhow::{Context as _, ensure};
use seabed::sea_orm::DatabaseConnection;
use tempfile::TempDir;
use tokio::process::Command;

use super::Plan;
use super::history::now;
use super::outages::Kill;
use crate::cluster::Cluster;
use crate::server::wait_until_ready;
use crate::{Database, Kind, Proxy, Server, Setup};

/// The database of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// SQLite in a file.
    File,
    /// A server.
    Server(Kind),
    /// A cluster.
    Cluster(Setup),
}

impl Target {
    /// Returns the target of that name.
    pub fn named(name: &str) -> Option<Self> {
        let servers = Kind::ALL.map(Self::Server).into_iter();
        let clusters = Setup::ALL.map(Self::Cluster).into_iter();
        [Self::File].into_iter().chain(servers).chain(clusters).find(|target| target.name() == name)
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "sqlite_file",
            Self::Server(kind) => kind.name(),
            Self::Cluster(setup) => setup.name(),
        }
    }
}

pub(crate) struct Place {
    home: Home,
    pub(crate) admin_url: String,
    pub(crate) service_url: String,
    /// Between the service and its server. There is none where the service knows several addresses.
    pub(crate) proxy: Option<Proxy>,
    pub(crate) version: String,
    kill_command: Option<String>,
    pub(crate) kills: Vec<Kill>,
}

enum Home {
    File(TempDir),
    Server(Box<Server>),
    Cluster(Box<Cluster>, Database),
}

impl Home {
    async fn make(target: Target) -> anyhow::Result<Self> {
        match target {
            Target::File => {
                let home = Self::File(tempfile::tempdir()?);
                let database = seabed::open(&home.admin_url()?).await?;
                seabed::migrate(&database).await?;
                database.close().await?;
                Ok(home)
            }
            Target::Server(kind) => {
                let server = Server::start(kind).await?;
                server.database().migrate().await?;
                Ok(Self::Server(Box::new(server)))
            }
            Target::Cluster(setup) => {
                let cluster = Cluster::start(setup).await?;
                let database = Database::create(setup.family(), &cluster.admin_url()).await?;
                database.migrate().await?;
                Ok(Self::Cluster(Box::new(cluster), database))
            }
        }
    }

    fn database(&self) -> Option<&Database> {
        match self {
            Self::File(_) => None,
            Self::Server(server) => Some(server.database()),
            Self::Cluster(_, database) => Some(database),
        }
    }

    fn admin_url(&self) -> anyhow::Result<String> {
        match self {
            Self::File(folder) => Ok(format!("sqlite://{}?mode=rwc", folder.path().join("seabed.db").display())),
            Self::Server(server) => server.database().admin_url(),
            Self::Cluster(_, database) => database.admin_url(),
        }
    }

    async fn version(&self) -> anyhow::Result<String> {
        match self {
            Self::File(_) => Ok("in a file".to_owned()),
            Self::Server(server) => Ok(server.version().to_owned()),
            Self::Cluster(cluster, _) => wait_until_ready(&cluster.admin_url()).await,
        }
    }
}

impl Place {
    pub(crate) async fn make(plan: &Plan) -> anyhow::Result<Self> {
        let home = Home::make(plan.target).await?;
        let has_kill_command = plan.kill_command.is_some();
        ensure!(!has_kill_command || matches!(home, Home::Server(_)), "only a server is killed by a command");
        let (admin_url, version) = (home.admin_url()?, home.version().await?);
        let url = home.database().map_or_else(|| Ok(admin_url.clone()), Database::service_url)?;
        let (proxy, service_url) = match &home {
            Home::File(_) => (None, url),
            Home::Cluster(cluster, _) if !cluster.has_one_address() => (None, cluster.service_url(&url)),
            Home::Server(_) | Home::Cluster(..) => {
                let family = if url.starts_with("postgres") { crate::Family::Postgres } else { crate::Family::MySql };
                let (proxy, url) = Proxy::tunnel(family, &url).await?;
                (Some(proxy), url)
            }
        };
        let kill_command = plan.kill_command.clone();
        Ok(Self { home, admin_url, service_url, proxy, version, kill_command, kills: Vec::new() })
    }

    /// The account of the service; `None` for a file.
    pub(crate) fn account(&self) -> Option<&str> {
        self.home.database().map(Database::account)
    }

    /// Whether [`kill_server`](Self::kill_server) is possible.
    pub(crate) fn can_kill(&self) -> bool {
        self.kill_command.is_some()
            || match &self.home {
                Home::File(_) => false,
                Home::Server(server) => server.is_ours(),
                Home::Cluster(..) => true,
            }
    }

    /// Kills the server, and waits until it is back, or another is in its place and the next may be killed.
    pub(crate) async fn kill_server(&mut self) -> anyhow::Result<()> {
        let mut killed = now();
        if let Some(command) = &self.kill_command {
            let ended = Command::new("sh").args(["-c", command]).status().await.context("sh cannot be run")?;
            ensure!(ended.success(), "`{command}` failed");
            wait_until_ready(&self.admin_url).await?;
        } else {
            match &mut self.home {
                Home::File(_) => anyhow::bail!("a file has no server"),
                Home::Server(server) => server.kill_and_restart().await?,
                Home::Cluster(cluster, _) => {
                    let primary = cluster.primary().await?;
                    killed = now();
                    cluster.kill(primary).await?;
                }
            }
        }
        self.kills.push(Kill { killed, ready: now() });
        match &mut self.home {
            Home::Cluster(cluster, _) if self.kill_command.is_none() => cluster.heal().await,
            _ => Ok(()),
        }
    }

    /// Opens a pool as the administrator, once the server takes connections.
    pub(crate) async fn admin(&self) -> anyhow::Result<DatabaseConnection> {
        if self.account().is_some() {
            wait_until_ready(&self.admin_url).await?;
        }
        Ok(seabed::open(&self.admin_url).await?)
    }

    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        match self.home {
            Home::File(folder) => Ok(folder.close()?),
            Home::Server(server) => server.stop().await,
            Home::Cluster(cluster, _) => cluster.stop().await,
        }
    }
}
