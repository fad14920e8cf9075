//! Running an operation: in its own task, so that a dropped future cannot interrupt it, and again when it met others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sea_orm::{DatabaseTransaction, TransactionTrait};
use tokio::sync::oneshot;

use super::Dialect;
use super::failure::{commit_error, statement_error};
use super::service::Inner;
use crate::{BackendError, BackendErrorKind, Error, Result};

/// How often an operation is tried that meets deadlocks, serialization failures or a busy database.
const TRIES: u32 = 10;
/// No try begins later than this after the first: a lock that somebody holds for long is not waited for ten times.
const TRY_WITHIN: Duration = Duration::from_secs(15);
/// The wait before the second try; it doubles up to [`LONGEST_WAIT`], and each is cut by chance to between half and all.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Repeats `operation` while it ends in contention, which means that nothing of it was stored, and is still `wanted`.
pub(super) async fn retry<T, F: Future<Output = Result<T>>>(
    wanted: impl Fn() -> bool,
    operation: impl Fn() -> F,
) -> Result<T> {
    let (mut wait, started) = (FIRST_WAIT, Instant::now());
    for _ in 1..TRIES {
        match operation().await {
            Err(error)
                if error.backend_kind() == Some(BackendErrorKind::Contention)
                    && started.elapsed() < TRY_WITHIN
                    && wanted() => {}
            outcome => return outcome,
        }
        tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    operation().await
}

/// Runs `operation` in a transaction of its own, in a task of its own: dropping the caller's future neither leaves a
/// pooled connection inside a transaction (sqlx 0.9.0 does when `begin` is dropped midway) nor tears what has begun. What
/// has not begun by then, or would have to begin again, is given up.
pub(super) async fn run<D, R, T>(
    inner: Arc<Inner<D>>,
    name: &'static str,
    request: R,
    operation: for<'a> fn(&'a Inner<D>, &'a DatabaseTransaction, &'a R) -> BoxFuture<'a, Result<T>>,
) -> Result<T>
where
    D: Dialect,
    R: Send + Sync + 'static,
    T: Send + 'static,
{
    let (caller, outcome) = oneshot::channel();
    tokio::spawn(async move {
        let _turn = if D::SINGLE_WRITER { Some(inner.writer.lock().await) } else { None };
        if !caller.is_closed() {
            let wanted = || !caller.is_closed();
            let outcome = retry(wanted, || run_once(&inner, name, &request, operation)).await;
            // Nobody is told when the caller went away meanwhile.
            let _: Result<(), Result<T>> = caller.send(outcome);
        }
    });
    outcome.await.unwrap_or_else(|_| {
        let message = format!("{name} was interrupted: the runtime is shutting down, or a bug");
        Err(BackendError::new(BackendErrorKind::CommitUnknown, message).into())
    })
}

async fn run_once<D: Dialect, R, T>(
    inner: &Inner<D>,
    name: &'static str,
    request: &R,
    operation: for<'a> fn(&'a Inner<D>, &'a DatabaseTransaction, &'a R) -> BoxFuture<'a, Result<T>>,
) -> Result<T> {
    let begun = inner.connection.begin_with_options(D::transaction_options()).await;
    let transaction = begun.map_err(|error| statement_error::<D>(name, error))?;
    match operation(inner, &transaction, request).await {
        Ok(outcome) => {
            transaction.commit().await.map_err(|error| commit_error::<D>(name, error))?;
            Ok(outcome)
        }
        Err(refused) => {
            // The refusal is what the caller wants to know; a connection that cannot roll back is closed by the pool.
            let _: Result<(), Error> = transaction.rollback().await.map_err(|error| statement_error::<D>(name, error));
            Err(refused)
        }
    }
}
