//! Database servers in Docker containers.

use anyhow::ensure;
use testcontainers::core::IntoContainerPort;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, ContainerRequest, GenericImage, ImageExt};
use tokio::process::Command;

use crate::program::free_port;
use crate::server::ADMIN_PASSWORD;
use crate::{Family, Kind};

/// The official image, with arguments of its server.
fn image(kind: Kind, arguments: &[String]) -> ContainerRequest<GenericImage> {
    let (image, tag) = kind.image();
    // Any text skips the time zones, which no case needs and which take seconds to load.
    let variables: &[&str] = match kind {
        Kind::Postgres15 | Kind::Postgres18 => &["POSTGRES_PASSWORD"],
        Kind::MySql9 => &["MYSQL_ROOT_PASSWORD", "MYSQL_INITDB_SKIP_TZINFO"],
        Kind::MariaDb => &["MARIADB_ROOT_PASSWORD", "MARIADB_INITDB_SKIP_TZINFO"],
    };
    let image = GenericImage::new(image, tag).with_cmd(arguments);
    variables.iter().fold(image, |image, variable| image.with_env_var(*variable, ADMIN_PASSWORD))
}

/// Starts a container of the official image, and returns the administrator's URL. The server may not accept connections
/// yet. Its port stays the same after a restart.
pub(crate) async fn start(kind: Kind, arguments: &[String]) -> anyhow::Result<(ContainerAsync<GenericImage>, String)> {
    let port = kind.family().port();
    let container = image(kind, arguments).with_mapped_port(free_port()?, port.tcp()).start().await?;
    let address = format!("{}:{}", container.get_host().await?, container.get_host_port_ipv4(port.tcp()).await?);
    let url = match kind.family() {
        Family::Postgres => format!("postgres://postgres:{ADMIN_PASSWORD}@{address}/postgres"),
        Family::MySql => format!("mysql://root:{ADMIN_PASSWORD}@{address}/mysql"),
    };
    Ok((container, url))
}

/// Starts a container on the network of this machine, so that servers can reach each other at addresses that stay.
pub(crate) async fn start_on_host(kind: Kind, arguments: &[String]) -> anyhow::Result<ContainerAsync<GenericImage>> {
    Ok(image(kind, arguments).with_network("host").start().await?)
}

/// Kills the server.
pub(crate) async fn kill(container: &ContainerAsync<GenericImage>) -> anyhow::Result<()> {
    docker(&["kill", container.id()]).await.map(drop)
}

/// Starts the server that was killed on the same data.
pub(crate) async fn restart(container: &ContainerAsync<GenericImage>) -> anyhow::Result<()> {
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
