//! cargo, called by a program that cargo runs.

use std::ffi::OsString;
use std::process::Command;

/// What cargo tells a program that it runs about the package of that program.
const OF_THIS_PACKAGE: [&str; 2] = ["CARGO_MANIFEST_", "CARGO_PKG_"];

/// The cargo that runs this program, as a shell would call it. Build scripts (ring's) look at what it tells a program
/// of its package, so with that everything that depends on them would be built anew after each call from a shell, and
/// the other way round.
pub(crate) fn cargo() -> Command {
    without_package(Command::new(path()))
}

/// The same, ended after `limit` seconds together with what it runs. Needs the program `timeout` of the GNU coreutils,
/// which then exits with [`TIMED_OUT`].
pub(crate) fn cargo_within(limit: u32) -> Command {
    let mut timeout = Command::new("timeout");
    timeout.arg(limit.to_string()).arg(path());
    without_package(timeout)
}

/// The exit code of [`cargo_within`] past its limit.
pub(crate) const TIMED_OUT: i32 = 124;

fn path() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn without_package(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OF_THIS_PACKAGE.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command
}
