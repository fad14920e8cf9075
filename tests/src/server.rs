//! One server of each kind for a whole run.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use seabed::sea_orm::{ConnectionTrait, DbBackend, Statement};
use testcontainers::{ContainerAsync, GenericImage};
use tokio::sync::OnceCell;

use crate::program::Program;
use crate::{Database, Kind, Source, container};

/// The administrator's password on servers that the harness starts.
pub(crate) const ADMIN_PASSWORD: &str = "harness-admin";
/// How long a server may take to start, on a slow machine.
const START_TIMEOUT: Duration = Duration::from_mins(3);

/// Why no server of a kind, or no google-adk, is available.
#[derive(Debug, Clone)]
pub struct Unavailable {
    /// What was tried, and what to install.
    pub reason: String,
    /// Whether `SEABED_REQUIRE` names it, so that its cases fail.
    pub required: bool,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error for Unavailable {}

/// The servers, each started on first use.
#[derive(Debug)]
pub struct Servers(HashMap<Kind, OnceCell<Result<Server, Unavailable>>>);

/// A running server.
#[derive(Debug)]
pub struct Server {
    version: String,
    origin: Origin,
    /// The database of this process.
    database: Arc<Database>,
}

/// Where a server came from, and what to stop.
#[derive(Debug)]
enum Origin {
    Environment(String),
    Container(Box<ContainerAsync<GenericImage>>),
    Program(Program),
}

impl Default for Servers {
    fn default() -> Self {
        Self(Kind::ALL.map(|kind| (kind, OnceCell::new())).into())
    }
}

impl Servers {
    /// Returns the database of this process on the server of `kind`.
    ///
    /// # Errors
    /// [`Unavailable`] if no such server is available.
    pub async fn database(&self, kind: Kind) -> Result<Arc<Database>, Unavailable> {
        let server = self.0[&kind].get_or_init(|| async {
            let source = Source::from_environment()
                .map_err(|error| Unavailable { reason: format!("{error:#}"), required: true })?;
            Server::find(kind, source, &[])
                .await
                .map_err(|error| Unavailable { reason: format!("{error:#}"), required: required(kind) })
        });
        server.await.as_ref().map(|server| server.database.clone()).map_err(Clone::clone)
    }

    /// Returns the version and origin of the server of `kind`, if it was used.
    pub fn describe(&self, kind: Kind) -> Option<(String, String)> {
        Some(match self.0[&kind].get()? {
            Ok(server) => (server.version.clone(), server.origin.describe(kind)),
            Err(unavailable) => ("none".to_owned(), unavailable.reason.clone()),
        })
    }

    /// Removes the databases of this process, and stops the servers that it started.
    ///
    /// # Errors
    /// The first failure, after everything else was removed and stopped.
    pub async fn stop(self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        for server in self.0.into_values().filter_map(OnceCell::into_inner).flatten() {
            outcome = outcome.and(server.stop().await);
        }
        outcome
    }
}

/// Whether `SEABED_REQUIRE` names `kind`, or there is a URL for it, which then must work.
fn required(kind: Kind) -> bool {
    std::env::var_os(kind.variable()).is_some() || is_required(kind.name())
}

/// Whether the comma-separated list `SEABED_REQUIRE` contains `all` or `name`.
pub(crate) fn is_required(name: &str) -> bool {
    let required = std::env::var("SEABED_REQUIRE").unwrap_or_default();
    required.split(',').map(str::trim).any(|required| required == "all" || required == name)
}

impl Server {
    /// Starts a server that nothing else uses, so that it can be killed.
    ///
    /// # Errors
    /// If none is available.
    pub async fn start(kind: Kind) -> anyhow::Result<Self> {
        Self::find(kind, Source::from_environment()?, &[]).await
    }

    /// Starts a server whose settings may be changed, and which may be restarted.
    ///
    /// # Errors
    /// If none is available. [`Unavailable`] where a URL in the environment names the server.
    pub async fn start_own(kind: Kind) -> anyhow::Result<Self> {
        Self::start_own_with(kind, &[]).await
    }

    /// Like [`start_own`](Self::start_own), with further arguments of the server program.
    ///
    /// # Errors
    /// Those of [`start_own`](Self::start_own).
    pub async fn start_own_with(kind: Kind, arguments: &[String]) -> anyhow::Result<Self> {
        if std::env::var_os(kind.variable()).is_some() {
            let reason = "the server of the environment is not changed or restarted".to_owned();
            return Err(Unavailable { reason, required: false }.into());
        }
        Self::find(kind, Source::from_environment()?, arguments).await
    }

    /// The address at which other containers reach the server, which is in one as well.
    ///
    /// # Errors
    /// [`Unavailable`] where it is in none; that of Docker.
    pub async fn address_for_containers(&self) -> anyhow::Result<String> {
        match &self.origin {
            Origin::Container(container) => container::address(container).await,
            Origin::Environment(_) | Origin::Program(_) => {
                let reason = "servers that are to reach each other need Docker".to_owned();
                Err(Unavailable { reason, required: is_required("docker") }.into())
            }
        }
    }

    /// Returns the database of this process.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The URL of an account that may make databases and users.
    pub fn url(&self) -> &str {
        self.database.server_url()
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether [`kill_and_restart`](Self::kill_and_restart) is possible.
    pub fn is_ours(&self) -> bool {
        !matches!(self.origin, Origin::Environment(_))
    }

    /// Kills the server, restarts it on the same data, and waits until it replies.
    ///
    /// # Errors
    /// If this process did not start the server, or the server does not restart.
    pub async fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        match &mut self.origin {
            Origin::Environment(variable) => anyhow::bail!("the server of {variable} is not ours to kill"),
            Origin::Container(container) => {
                container::kill(container).await?;
                container::restart(container).await?;
            }
            Origin::Program(program) => program.kill_and_restart().await?,
        }
        wait_until_ready(&self.database.admin_url()?).await.map(drop)
    }

    /// Removes the database of this process, and stops the server if this process started it.
    ///
    /// # Errors
    /// If that fails.
    pub async fn stop(self) -> anyhow::Result<()> {
        match self.origin {
            Origin::Environment(_) => self.database.remove().await,
            Origin::Container(container) => container.rm().await.map_err(Into::into),
            Origin::Program(program) => program.stop().await,
        }
    }

    async fn find(kind: Kind, source: Source, arguments: &[String]) -> anyhow::Result<Self> {
        let (origin, url) = match std::env::var(kind.variable()) {
            Ok(url) => (Origin::Environment(kind.variable()), url),
            Err(_) => Origin::start(kind, source, arguments).await?,
        };
        let version = wait_until_ready(&url).await.with_context(|| format!("{} did not start", kind.name()))?;
        let database = Arc::new(Database::create(kind.family(), &url).await?);
        Ok(Self { version, origin, database })
    }
}

impl Origin {
    /// Starts a server from where `source` allows it, and gives the URL of its administrator.
    async fn start(kind: Kind, source: Source, arguments: &[String]) -> anyhow::Result<(Self, String)> {
        let docker = if source.allows_docker() {
            match container::start(kind, arguments).await {
                Ok((container, url)) => return Ok((Self::Container(Box::new(container)), url)),
                Err(error) => format!("no container ({error:#})"),
            }
        } else {
            "SEABED_SERVERS excludes Docker".to_owned()
        };
        let variable = kind.variable();
        if !source.allows_installed() {
            anyhow::bail!("{docker}, SEABED_SERVERS excludes installed servers, and there is no {variable}");
        }
        let started = Program::start(kind, arguments).await;
        let (program, url) = started.with_context(|| format!("{docker}, and there is no {variable}"))?;
        Ok((Self::Program(program), url))
    }

    fn describe(&self, kind: Kind) -> String {
        match self {
            Self::Environment(variable) => format!("URL in {variable}"),
            Self::Container(_) => {
                let (image, tag) = kind.image();
                format!("Docker, image {image}:{tag}")
            }
            Self::Program(_) => "program of this machine".to_owned(),
        }
    }
}

/// Queries the version until there is a reply.
pub(crate) async fn wait_until_ready(url: &str) -> anyhow::Result<String> {
    let started = Instant::now();
    loop {
        match version(url).await {
            Ok(version) => return Ok(version),
            Err(error) if started.elapsed() > START_TIMEOUT => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

async fn version(url: &str) -> anyhow::Result<String> {
    let connection = seabed::open(url).await?;
    let query = match connection.get_database_backend() {
        // A node that has yet to join its cluster answers only what needs no table.
        DbBackend::MySql => "SELECT VERSION() AS version, (SELECT COUNT(*) FROM mysql.db) AS accounts",
        _ => "SELECT VERSION() AS version",
    };
    let version = Statement::from_string(connection.get_database_backend(), query);
    let row = connection.query_one_raw(version).await?.context("no version")?;
    let version: String = row.try_get("", "version")?;
    connection.close().await?;
    let numbered = version.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    Ok(numbered.unwrap_or(&version).to_owned())
}
