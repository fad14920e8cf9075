//! Places in the queue: how many writes may wait or run.
//!
//! Once half of the places are taken, each target and each app gets only a share of the others, so that the writers of
//! one session, or of one app, leave places to everybody else.

use std::collections::HashMap;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::op::Row;
use crate::sync::{Arc, Mutex, PoisonError};

/// How many writes may wait or run in all.
const ALL: u32 = 1024;
/// From how many free places on nobody is limited to a share.
const PLENTY: usize = 512;
/// The share of a target: as many writes as a batch holds.
const OF_TARGET: usize = 64;
/// The share of an app.
const OF_APP: usize = 256;

type Shares = Arc<Mutex<HashMap<Row, Arc<Semaphore>>>>;

pub(super) struct Places {
    all: Arc<Semaphore>,
    /// The shares that somebody uses or waits for.
    shares: Shares,
}

/// A place. Dropping it frees it.
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    _shares: Vec<Share>,
}

/// A part of somebody's share.
struct Share {
    /// `None` only while it is dropped.
    permit: Option<OwnedSemaphorePermit>,
    row: Row,
    shares: Shares,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL as usize)), shares: Arc::default() }
    }

    /// Waits for a place for a write to `target`.
    ///
    /// # Errors
    /// When the places are closed.
    pub(super) async fn take(&self, target: &Row) -> Result<Place, AcquireError> {
        let mut shares = Vec::new();
        if self.all.available_permits() <= PLENTY {
            let app = target.app();
            if app != *target {
                shares.push(self.take_share(target.clone(), OF_TARGET).await?);
            }
            shares.push(self.take_share(app, OF_APP).await?);
        }
        Ok(Place { _place: self.all.clone().acquire_owned().await?, _shares: shares })
    }

    async fn take_share(&self, row: Row, size: usize) -> Result<Share, AcquireError> {
        let share = {
            let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
            shares.entry(row.clone()).or_insert_with(|| Arc::new(Semaphore::new(size))).clone()
        };
        // From here on a caller who goes leaves the share behind for the next one to remove.
        let mut taken = Share { permit: None, row, shares: self.shares.clone() };
        taken.permit = Some(share.acquire_owned().await?);
        Ok(taken)
    }

    /// Hands out no more places, and returns when all are free.
    pub(super) async fn close(&self) {
        // An error means that they are closed already.
        let _all = self.all.acquire_many(ALL).await;
        self.all.close();
    }
}

impl Drop for Share {
    /// Removes a share that nobody else uses or waits for.
    fn drop(&mut self) {
        self.permit = None;
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.get(&self.row).is_some_and(|share| Arc::strong_count(share) == 1) {
            shares.remove(&self.row);
        }
    }
}
