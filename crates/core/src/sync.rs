//! The locks of the write path, in one place so that a model checker can replace them.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
