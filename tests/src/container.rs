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
pub(crate) async fn start(kind: Kind) -> anyhow::Result<(ContainerAsync<GenericImage>, String)> {
    let (image, tag) = kind.image();
    let (port, variables) = match kind {
        Kind::Postgres15 | Kind::Postgres18 => (5432, ["POSTGRES_PASSWORD"].as_slice()),
        Kind::MySql9 => (3306, ["MYSQL_ROOT_PASSWORD"].as_slice()),
        Kind::MariaDb => (3306, ["MARIADB_ROOT_PASSWORD"].as_slice()),
    };
    let image = GenericImage::new(image, tag).with_mapped_port(free_port()?, port.tcp());
    let image = variables.iter().fold(image, |image, variable| image.with_env_var(*variable, ADMIN_PASSWORD));
    let container = image.start().await?;
    let address = format!("{}:{}", container.get_host().await?, container.get_host_port_ipv4(port.tcp()).await?);
    let url = match kind.family() {
        Family::Postgres => format!("postgres://postgres:{ADMIN_PASSWORD}@{address}/postgres"),
        Family::MySql => format!("mysql://root:{ADMIN_PASSWORD}@{address}/mysql"),
    };
    Ok((container, url))
}

/// Kills the server and restarts it on the same data.
pub(crate) async fn kill_and_restart(container: &ContainerAsync<GenericImage>) -> anyhow::Result<()> {
    for command in ["kill", "start"] {
        let done = Command::new("docker").args([command, container.id()]).output().await?;
        ensure!(done.status.success(), "docker {command}: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}
