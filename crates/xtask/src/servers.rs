//! Getting the servers: Docker where it answers, else the system's packages.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::Kind;

/// The servers that this machine can have, after getting what is missing and can be installed.
pub(crate) fn get() -> anyhow::Result<Vec<Kind>> {
    let docker = docker_answers();
    println!("Docker {}.", if docker { "answers" } else { "does not answer: using server programs of this machine" });
    let mut available: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| can_have(*kind, docker)).collect();
    let missing = |available: &[Kind], kind: Kind| !available.contains(&kind);
    // The two that Debian and Ubuntu have packages of.
    let from_packages = [(Kind::Postgres15, "postgresql"), (Kind::MariaDb, "mariadb-server")];
    let packages: Vec<&str> =
        from_packages.iter().filter(|(kind, _)| missing(&available, *kind)).map(|(_, package)| *package).collect();
    if !packages.is_empty() {
        if is_root() && Path::new("/etc/debian_version").exists() {
            install(&packages)?;
            available = Kind::ALL.into_iter().filter(|kind| can_have(*kind, docker)).collect();
        } else {
            println!("To test on them, start Docker or install: {}.", packages.join(", "));
        }
    }
    for kind in Kind::ALL.into_iter().filter(|kind| missing(&available, *kind)) {
        let (image, tag) = kind.image();
        println!(
            "{} will be ignored: needs Docker with the image {image}:{tag}, the package {}, or a URL in {}.",
            kind.name(),
            kind.package(),
            kind.variable()
        );
    }
    Ok(available)
}

/// The top of the checkout.
pub(crate) fn workspace() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("no workspace")
}

fn can_have(kind: Kind, docker: bool) -> bool {
    std::env::var_os(kind.variable()).is_some() || docker && has_image(kind) || kind.program().is_some()
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
