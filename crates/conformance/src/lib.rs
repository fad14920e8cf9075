//! The laws of a session service, as a test suite that any implementation of
//! [`SessionService`](seabed_core::SessionService) can run.
//!
//! Each law is a guarantee, and each case is named after the guarantee that it checks. A third party runs all of them
//! like this, in a test with `harness = false`:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use seabed_conformance::{Opened, Services, Target};
//! use seabed_core::MemorySessionService;
//!
//! fn main() -> std::process::ExitCode {
//!     let service = MemorySessionService::new();
//!     seabed_conformance::run([Target::new("my_store", move || {
//!         let service = service.clone();
//!         async move { Ok(Opened::Service(Services::new(Arc::new(service)))) }
//!     })])
//! }
//! ```
//!
//! Each case uses an app of its own, so one database serves all of them, sequentially or concurrently.
//! `cargo test -- NAME` runs the cases whose name contains `NAME`. A suite with cases of its own builds its trials from
//! [`cases()`].

mod cases;
mod context;
mod target;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

pub use cases::{Case, cases};
use context::Context;
pub use target::{Opened, Services, Target};

/// Runs every case on every target, according to the command line arguments (those of `cargo test`).
///
/// # Panics
/// If the operating system cannot start a thread.
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
