//! Python environments, and the Python package of this repository in one of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use tokio::sync::OnceCell;

use crate::server::is_required;
use crate::{Peer, Unavailable};

/// The Python package `seabed-adk` with google-adk 2.13.
pub static BINDING: Binding = Binding { python: OnceCell::const_new() };

/// The Python package `seabed-adk`, in an environment that is created on first use.
#[derive(Debug)]
pub struct Binding {
    python: OnceCell<Result<PathBuf, Unavailable>>,
}

impl Binding {
    /// Returns the Python interpreter that has the package installed, built from the checkout.
    ///
    /// # Errors
    /// [`Unavailable`] if there is no Python, or the packages that it needs cannot be installed. If the package itself
    /// cannot be built, it is required all the same.
    pub async fn python(&'static self) -> Result<PathBuf, Unavailable> {
        let python = self.python.get_or_init(|| async {
            let installed = tokio::task::spawn_blocking(install).await;
            installed.unwrap_or_else(|error| Err(Unavailable { reason: error.to_string(), required: true }))
        });
        python.await.clone()
    }

    /// Starts google-adk with the package on the database at a Seabed URL, and with its own service.
    ///
    /// # Errors
    /// As for [`python`](Self::python), or if a process cannot be started.
    pub async fn start_both(&'static self, url: &str) -> anyhow::Result<(Peer, Peer)> {
        let python = self.python().await.map_err(|unavailable| anyhow::anyhow!(unavailable.reason))?;
        let seabed = Peer::start(&python, url, Some("seabed_adk.SeabedSessionService"))?;
        Ok((seabed, Peer::start(&python, url, None)?))
    }

    /// The folder of the package.
    pub fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("crates").join("python")
    }
}

fn install() -> Result<PathBuf, Unavailable> {
    let requirements = ["requirements-2.13.txt", "requirements-binding.txt"];
    let python = environment("seabed-adk", &requirements).map_err(|error| Unavailable {
        reason: format!("no google-adk, maturin and pytest (install python3-venv?): {error:#}"),
        required: is_required("google-adk"),
    })?;
    build(&python).map_err(|error| Unavailable { reason: format!("{error:#}"), required: true })?;
    Ok(python)
}

/// Builds the package, and installs it into the environment of `python`.
fn build(python: &Path) -> anyhow::Result<()> {
    let programs = python.parent().context("an environment without programs")?;
    let environment = programs.parent().context("an environment without folder")?;
    let mut maturin = Command::new(programs.join("maturin"));
    // What cargo says of the package of the tests would make it build its dependencies again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_MANIFEST_") || name.starts_with("CARGO_PKG_")) {
            maturin.env_remove(name);
        }
    }
    run(maturin.args(["develop", "--locked"]).env("VIRTUAL_ENV", environment).current_dir(Binding::folder()))
}

/// Creates an environment under `target`, unless it exists, and returns its interpreter. A copy of the requirements
/// marks a complete one.
pub(crate) fn environment(name: &str, requirements: &[&str]) -> anyhow::Result<PathBuf> {
    let files: Vec<PathBuf> = requirements.iter().map(|name| interop(name)).collect();
    let wanted: String = files.iter().map(fs::read_to_string).collect::<Result<_, _>>()?;
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target");
    let folder = target.join(name);
    let (marker, python) = (folder.join("requirements.txt"), folder.join("bin/python"));
    fs::create_dir_all(&target)?;
    // Keeps other test processes out until it is dropped.
    let lock = fs::File::create(target.join(format!("{name}.lock")))?;
    lock.lock()?;
    if fs::read_to_string(&marker).is_ok_and(|found| found == wanted) && python.exists() {
        return Ok(python);
    }
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    for file in files {
        install.arg("--requirement").arg(file);
    }
    run(&mut install)?;
    fs::write(&marker, wanted)?;
    Ok(python)
}

/// Returns the path of a file of the Python programs.
pub(crate) fn interop(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("interop").join(name)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    // venv prints its errors to standard output.
    let told = || [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&told()).trim());
    Ok(())
}
