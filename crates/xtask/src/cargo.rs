//! cargo, called by a program that cargo runs.

use std::process::Command;

/// What cargo tells a program that it runs about the package of that program.
const OF_THIS_PACKAGE: [&str; 2] = ["CARGO_MANIFEST_", "CARGO_PKG_"];

/// The cargo that runs this program, as a shell would call it. Build scripts (ring's) look at what it tells a program
/// of its package, so with that everything that depends on them would be built anew after each call from a shell, and
/// the other way round.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OF_THIS_PACKAGE.iter().any(|prefix| name.starts_with(prefix))) {
            cargo.env_remove(name);
        }
    }
    cargo
}
