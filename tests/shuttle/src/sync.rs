//! The locks of the write path: those of shuttle.

pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard, PoisonError};
