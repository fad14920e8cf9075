//! Rows on their way from a reader to a writer.

use std::sync::Arc;

use sea_orm::DbErr;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::record::Record;

/// How many rows are buffered between reading and writing, and how many bytes: more only if one row has them.
const ROWS_AHEAD: usize = 16;
const BYTES_AHEAD: u32 = 16 << 20;

/// A source of rows.
pub(crate) struct Source {
    /// The number of events, if known in advance.
    pub(crate) events: Option<u64>,
    rows: mpsc::Receiver<Result<Option<Ahead>, DbErr>>,
}

/// A row that is buffered, and its share of [`BYTES_AHEAD`]. `None` marks the end. If it is missing, the reader did not
/// reach the end.
type Ahead = (Record, OwnedSemaphorePermit);

impl Source {
    /// Starts `read` in its own task; its rows are received here.
    pub(crate) fn of<F>(events: Option<u64>, read: impl FnOnce(Outlet) -> F) -> Self
    where
        F: Future<Output = Result<(), Stop>> + Send + 'static,
    {
        let (sender, rows) = mpsc::channel(ROWS_AHEAD);
        let ending = sender.clone();
        let reading = read(Outlet { rows: sender, room: Arc::new(Semaphore::new(BYTES_AHEAD as usize)) });
        tokio::spawn(async move {
            let end = match reading.await {
                Ok(()) => Ok(None),
                Err(Stop::Failed(error)) => Err(error),
                Err(Stop::NobodyTakesRows) => return,
            };
            // If nobody receives rows any more, nobody needs the outcome.
            let _: Result<(), _> = ending.send(end).await;
        });
        Self { events, rows }
    }

    /// Returns the next row, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Record>, DbErr> {
        let interrupted = || Err(DbErr::Custom("reading the source was interrupted".to_owned()));
        Ok(self.rows.recv().await.unwrap_or_else(interrupted)?.map(|(record, _)| record))
    }
}

/// Where a reader sends rows.
pub(crate) struct Outlet {
    rows: mpsc::Sender<Result<Option<Ahead>, DbErr>>,
    room: Arc<Semaphore>,
}

impl Outlet {
    pub(crate) async fn send(&self, record: Record) -> Result<(), Stop> {
        let bytes = u32::try_from(record.size()).unwrap_or(BYTES_AHEAD).min(BYTES_AHEAD);
        let share = self.room.clone().acquire_many_owned(bytes).await.map_err(|_| Stop::NobodyTakesRows)?;
        self.rows.send(Ok(Some((record, share)))).await.map_err(|_| Stop::NobodyTakesRows)
    }
}

/// Why reading stopped before the end.
pub(crate) enum Stop {
    Failed(DbErr),
    NobodyTakesRows,
}

impl From<DbErr> for Stop {
    fn from(error: DbErr) -> Self {
        Self::Failed(error)
    }
}
