//! Running writes: in tasks of their own, so that a dropped future cannot interrupt them, in groups that share a commit,
//! and again when they met others.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sea_orm::DbErr;
use tokio::sync::oneshot;

use super::append::Wait;
use super::failure::{commit_error, statement_error};
use super::patience::Patience;
use super::queue::Claimed;
use super::retry::Tries;
use super::service::Inner;
use super::shared_state::{Deltas, Key, Touch};
use super::transaction::Transaction;
use super::write::{Call, Write};
use super::{Dialect, append, create, delete, get};
use crate::{BackendError, BackendErrorKind, Error, Result};

/// Hands a write on to the queue and waits for its outcome. A write whose caller has gone before its turn is given up; one
/// that has begun goes on.
pub(super) async fn run<D: Dialect, R, T>(
    inner: &Arc<Inner<D>>,
    request: R,
    write: fn(Call<R, T>) -> Write,
) -> Result<T> {
    let (call, outcome) = Call::new(request);
    let write = write(call);
    let operation = write.operation();
    if inner.queue.accept(write).await? {
        tokio::spawn(work(inner.clone()));
    }
    let (outcome, retries) = outcome.await.map_err(|oneshot::error::RecvError { .. }| {
        let message = format!("{operation} was interrupted: the runtime is shutting down, or a bug");
        BackendError::new(BackendErrorKind::CommitUnknown, message)
    })?;
    tracing::Span::current().record("retries", retries);
    outcome
}

/// Runs group after group until none can go. Boxed, because its type would contain itself, and because tokio moves the future of a
/// task several times.
fn work<D: Dialect>(inner: Arc<Inner<D>>) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let Some(mut slot) = inner.queue.slot() else { return };
        while let Some((group, others_wait)) = slot.take() {
            if others_wait {
                tokio::spawn(work(inner.clone()));
            }
            execute(&inner, group).await;
        }
    })
}

async fn execute<D: Dialect>(inner: &Arc<Inner<D>>, mut group: Vec<Claimed>) {
    // Rows are locked in one order everywhere. The order of arrival stays within a session.
    group.sort_by(|left, right| left.write.key().cmp(right.write.key()));
    let mut tries = Tries::new();
    // The only group that may be under way need not spare others the wait.
    let wait = if D::GROUPS > 1 { Wait::No } else { Wait::Yes };
    if let Some(single) = &inner.single {
        single.execute(inner, &mut group, &mut tries).await;
    } else if inner.fast
        && !(wait == Wait::No && group.iter().all(|claimed| matches!(claimed.write, Write::Delete(_))))
        && let Err(error) = together(inner, &mut group, wait).await
    {
        broken(&mut group, error, &mut tries);
    }
    for claimed in group {
        if claimed.write.has_outcome() {
            claimed.tell();
        } else if wait == Wait::No {
            // Whatever this one has to wait for, the next group does not.
            tokio::spawn(settle(inner.clone(), claimed, tries));
        } else {
            alone(inner, claimed, tries).await;
        }
    }
}

/// What a group makes of an error that ended its transaction. One of it may be to blame, so each is then tried for itself;
/// but not a write that was alone already and would meet the same again, and not without a server.
fn broken(group: &mut [Claimed], error: Error, tries: &mut Tries) {
    let (is_unknown, is_lone) = (error.backend_kind() == Some(BackendErrorKind::CommitUnknown), group.len() == 1);
    let is_final = !tries.are_left(&error) && (is_lone || error.is_retryable());
    if !is_final {
        tries.count(&error);
    }
    let mut first = Some(error);
    for Claimed { write, .. } in group {
        let Some(error) = first.take() else { continue };
        first = Some(error.without_source());
        if is_final {
            write.fail(error);
        } else if is_unknown && (is_lone || write.has_written()) {
            write.doubt(error);
        } else {
            write.forget_outcome();
        }
    }
}

/// Tells why a write was left out of its group, or runs it [`alone`], beside the groups; then goes on with what waited for
/// its rows.
async fn settle<D: Dialect>(inner: Arc<Inner<D>>, mut claimed: Claimed, tries: Tries) {
    if inner.fast
        && let Write::Append(call) = &mut claimed.write
    {
        match append::explain(&inner, &call.request).await {
            Ok(replayed) => call.outcome = replayed.map(Ok),
            Err(refusal) if refusal.backend_kind().is_none() => call.outcome = Some(Err(refusal)),
            // Met again, if it is about this write.
            Err(_) => {}
        }
    }
    if claimed.write.has_outcome() {
        claimed.tell();
    } else {
        alone(&inner, claimed, tries).await;
    }
    work(inner).await;
}

/// Runs a write in a transaction of its own, again while it meets others and its caller is there, and tells the outcome.
async fn alone<D: Dialect>(inner: &Inner<D>, mut claimed: Claimed, mut tries: Tries) {
    if !claimed.write.is_wanted() {
        return;
    }
    while let Err(error) = once(inner, &mut claimed).await {
        if !(claimed.write.is_wanted() && tries.again(&error).await) {
            claimed.write.fail(error);
            break;
        }
        if error.backend_kind() == Some(BackendErrorKind::CommitUnknown) {
            claimed.write.doubt(error);
        }
    }
    claimed.write.count_retries(tries.retries());
    claimed.tell();
}

/// One try. What an earlier one may have committed is found by it: an append meets its event, a create its session. A delete
/// is not repeated, for what is there may have been created since.
async fn once<D: Dialect>(inner: &Inner<D>, claimed: &mut Claimed) -> Result<()> {
    if let Write::Delete(call) = &mut claimed.write
        && call.doubt.is_some()
    {
        let gone = get::create_time(inner, &call.request).await?.is_none();
        call.outcome = call.doubt.take().map(|doubt| if gone { Ok(()) } else { Err(doubt) });
        return Ok(());
    }
    let tried = together(inner, std::slice::from_mut(claimed), Wait::Yes).await;
    if let Write::Create(call) = &mut claimed.write
        && call.doubt.is_some()
        && [tried.as_ref().err(), call.outcome.as_ref().and_then(|outcome| outcome.as_ref().err())]
            .into_iter()
            .flatten()
            .any(|error| matches!(error, Error::AlreadyExists { .. }))
    {
        let told = create::look(inner, &call.request).await?;
        call.outcome = told.or_else(|| Some(Err(Error::already_exists(&call.request.key))));
        return Ok(());
    }
    tried
}

/// Runs the writes in one transaction. After an error nothing of them is stored, unless it says that nobody knows.
/// Writes without an outcome were left out: their sessions would have to be waited for.
async fn together<D: Dialect>(inner: &Inner<D>, group: &mut [Claimed], wait: Wait) -> Result<()> {
    let operation = match group {
        [claimed] => claimed.write.operation(),
        _ => "a group of writes",
    };
    if let [Claimed { write: Write::Create(call), .. }] = group
        && let Some(created) = create::create_beside_existing(inner, &call.request).await?
    {
        call.outcome = Some(Ok(created));
        return Ok(());
    }
    let failed = |error| statement_error::<D>(operation, error);
    let mut transaction = Transaction::begin(&inner.connections).await.map_err(failed)?;
    let written = inner.patience.wait(write_all(inner, &mut transaction, group, operation, wait)).await;
    let outcome = written.map_err(failed).flatten();
    if outcome.is_err() || !group.iter().any(|claimed| claimed.write.has_written()) {
        // A transaction that is dropped is rolled back as well; one whose server does not answer is not waited for.
        if outcome.as_ref().err().and_then(Error::backend_kind) != Some(BackendErrorKind::Unavailable) {
            // What went wrong is what the callers want to know.
            let _: Result<Result<(), DbErr>, DbErr> = Patience::short().wait(transaction.rollback()).await;
        }
        return outcome;
    }
    let committed = inner.patience.wait(transaction.commit()).await;
    committed.flatten().map_err(|error| commit_error::<D>(operation, error))
}

/// The rows of each write alone first, then app state, then user state, so that no lock is waited for out of order.
async fn write_all<D: Dialect>(
    inner: &Inner<D>,
    transaction: &mut Transaction<'_, D>,
    group: &mut [Claimed],
    operation: &str,
    wait: Wait,
) -> Result<()> {
    let mut deltas = Deltas::default();
    let mut created = Vec::new();
    let mut looked = append::look(inner, transaction, group).await?;
    for Claimed { write, .. } in group {
        let seen = looked.remove(write.key());
        match write {
            Write::Create(Call { request, outcome, .. }) => {
                let request = &*request;
                match create::insert_session(inner, transaction, request).await {
                    Ok(()) => {
                        deltas.add(&request.key, &request.state, request.create_time, Touch::Both);
                        created.push((request, outcome));
                    }
                    Err(error) => *outcome = Some(Err(refusal(error)?)),
                }
            }
            Write::Append(Call { request, outcome, .. }) => {
                match append::store_event(inner, transaction, request, seen, wait).await {
                    Ok(None) if wait == Wait::Yes => *outcome = Some(Err(Error::not_found(&request.key))),
                    Ok(None) => {}
                    Ok(Some(appended)) => {
                        if !appended.is_replayed() {
                            deltas.add(&request.key, &request.delta, request.now, Touch::Changed);
                        }
                        *outcome = Some(Ok(appended));
                    }
                    Err(error) => *outcome = Some(Err(refusal(error)?)),
                }
            }
            // It may have to wait for its session.
            Write::Delete(_) if wait == Wait::No => {}
            Write::Delete(Call { request, outcome, .. }) => {
                delete::delete_session(inner, transaction, request).await?;
                *outcome = Some(Ok(()));
            }
        }
    }
    let states = deltas.merge(&inner.shared_state, transaction, operation).await?;
    for (new, outcome) in created {
        let state = |key: Key<'_>| states.get(&key).cloned().unwrap_or_default();
        let (app, user) = (state(Key::app(&new.key)), state(Key::user(&new.key)));
        *outcome = Some(Ok(new.to_session(app, user)));
    }
    Ok(())
}

/// An error that says why nothing of a write is stored, and leaves the transaction as it was; any other ends it.
fn refusal(error: Error) -> Result<Error> {
    if error.backend_kind().is_some() { Err(error) } else { Ok(error) }
}
