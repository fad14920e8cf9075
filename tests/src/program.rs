//! Servers installed on this machine, run on their own data directory and loopback port.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::installed::candidates;
use crate::server::ADMIN_PASSWORD;
use crate::{Family, Kind};

/// A running server. This process holds a pipe to the server's supervisor. When the pipe closes, by
/// [`stop`](Program::stop) or because this process is killed, the supervisor ends the server and removes its data.
#[derive(Debug)]
pub(crate) struct Program {
    supervisor: Child,
    data: Option<TempDir>,
}

/// Runs "$2"… until standard input closes, then ends it with signal $0 and removes the folder $1. Meanwhile it follows
/// orders, one a line: `kill` the server, including the processes that serve its connections and a PostgreSQL server
/// that it has started, and `start` it again.
const SUPERVISE: &str = r#"folder=$1; shift; "$@" &
while read -r order; do case $order in
kill) for parent in $! $(head -n 1 "$folder"/data/postmaster.pid); do
    kill -s KILL $(pgrep -P $parent) $parent
done; wait $! ;;
start) sleep 0.2; "$@" & ;;
esac; done
kill -s "$0" $!; wait; rm -rf "$folder"/*"#;

impl Program {
    /// Starts the newest installed server of `kind`, and returns the administrator's URL. The server may not accept
    /// connections yet.
    pub(crate) async fn start(kind: Kind, arguments: &[String]) -> anyhow::Result<(Self, String)> {
        let program = kind.program().with_context(|| format!("{} is not installed", kind.package()))?;
        let arguments = arguments.iter().map(PathBuf::from);
        match kind.family() {
            Family::Postgres => Self::postgres(&program, arguments).await,
            Family::MySql => Self::mysql(&program, kind, arguments).await,
        }
    }

    async fn postgres(postgres: &Path, more: impl Iterator<Item = PathBuf>) -> anyhow::Result<(Self, String)> {
        let account = Account::postgres();
        let folder = account.folder()?;
        let password = folder.path().join("password");
        std::fs::write(&password, ADMIN_PASSWORD)?;
        let mut initialize = account.command(postgres.with_file_name("initdb"));
        initialize.args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]);
        initialize.arg("--pwfile").arg(&password).arg("--pgdata").arg(folder.path().join("data"));
        run(initialize).await?;
        let port = free_port()?;
        let program = Self::postgres_on_data(postgres, folder, port, more)?;
        Ok((program, format!("postgres://postgres:{ADMIN_PASSWORD}@127.0.0.1:{port}/postgres")))
    }

    /// Starts PostgreSQL on the data in the folder's `data`.
    pub(crate) fn postgres_on_data(
        postgres: &Path,
        folder: TempDir,
        port: u16,
        more: impl Iterator<Item = PathBuf>,
    ) -> anyhow::Result<Self> {
        let arguments = ["-h", "127.0.0.1", "-p", &port.to_string(), "-k"].map(PathBuf::from);
        let own = [folder.path().to_owned(), "-D".into(), folder.path().join("data")];
        Account::postgres().supervise("QUIT", folder, postgres, arguments.into_iter().chain(own).chain(more))
    }

    async fn mysql(server: &Path, kind: Kind, more: impl Iterator<Item = PathBuf>) -> anyhow::Result<(Self, String)> {
        let account = Account::of(&["mysql", "nobody"]);
        let folder = account.folder()?;
        let data = folder.path().join("data");
        let datadir = format!("--datadir={}", data.display());
        let mut initialize = if kind == Kind::MariaDb {
            let install = candidates("mariadb-install-db").into_iter().next().context("no `mariadb-install-db`")?;
            let mut initialize = account.command(install);
            initialize.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
            initialize
        } else {
            let mut initialize = account.command(server);
            initialize.args(["--no-defaults", "--initialize-insecure"]);
            initialize
        };
        initialize.arg(&datadir);
        run(initialize).await?;
        let admin = folder.path().join("admin.sql");
        std::fs::write(
            &admin,
            format!(
                "CREATE USER 'admin'@'%' IDENTIFIED BY '{ADMIN_PASSWORD}';\n\
                 GRANT ALL ON *.* TO 'admin'@'%' WITH GRANT OPTION;\n"
            ),
        )?;
        let port = free_port()?;
        let arguments = [
            "--no-defaults".to_owned(),
            datadir,
            "--skip-name-resolve".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--port={port}"),
            format!("--socket={}", folder.path().join("socket").display()),
            format!("--pid-file={}", folder.path().join("pid").display()),
            format!("--init-file={}", admin.display()),
        ];
        // The server reads no configuration file, so this machine's does not matter, and without one MariaDB 10.11
        // makes latin1 tables. Debian's packages and the official image configure utf8mb4.
        let character_set: &[&str] = match kind {
            Kind::MariaDb => &["--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci"],
            _ => &[],
        };
        let arguments = arguments.into_iter().chain(character_set.iter().map(|argument| (*argument).to_owned()));
        let program = account.supervise("KILL", folder, server, arguments.map(PathBuf::from).chain(more))?;
        Ok((program, format!("mysql://admin:{ADMIN_PASSWORD}@127.0.0.1:{port}/mysql")))
    }

    /// Kills the server and restarts it on the same data.
    pub(crate) async fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        self.order("kill").await?;
        self.order("start").await
    }

    /// Gives an order to the supervisor, which follows it soon.
    pub(crate) async fn order(&mut self, order: &str) -> anyhow::Result<()> {
        let supervisor = self.supervisor.stdin.as_mut().context("the server was stopped")?;
        supervisor.write_all(format!("{order}\n").as_bytes()).await?;
        Ok(supervisor.flush().await?)
    }

    /// Ends the server and removes its data.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.supervisor.stdin.take());
        self.supervisor.wait().await?;
        drop(self.data.take());
        Ok(())
    }
}

/// The account that runs the server. PostgreSQL refuses to run as root, so root uses another account.
pub(crate) struct Account(Option<&'static str>);

impl Account {
    pub(crate) fn postgres() -> Self {
        Self::of(&["postgres", "nobody"])
    }

    pub(crate) fn of(preferred: &[&'static str]) -> Self {
        let root = std::fs::read_to_string("/proc/self/status")
            .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")));
        let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let exists = |name: &&&str| accounts.lines().any(|line| line.starts_with(&format!("{name}:")));
        Self(preferred.iter().find(exists).copied().filter(|_| root))
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match self.0 {
            Some(account) => {
                let mut command = Command::new("runuser");
                command.args(["-u", account, "--"]).arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// Creates a folder owned by the account.
    pub(crate) fn folder(&self) -> anyhow::Result<TempDir> {
        let folder = tempfile::Builder::new().prefix("seabed-server-").tempdir()?;
        if let Some(account) = self.0 {
            let owned = std::process::Command::new("chown").arg(account).arg(folder.path()).status()?;
            anyhow::ensure!(owned.success(), "chown failed");
        }
        Ok(folder)
    }

    pub(crate) fn supervise(
        &self,
        signal: &str,
        folder: TempDir,
        server: &Path,
        arguments: impl Iterator<Item = PathBuf>,
    ) -> anyhow::Result<Program> {
        let log = std::fs::File::create(folder.path().join("log"))?;
        let supervisor = self
            .command("sh")
            .args(["-c", SUPERVISE, signal])
            .arg(folder.path())
            .arg(server)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir(folder.path())
            // Ctrl-C is for this program: the supervisor cleans up when its input ends.
            .process_group(0)
            .spawn()?;
        Ok(Program { supervisor, data: Some(folder) })
    }
}

pub(crate) async fn run(mut command: Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).current_dir("/").output().await?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
