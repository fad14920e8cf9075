//! Getting the servers: Docker where it answers, else the system's packages, unless `SEABED_SERVERS` chooses one.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::Kind;
use crate::source::Source;

/// The servers that this machine can have, after getting what is missing and can be installed.
pub(crate) fn get() -> anyhow::Result<Vec<Kind>> {
    let source = Source::from_environment()?;
    let docker = source.allows_docker() && docker_answers();
    let answer = match source {
        Source::Installed => "is not asked",
        Source::Any | Source::Docker if docker => "answers",
        Source::Any | Source::Docker => "does not answer",
    };
    let instead = if docker || !source.allows_installed() { "" } else { ": using server programs of this machine" };
    println!("Docker {answer}{instead}.");
    let available = || -> Vec<Kind> { Kind::ALL.into_iter().filter(|kind| can_have(*kind, source, docker)).collect() };
    let mut servers = available();
    if source.allows_installed() && install_missing(&servers)? {
        servers = available();
    }
    for kind in Kind::ALL.into_iter().filter(|kind| !servers.contains(kind)) {
        let (image, tag) = kind.image();
        let mut needed = Vec::new();
        if source.allows_docker() {
            needed.push(format!("Docker with the image {image}:{tag}"));
        }
        if source.allows_installed() {
            needed.push(format!("the package {}", kind.package()));
        }
        println!("{} will be ignored: needs {}, or a URL in {}.", kind.name(), needed.join(", "), kind.variable());
    }
    Ok(servers)
}

/// Installs the missing servers that Debian and Ubuntu package, or says which to install. Returns whether it installed
/// any.
fn install_missing(servers: &[Kind]) -> anyhow::Result<bool> {
    let from_packages = [(Kind::Postgres15, "postgresql"), (Kind::MariaDb, "mariadb-server")];
    let missing = from_packages.iter().filter(|(kind, _)| !servers.contains(kind));
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if packages.is_empty() {
        return Ok(false);
    }
    if !is_root() || !Path::new("/etc/debian_version").exists() {
        println!("To test on them, start Docker or install: {}.", packages.join(", "));
        return Ok(false);
    }
    install(&packages)?;
    Ok(true)
}

/// The top of the checkout.
pub(crate) fn workspace() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("no workspace")
}

fn can_have(kind: Kind, source: Source, docker: bool) -> bool {
    std::env::var_os(kind.variable()).is_some()
        || docker && has_image(kind)
        || source.allows_installed() && kind.program().is_some()
}

fn docker_answers() -> bool {
    succeeds(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]))
}

/// Whether the image is there or can be pulled.
fn has_image(kind: Kind) -> bool {
    let (image, tag) = kind.image();
    let image = format!("{image}:{tag}");
    succeeds(Command::new("docker").args(["image", "inspect", &image]))
        || succeeds(Command::new("docker").args(["pull", "--quiet", &image]))
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    println!("Installing {}.", packages.join(", "));
    let update = ["update", "--quiet"].as_slice();
    let install = [&["install", "--yes", "--quiet", "--no-install-recommends"], packages].concat();
    for arguments in [update, &install] {
        let status = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status();
        ensure!(status.context("apt-get cannot be run")?.success(), "apt-get {} failed", arguments.join(" "));
    }
    Ok(())
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
