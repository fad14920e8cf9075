//! The write path of seabed-core, compiled against shuttle in place of tokio and of the standard library's locks.
//!
//! Shuttle runs a [`Scenario`] many times, each time with another order of its tasks, and reports the order in which
//! something goes wrong. It knows only its own tasks and locks, so the sources are included here, in modules that bear
//! their names in seabed-core.
//!
//! Time does not pass: a sleep lets other tasks run.

#[allow(dead_code, reason = "all of seabed-core makes errors; the write path makes few")]
#[path = "../../../crates/core/src/error.rs"]
mod error;
mod fake;
mod scenario;
mod sql;
mod sync;

pub use error::{BackendError, BackendErrorKind, Error, Result};
pub use scenario::{Operation, Policy, Scenario};
pub(crate) use seabed_core::{AppName, Revision, SessionKey, State, Timestamp, UserKey};
