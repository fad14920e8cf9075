//! Deadlines for statements that commit by themselves.
//!
//! When a connection breaks, or a caller gives up, the statement may still be on its way to the server. Run late, it
//! could write to a session that was deleted and created anew since. So each such statement holds a deadline, by the
//! database's clock, after which it changes nothing; and after a connection broke, the service goes on only after that
//! deadline. (A write whose runtime ended has nobody left to wait.)
//! A statement that began in time holds the rows it writes, and whoever comes next waits for them.
//!
//! A transaction needs no deadline: it commits only after its caller has received the answers to its statements, and
//! until then holds its rows.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sea_orm::DbErr;
use sea_orm::sea_query::Query;
use tokio::time::Instant;

use super::dialect::Dialect;
use super::driver::Driver;
use super::error::StatementError;
use super::executor::Executor;
use super::statement::SqlText;
use crate::Timestamp;

/// How long after it was sent a statement may still begin: longer than it takes to reach a healthy server.
const BEGINS_WITHIN: Duration = Duration::from_millis(500);
/// How much two clocks may diverge while a reading is used.
const CLOCK_ERROR: Duration = Duration::from_millis(50);
/// How long a reading of the clock is used. The database may move to a server with another clock.
const REREAD_AFTER: Duration = Duration::from_secs(10);
/// How long a reading is used once a statement with a deadline from it has changed nothing. If the database's clock was
/// set forward, every statement with a deadline from the old reading is too late.
const REREAD_IF_UNCHANGED_AFTER: Duration = Duration::from_secs(1);

/// The clock of a database, as far as it is known here.
pub(crate) struct DatabaseClock<D> {
    read: SqlText<D>,
    last: Mutex<Option<Reading>>,
}

/// What the database's clock showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    time: Timestamp,
    /// Not before the clock showed `time`.
    received: Instant,
}

impl Reading {
    /// The deadline of a statement that is sent at `sent`, by the database's clock.
    pub(super) fn deadline(self, sent: Instant) -> Timestamp {
        let until = sent.saturating_duration_since(self.received) + BEGINS_WITHIN;
        let until = i64::try_from(until.as_micros()).unwrap_or(i64::MAX);
        Timestamp::clamped(self.time.as_micros().saturating_add(until))
    }
}

/// When a statement that was sent at `sent` cannot begin any more.
pub(super) fn passed(sent: Instant) -> Instant {
    sent + BEGINS_WITHIN + CLOCK_ERROR
}

impl<D: Dialect> DatabaseClock<D> {
    pub(super) fn new() -> Self {
        Self { read: Self::text(), last: Mutex::new(None) }
    }

    /// The statement that reads the clock.
    pub(crate) fn text() -> SqlText<D> {
        SqlText::new(Query::select().expr(D::SCHEMA.current_time()))
    }

    /// A reading that is recent enough to use.
    pub(super) async fn reading(&self, mut on: impl Executor) -> Result<Reading, StatementError> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.filter(|last| last.received.elapsed() < REREAD_AFTER) {
            return Ok(last);
        }
        let row = on.query_one(self.read.bind([])).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("the database's clock".to_owned()))?;
        let reading = Reading { time: D::Driver::moment(&row, 0)?, received: Instant::now() };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
        Ok(reading)
    }

    /// A statement with a deadline from `reading` changed nothing. That may be because the clock was set.
    pub(super) fn suspect(&self, reading: Reading) {
        if reading.received.elapsed() > REREAD_IF_UNCHANGED_AFTER {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}
