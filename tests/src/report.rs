//! A table of case outcomes per target.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Completion, Failed};

use crate::{Kind, Servers};

/// Counts the outcomes of cases by target. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Report(Arc<Mutex<BTreeMap<String, Counts>>>);

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Report {
    /// Runs `case` of `target` and counts its outcome.
    ///
    /// # Errors
    /// Those of the case; a panic becomes a failure.
    pub fn count(&self, target: &str, case: impl FnOnce() -> Result<Completion, Failed>) -> Result<Completion, Failed> {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(case))
            .unwrap_or_else(|_| Err(Failed::from("the case panicked; see the message above")));
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = counts.entry(target.to_owned()).or_default();
        match &outcome {
            Ok(Completion::Completed) => counts.passed += 1,
            Ok(_) => counts.ignored += 1,
            Err(_) => counts.failed += 1,
        }
        outcome
    }

    /// Returns the table: one line for each target that had cases.
    pub fn table(&self, servers: &Servers) -> String {
        let mut table = format!(
            "{:<14} {:<22} {:>6} {:>6} {:>7}  {}\n",
            "target", "version", "passed", "failed", "ignored", "how it was got"
        );
        for (target, counts) in &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == target);
            let in_process = || ("-".to_owned(), "in this process".to_owned());
            let (version, origin) = kind.and_then(|kind| servers.describe(kind)).unwrap_or_else(in_process);
            let Counts { passed, failed, ignored } = counts;
            let line = writeln!(table, "{target:<14} {version:<22} {passed:>6} {failed:>6} {ignored:>7}  {origin}");
            line.unwrap_or_default();
        }
        table
    }
}
