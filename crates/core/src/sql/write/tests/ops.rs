//! Write operations that do as they are told.

use std::marker::PhantomData;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::engine::{FakeEngine, error, execute};
use super::settle;
use crate::sql::write::op::{
    Applied, Attempt, BeforeSending, BulkResults, LockMode, Row, SharedChange, SharedKey, SharedStates, WriteOp,
};
use crate::sync::Arc;
use crate::{AppName, BackendError, BackendErrorKind, Error, Result, SessionKey, State, Timestamp};

/// Holds writes up until it is open.
#[derive(Debug, Clone)]
pub(super) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(super) fn closed() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub(super) fn open(&self) {
        self.0.add_permits(100);
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// Stored, with these states of the shared rows that it changes.
    Stored(Vec<State>),
    Replayed,
    /// An earlier attempt stored it.
    Resolved,
}

pub(super) const STORED: Outcome = Outcome::Stored(Vec::new());

/// An operation.
pub(super) trait Kind: Send + Sync + 'static {
    const NAME: &'static str;
    const REPEATABLE: bool = true;
    const SKIPS_LOCKED: bool = true;
    /// Whether a write that is stored already is refused, and not a replay.
    const REFUSES_STORED: bool = false;
    const HAS_BULK: bool = false;
    const HAS_ALONE: bool = false;
    const READS_TARGET: bool = false;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident { $($constant:ident = $value:literal),* })*) => {$(
        $(#[$doc])*
        pub(super) struct $kind;

        impl Kind for $kind {
            const NAME: &'static str = stringify!($kind);
            $(const $constant: bool = $value;)*
        }
    )*};
}

kinds! {
    Append {}
    /// Refused when it is stored already.
    Create { REFUSES_STORED = true }
    Delete { REPEATABLE = false }
    /// Waits for locked rows.
    Update { SKIPS_LOCKED = false }
    /// Has a bulk statement.
    Bulk { HAS_BULK = true }
    BulkCreate { HAS_BULK = true, REFUSES_STORED = true }
    /// Needs no transaction when it is alone.
    Alone { HAS_ALONE = true }
    AloneDelete { HAS_ALONE = true, REPEATABLE = false }
    /// Reads its target before it writes.
    Reading { READS_TARGET = true }
}

/// A write of an id.
pub(super) struct Write<K> {
    id: String,
    target: Row,
    shared: Vec<SharedChange>,
    gate: Option<Gate>,
    is_diagnosed: bool,
    panics: bool,
    bytes: usize,
    kind: PhantomData<K>,
}

pub(super) fn session(name: &str) -> Row {
    Row::Session(SessionKey::try_new("app", "user", name).expect("a valid key"))
}

pub(super) fn app(name: &str) -> SharedKey {
    SharedKey::App(AppName::try_new(name).expect("a valid name"))
}

/// A write to a session that bears its id.
pub(super) fn write<K>(id: &str) -> Write<K> {
    let (id, target) = (id.to_owned(), session(id));
    let (shared, gate, kind) = (Vec::new(), None, PhantomData);
    Write { id, target, shared, gate, is_diagnosed: false, panics: false, bytes: 0, kind }
}

impl<K> Write<K> {
    /// To this session.
    pub(super) fn to(self, name: &str) -> Self {
        Self { target: session(name), ..self }
    }

    /// To the state of this app.
    pub(super) fn for_app(self, name: &str) -> Self {
        Self { target: Row::Shared(app(name)), ..self }
    }

    /// Changes the state of an app.
    pub(super) fn sharing(mut self, name: &str) -> Self {
        let delta = State::new().with(&self.id, 1);
        self.shared.push(SharedChange { row: app(name), delta, now: Timestamp::clamped(0) });
        self
    }

    /// Makes the state of an app, and leaves it as it is.
    pub(super) fn making(mut self, name: &str) -> Self {
        self.shared.push(SharedChange { row: app(name), delta: State::new(), now: Timestamp::clamped(0) });
        self
    }

    /// Waits for the gate when it is applied.
    pub(super) fn behind(self, gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..self }
    }

    /// Is refused when somebody asks why it was left out.
    pub(super) fn diagnosed(self) -> Self {
        Self { is_diagnosed: true, ..self }
    }

    /// Brings so many bytes.
    pub(super) fn of(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    pub(super) fn panicking(self) -> Self {
        Self { panics: true, ..self }
    }
}

#[async_trait]
impl<K: Kind> WriteOp<FakeEngine> for Write<K> {
    type Outcome = Outcome;

    const NAME: &'static str = K::NAME;
    const REPEATABLE: bool = K::REPEATABLE;
    const SKIPS_LOCKED: bool = K::SKIPS_LOCKED;
    const HAS_BULK: bool = K::HAS_BULK;

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn reads_target(&self) -> bool {
        K::READS_TARGET
    }

    fn target(&self) -> Row {
        self.target.clone()
    }

    fn shared(&self) -> Vec<SharedChange> {
        self.shared.clone()
    }

    async fn apply(&self, engine: &FakeEngine, attempt: Attempt<'_, FakeEngine>) -> Result<Applied<Outcome>> {
        let Attempt { on, lock, prefetched } = attempt;
        if prefetched.is_some() {
            engine.lock().found_prefetched.push(self.id.clone());
        }
        engine.lock().attempts.push((self.id.clone(), lock));
        if let Some(Gate(gate)) = &self.gate {
            let _open = gate.acquire().await;
        }
        assert!(!self.panics, "on request");
        while engine.lock().locked.contains(&self.target) {
            if lock == LockMode::SkipLocked {
                return Ok(Applied::Locked);
            }
            settle().await;
        }
        let failing = engine.lock().failing.get(&self.id).copied();
        if let Some(kind) = failing {
            return Err(error(kind));
        }
        if engine.lock().behind.contains(&self.id) {
            return Err(BackendError::behind("on request".to_owned()).into());
        }
        if engine.lock().refused.contains(&self.id) {
            return Err(Error::invalid("id", "on request"));
        }
        if let (Row::Session(key), true) = (&self.target, engine.lock().unknown.remove(&self.id)) {
            return Err(Error::not_found(key));
        }
        match (execute(on, self.id.clone()).await, &self.target) {
            (1, _) => Ok(Applied::Written(STORED)),
            (_, Row::Session(key)) if K::REFUSES_STORED => Err(Error::already_exists(key)),
            _ => Ok(Applied::Unchanged(Outcome::Replayed)),
        }
    }

    fn complete(&self, _outcome: Outcome, shared: &SharedStates) -> Outcome {
        Outcome::Stored(self.shared.iter().map(|change| shared.get(&change.row)).collect())
    }

    async fn apply_alone(
        &self,
        engine: &FakeEngine,
        before_sending: BeforeSending<'_>,
    ) -> Result<Option<Applied<Outcome>>> {
        if !K::HAS_ALONE || !before_sending() {
            return Ok(None);
        }
        let mut database = engine.lock();
        if database.holds(&self.id) {
            return Ok(Some(Applied::Unchanged(Outcome::Replayed)));
        }
        database.commit(vec![self.id.clone()])?;
        Ok(Some(Applied::Written(STORED)))
    }

    async fn apply_bulk(
        engine: &FakeEngine,
        shared: LockMode,
        writes: &[&Self],
        before_sending: BeforeSending<'_>,
    ) -> Option<Result<BulkResults<Outcome>>> {
        if !K::HAS_BULK {
            return None;
        }
        let wait = engine.lock().wait_for_connection;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if !before_sending() {
            return Some(Ok(writes.iter().map(|_| Ok(Applied::Locked)).collect()));
        }
        for Gate(gate) in writes.iter().filter_map(|write| write.gate.as_ref()) {
            let _open = gate.acquire().await;
        }
        if shared == LockMode::Wait {
            for change in writes.iter().flat_map(|write| &write.shared) {
                if let Err(error) = engine.wait_for_shared(&change.row).await {
                    return Some(Err(error));
                }
            }
        }
        let mut database = engine.lock();
        database.bulk_statements.push(writes.iter().map(|write| write.id.clone()).collect());
        if let Some(kind) = writes.iter().find_map(|write| database.failing.get(&write.id)) {
            return Some(Err(error(*kind)));
        }
        let is_held = |change: &SharedChange| database.locked.contains(&Row::Shared(change.row.clone()));
        let blocked: Vec<bool> = writes.iter().map(|write| write.shared.iter().any(is_held)).collect();
        let is_blocked = |id: &str| writes.iter().zip(&blocked).any(|(write, blocked)| *blocked && write.id == id);
        let is_left_out = |write: &&&Self| {
            is_blocked(&write.id) || database.locked.contains(&write.target) || database.holds(&write.id)
        };
        let (left_out, stored): (Vec<&Self>, Vec<&Self>) = writes.iter().partition(is_left_out);
        let ids = stored.iter().map(|write| write.id.clone()).collect();
        if let Err(error) = database.commit(ids) {
            return Some(Err(error));
        }
        let result = |write: &&Self| {
            if is_blocked(&write.id) {
                return Ok(Applied::SharedLocked);
            }
            if database.doubtful.remove(&write.id) {
                return Err(error(BackendErrorKind::CommitUnknown));
            }
            let is_left_out = left_out.iter().any(|other| other.id == write.id);
            Ok(if is_left_out { Applied::Locked } else { Applied::Written(STORED) })
        };
        Some(Ok(writes.iter().map(result).collect()))
    }

    async fn diagnose(&self, _engine: &FakeEngine) -> Result<()> {
        if self.is_diagnosed { Err(Error::invalid("id", "diagnosed")) } else { Ok(()) }
    }

    async fn resolve(&self, engine: &FakeEngine) -> Result<Option<Outcome>> {
        let database = engine.lock();
        match database.resolve_fails {
            Some(kind) => Err(error(kind)),
            None => Ok(database.holds(&self.id).then_some(Outcome::Resolved)),
        }
    }
}
