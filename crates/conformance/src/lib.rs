//! The laws of a session service, as a test suite that any implementation of
//! [`SessionService`](seabed_core::SessionService) can run.
//!
//! One case has one name, and the name is the law it checks. A third party runs all of them so, in a test with
//! `harness = false`:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use seabed_conformance::{Opened, Target};
//! use seabed_core::MemorySessionService;
//!
//! fn main() -> std::process::ExitCode {
//!     let service = MemorySessionService::new();
//!     seabed_conformance::run([Target::new("my_store", move || {
//!         let service = service.clone();
//!         async move { Ok(Opened::Service(Arc::new(service))) }
//!     })])
//! }
//! ```
//!
//! Cases use apps of their own, so one database serves all of them, one after the other or at once. `cargo test --
//! NAME` runs the cases whose name holds `NAME`. A suite with cases of its own makes its trials out of [`cases()`].

mod cases;
mod context;
mod target;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

pub use cases::{Case, cases};
use context::Context;
pub use target::{Opened, Target};

/// Runs every case on every target, as the arguments of the command line say (those of `cargo test`).
///
/// # Panics
/// When the operating system gives no threads to run on.
pub fn run(targets: impl IntoIterator<Item = Target>) -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = Arc::new(Runtime::new().expect("a runtime for the tests"));
    let mut trials = Vec::new();
    for target in targets {
        for case in cases() {
            let (target, runtime) = (target.clone(), runtime.clone());
            let name = format!("{}::{}", target.name(), case.name);
            trials.push(Trial::ignorable_test(name, move || runtime.block_on(case.run(&target))));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
