//! What a caller and the work on its write agree on: until when the caller waits, and whether the database may have the
//! write by then.

use tokio::time::Instant;

use crate::sync::{Mutex, PoisonError};

/// The agreement about one write.
#[derive(Debug)]
pub(super) struct Ticket {
    deadline: Instant,
    stage: Mutex<Stage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing of the write is stored, and nothing of it is on its way.
    Unsent,
    /// The write may be stored, now or later.
    Sent,
    /// The caller was told that nothing is stored, so nothing may be.
    GivenUp,
}

impl Ticket {
    pub(super) fn new(deadline: Instant) -> Self {
        Self { deadline, stage: Mutex::new(Stage::Unsent) }
    }

    /// Until when the caller waits.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether the write may still be sent: its caller waits, and has not been told that it may be stored either.
    pub(super) fn is_wanted(&self) -> bool {
        Instant::now() < self.deadline && self.move_on(Stage::GivenUp, Stage::GivenUp) != Stage::GivenUp
    }

    /// Call before the write is sent. False if it is too late for its caller: then it must not be sent.
    pub(super) fn send(&self) -> bool {
        Instant::now() < self.deadline && self.move_on(Stage::Unsent, Stage::Sent) != Stage::GivenUp
    }

    /// Nothing of what was sent is stored, or will be.
    pub(super) fn take_back(&self) {
        self.move_on(Stage::Sent, Stage::Unsent);
    }

    /// The caller waits no longer. False if its write may be stored.
    pub(super) fn give_up(&self) -> bool {
        self.move_on(Stage::Unsent, Stage::GivenUp) != Stage::Sent
    }

    pub(super) fn is_sent(&self) -> bool {
        self.move_on(Stage::Sent, Stage::Sent) == Stage::Sent
    }

    /// Goes from one stage to another, if it is at the first. Returns the stage before.
    fn move_on(&self, from: Stage, to: Stage) -> Stage {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *stage;
        if before == from {
            *stage = to;
        }
        before
    }
}
