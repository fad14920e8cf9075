//! PgBouncer in front of a PostgreSQL server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpStream;
use url::{Url, form_urlencoded};

use crate::Unavailable;
use crate::installed::candidates;
use crate::program::{Account, Program, free_port};
use crate::server::is_required;

/// A running PgBouncer, the one that is installed on this machine. It ends when it is dropped.
#[derive(Debug)]
pub struct PgBouncer {
    program: Program,
    url: Url,
}

impl PgBouncer {
    /// Returns the installed program.
    ///
    /// # Errors
    /// [`Unavailable`] if there is none.
    pub fn find() -> Result<PathBuf, Unavailable> {
        candidates("pgbouncer").into_iter().next().ok_or_else(|| Unavailable {
            reason: "PgBouncer is not installed (Debian: pgbouncer)".to_owned(),
            required: is_required("pgbouncer"),
        })
    }

    /// Starts PgBouncer for the database and the account of `url`. It pools sessions, or with `mode` "transaction" the
    /// transactions of all clients, without keeping their prepared statements apart.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn start(url: &str, mode: &str) -> anyhow::Result<Self> {
        let program = Self::find().map_err(|unavailable| anyhow::anyhow!(unavailable.reason))?;
        let mut url = Url::parse(url)?;
        let password = url.password().unwrap_or_default().replace('+', "%2B");
        let password = form_urlencoded::parse(password.as_bytes()).next().map(|(text, _)| text.into_owned());
        let (account, port) = (Account::postgres(), free_port()?);
        let folder = account.folder()?;
        let configuration = folder.path().join("pgbouncer.ini");
        std::fs::write(
            &configuration,
            format!(
                "[databases]\n* = host={} port={} user={} password='{}'\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
                 ignore_startup_parameters = extra_float_digits\n",
                url.host_str().context("a URL without host")?,
                url.port().unwrap_or(5432),
                url.username(),
                password.unwrap_or_default(),
            ),
        )?;
        let program = account.supervise("TERM", folder, &program, [configuration].into_iter())?;
        url.set_host(Some("127.0.0.1"))?;
        url.set_port(Some(port)).map_err(|()| anyhow::anyhow!("a URL without port"))?;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { program, url })
    }

    /// The URL of the database through PgBouncer.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Stops it.
    ///
    /// # Errors
    /// If that fails.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.program.stop().await
    }
}
