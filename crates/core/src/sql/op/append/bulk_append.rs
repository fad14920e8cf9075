//! The statements that append many events at once, and when to use which.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::sql::dialect::{BulkStatements, Dialect};
use crate::sql::statement::SqlText;

/// After a conflict, this many statements expect others. Few, so that a conflict now and then costs nothing.
const STATEMENTS_AFTER_A_CONFLICT: u32 = 8;

/// Appends many events to different sessions.
///
/// The statement that also answers conflicts spares a refused append a round trip, and costs every stored one about a
/// tenth more. Conflicts come in swarms: many callers read one busy session, and all but one of their appends are
/// refused. So that statement is used only for a while after a conflict.
pub(crate) struct BulkAppend<D> {
    store: SqlText<D>,
    store_or_refuse: SqlText<D>,
    store_free: SqlText<D>,
    /// How many more statements expect conflicts.
    expecting: AtomicU32,
}

impl<D: Dialect> BulkAppend<D> {
    pub(super) fn new(statements: &BulkStatements) -> Self {
        Self {
            store: SqlText::new(&statements.append),
            store_or_refuse: SqlText::new(&statements.append_or_refuse),
            store_free: SqlText::new(&statements.append_free),
            expecting: AtomicU32::new(0),
        }
    }

    pub(super) fn texts(&self) -> [(&'static str, &SqlText<D>); 3] {
        [("bulk", &self.store), ("bulk_free", &self.store_free), ("bulk_or_refuse", &self.store_or_refuse)]
    }

    /// The statement for the next batch. A race between batches makes a few more or fewer expect conflicts.
    pub(super) fn next(&self) -> &SqlText<D> {
        let expecting = self.expecting.load(Ordering::Relaxed);
        if expecting == 0 {
            return &self.store;
        }
        self.expecting.store(expecting - 1, Ordering::Relaxed);
        &self.store_or_refuse
    }

    /// The statement for a batch that changes shared rows, and waits for none that others have locked.
    pub(super) fn free(&self) -> &SqlText<D> {
        &self.store_free
    }

    /// Call this when an append was refused.
    pub(super) fn expect_conflicts(&self) {
        self.expecting.store(STATEMENTS_AFTER_A_CONFLICT, Ordering::Relaxed);
    }
}
