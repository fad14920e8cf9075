//! Database servers in Docker containers.

use anyhow::ensure;
use testcontainers::core::IntoContainerPort;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};
use tokio::process::Command;

use crate::program::free_port;
use crate::server::ADMIN_PASSWORD;
use crate::{Family, Kind};

/// Starts a container of the official image, and returns the administrator's URL. The server may not accept connections
/// yet. Its port stays the same after a restart.
pub(crate) async fn start(kind: Kind, arguments: &[String]) -> anyhow::Result<(ContainerAsync<GenericImage>, String)> {
    let (image, tag) = kind.image();
    // Any text skips the time zones, which no case needs and which take seconds to load.
    let (port, variables) = match kind {
        Kind::Postgres15 | Kind::Postgres18 => (5432, ["POSTGRES_PASSWORD"].as_slice()),
        Kind::MySql9 => (3306, ["MYSQL_ROOT_PASSWORD", "MYSQL_INITDB_SKIP_TZINFO"].as_slice()),
        Kind::MariaDb => (3306, ["MARIADB_ROOT_PASSWORD", "MARIADB_INITDB_SKIP_TZINFO"].as_slice()),
    };
    let image = GenericImage::new(image, tag).with_mapped_port(free_port()?, port.tcp());
    let image = variables.iter().fold(image, |image, variable| image.with_env_var(*variable, ADMIN_PASSWORD));
    let container = image.with_cmd(arguments).start().await?;
    let address = format!("{}:{}", container.get_host().await?, container.get_host_port_ipv4(port.tcp()).await?);
    let url = match kind.family() {
        Family::Postgres => format!("postgres://postgres:{ADMIN_PASSWORD}@{address}/postgres"),
        Family::MySql => format!("mysql://root:{ADMIN_PASSWORD}@{address}/mysql"),
    };
    Ok((container, url))
}

/// Kills the server and restarts it on the same data.
pub(crate) async fn kill_and_restart(container: &ContainerAsync<GenericImage>) -> anyhow::Result<()> {
    docker(&["kill", container.id()]).await?;
    docker(&["start", container.id()]).await.map(drop)
}

/// The address at which other containers reach it. testcontainers knows it only for networks that it has made.
pub(crate) async fn address(container: &ContainerAsync<GenericImage>) -> anyhow::Result<String> {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    Ok(docker(&["inspect", "--format", format, container.id()]).await?.trim().to_owned())
}

/// Runs a command, and returns what it printed.
async fn docker(arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new("docker").args(arguments).output().await?;
    ensure!(done.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}
