//! Where servers come from: the variable `SEABED_SERVERS`.

use anyhow::bail;

/// The variable of the environment.
const VARIABLE: &str = "SEABED_SERVERS";

/// Where to get a server that has no URL in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Docker if it answers, otherwise the programs installed on this machine.
    Any,
    /// Docker alone.
    Docker,
    /// The programs installed on this machine alone. Docker is not asked.
    Installed,
}

impl Source {
    /// What `SEABED_SERVERS` says.
    ///
    /// # Errors
    /// When it holds something else than `docker`, `installed` or nothing.
    pub fn from_environment() -> anyhow::Result<Self> {
        Ok(match std::env::var_os(VARIABLE).unwrap_or_default().to_str() {
            Some("") => Self::Any,
            Some("docker") => Self::Docker,
            Some("installed") => Self::Installed,
            _ => bail!("{VARIABLE} must be `docker` or `installed`, or unset"),
        })
    }

    /// Whether a container may be started.
    pub fn allows_docker(self) -> bool {
        self != Self::Installed
    }

    /// Whether an installed program may be started.
    pub fn allows_installed(self) -> bool {
        self != Self::Docker
    }
}
