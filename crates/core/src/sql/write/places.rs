//! Places in the queue: how many writes may wait or run.
//!
//! Once half of the places are taken, each target and each app gets only a share of the others, so that the writers of
//! one session, or of one app, leave places to everybody else. Whoever waits has the turn of its target, so that writes
//! to a session keep their order.

use std::collections::HashMap;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::op::Row;
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// The turns of targets, of which each has one.
    turns: Shares,
}

/// A place. Dropping it frees it.
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    _shares: Vec<Share>,
}

/// The turn of a target. Hold it until the write is where later ones must not overtake it.
pub(super) struct Turn {
    _turn: Option<Share>,
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
        Self { all: Arc::new(Semaphore::new(ALL as usize)), shares: Arc::default(), turns: Arc::default() }
    }

    /// Waits for a place for a write to `target`.
    ///
    /// # Errors
    /// When the places are closed.
    pub(super) async fn take(&self, target: &Row) -> Result<(Place, Turn), AcquireError> {
        let turn = if self.are_scarce() || lock(&self.turns).contains_key(target) {
            Some(take_share(&self.turns, target.clone(), 1).await?)
        } else {
            None
        };
        let mut shares = Vec::new();
        // Only who has the turn waits for shares: nobody who asks later goes first.
        if turn.is_some() && self.are_scarce() {
            let app = target.app();
            if app != *target {
                shares.push(take_share(&self.shares, target.clone(), OF_TARGET).await?);
            }
            shares.push(take_share(&self.shares, app, OF_APP).await?);
        }
        let place = Place { _place: self.all.clone().acquire_owned().await?, _shares: shares };
        Ok((place, Turn { _turn: turn }))
    }

    fn are_scarce(&self) -> bool {
        self.all.available_permits() <= PLENTY
    }

    /// Hands out no more places, and returns when all are free.
    pub(super) async fn close(&self) {
        // An error means that they are closed already.
        let _all = self.all.acquire_many(ALL).await;
        self.all.close();
    }
}

fn lock(shares: &Shares) -> MutexGuard<'_, HashMap<Row, Arc<Semaphore>>> {
    shares.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a part of the share of `row`, which has so many parts.
async fn take_share(shares: &Shares, row: Row, size: usize) -> Result<Share, AcquireError> {
    let share = lock(shares).entry(row.clone()).or_insert_with(|| Arc::new(Semaphore::new(size))).clone();
    // From here on a caller who goes leaves the share behind for the next one to remove.
    let mut taken = Share { permit: None, row, shares: shares.clone() };
    taken.permit = Some(share.acquire_owned().await?);
    Ok(taken)
}

impl Drop for Share {
    /// Removes a share that nobody else uses or waits for.
    fn drop(&mut self) {
        self.permit = None;
        let mut shares = lock(&self.shares);
        if shares.get(&self.row).is_some_and(|share| Arc::strong_count(share) == 1) {
            shares.remove(&self.row);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt as _;

    use super::{OF_TARGET, PLENTY, Place, Places};
    use crate::SessionKey;
    use crate::sql::write::Row;

    fn session(app: &str) -> Row {
        Row::Session(SessionKey::try_new(app, "user", "session").expect("a valid key"))
    }

    fn take(places: &Places, app: &str) -> Option<Place> {
        places.take(&session(app)).now_or_never()?.ok().map(|(place, _)| place)
    }

    #[test]
    fn a_later_write_to_a_session_does_not_overtake_one_that_waits_for_a_place() {
        let places = Places::new();
        let others: Vec<Place> =
            (0..PLENTY).map(|number| take(&places, &number.to_string()).expect("a place")).collect();
        let mut own: Vec<Place> = (0..OF_TARGET).map(|_| take(&places, "own").expect("a share")).collect();
        let target = session("own");
        let (mut first, mut second) = (pin!(places.take(&target)), pin!(places.take(&target)));
        assert!(first.as_mut().now_or_never().is_none(), "the share is used up");
        // Nobody is limited to a share any longer.
        drop(others);
        assert!(take(&places, "other").is_some());
        assert!(second.as_mut().now_or_never().is_none(), "the first one waits");
        own.pop();
        let (_place, turn) = first.as_mut().now_or_never().expect("a place").expect("open places");
        assert!(second.as_mut().now_or_never().is_none(), "the first one is on its way");
        drop(turn);
        assert!(second.now_or_never().is_some());
    }
}
