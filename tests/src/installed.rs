//! Database servers installed on this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Kind;

impl Kind {
    /// Returns the newest installed server program of this kind.
    pub fn program(self) -> Option<PathBuf> {
        let (name, fits): (&str, fn(&str) -> bool) = match self {
            Self::Postgres15 => ("postgres", |version| major(version).is_some_and(|major| (15..18).contains(&major))),
            Self::Postgres18 => ("postgres", |version| major(version).is_some_and(|major| major >= 18)),
            Self::MySql9 => ("mysqld", |version| !version.contains("MariaDB") && version.contains("Ver 9.")),
            Self::MariaDb => ("mariadbd", |version| version.contains("MariaDB")),
        };
        let programs = candidates(name).into_iter().filter_map(|program| Some((version(&program)?, program)));
        programs.filter(|(version, _)| fits(version)).max_by_key(|(version, _)| major(version)).map(|(_, path)| path)
    }
}

/// Returns the paths where a program may be: the search path, and Debian's folders outside it.
pub(crate) fn candidates(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/usr/local/sbin", "/usr/libexec"].map(PathBuf::from));
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
    }
    let mut programs: Vec<_> = folders.iter().filter_map(|folder| folder.join(name).canonicalize().ok()).collect();
    programs.sort();
    programs.dedup();
    programs
}

fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// Returns the first number in a version string.
fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).find_map(|word| word.parse().ok())
}
