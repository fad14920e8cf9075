//! The history that workers write: one line before each call, and one after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Returns the time in microseconds on the monotonic clock, which all processes of a machine share and nobody sets.
pub(crate) fn now() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

/// The session `app/user/id`.
pub(crate) type SessionName = String;

/// What a call does. The values of its state keys are the operation's own name, so each value shows who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Action {
    Create {
        session: SessionName,
        keys: Vec<String>,
    },
    Append {
        session: SessionName,
        keys: Vec<String>,
        /// Set if the append is made at the revision at which the session's counter was one less.
        counter: Option<u64>,
    },
    /// Appends an event with a used id and different content, which must be rejected.
    Reuse {
        session: SessionName,
    },
    Delete {
        session: SessionName,
    },
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Acknowledged, at a revision in microseconds; zero for a delete.
    Stored(i64),
    /// Acknowledged as already stored.
    Replayed(i64),
    /// The service reports that nothing was stored.
    Refused(Refusal),
    /// Stored entirely or not at all.
    Unknown,
    /// Anything that must not happen.
    Wrong(String),
}

impl Outcome {
    /// Its name in counts.
    fn name(&self) -> String {
        match self {
            Self::Stored(_) => "stored".to_owned(),
            Self::Replayed(_) => "replayed".to_owned(),
            Self::Refused(refusal) => format!("{refusal:?}"),
            Self::Unknown => "CommitUnknown".to_owned(),
            Self::Wrong(_) => "wrong".to_owned(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    NotFound,
    AlreadyExists,
    RevisionConflict,
    EventIdReused,
    Contention,
    Unavailable,
}

/// A line of a history.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Record {
    /// A call of operation `op` began. The same operation may be called again.
    Began {
        op: String,
        at: i64,
        action: Action,
    },
    Ended {
        op: String,
        at: i64,
        outcome: Outcome,
    },
    /// One read returned the event `event`, which writes `key`, and `value` as the value of that key.
    Saw {
        event: String,
        scope: String,
        key: String,
        value: String,
    },
    /// A violation that a worker detected itself.
    Objection(String),
}

/// A history being written. Each line goes to the operating system immediately, so a killed worker loses none.
pub(crate) struct Journal(Mutex<File>);

impl Journal {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        Ok(Self(Mutex::new(File::create(path)?)))
    }

    pub(crate) fn write(&self, record: &Record) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.0.lock().map_err(|_| anyhow::anyhow!("a writer of the journal panicked"))?.write_all(&line)?;
        Ok(())
    }
}

/// An operation, and the outcome of its calls.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) action: Action,
    /// When its first call began.
    pub(crate) began: i64,
    pub(crate) fate: Fate,
    /// When it had certainly happened; never, if that is uncertain.
    pub(crate) ended: i64,
    /// The revision that was acknowledged.
    pub(crate) revision: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Acknowledged,
    Refused,
    Unknown,
}

/// Everything that all workers wrote.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) operations: BTreeMap<String, Operation>,
    /// Event, scope (`app` or `user/app`), key and value that one read returned together.
    pub(crate) seen: Vec<[String; 4]>,
    pub(crate) objections: Vec<String>,
    /// When writes were acknowledged.
    pub(crate) acknowledged: Vec<i64>,
    /// How often calls ended how.
    pub(crate) calls: BTreeMap<String, usize>,
    /// Calls that have begun and not ended.
    open: BTreeSet<String>,
}

impl History {
    /// Reads all files in a folder. The last line of a file may be incomplete if its worker was killed.
    pub(crate) fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut history = Self::default();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let mut lines = BufReader::new(File::open(&path)?).split(b'\n').peekable();
            while let Some(line) = lines.next() {
                match serde_json::from_slice(&line?) {
                    Ok(record) => history.add(record),
                    Err(_) if lines.peek().is_none() => {}
                    Err(error) => return Err(error).with_context(|| format!("a line of {}", path.display())),
                }
            }
        }
        history.finish();
        Ok(history)
    }

    pub(crate) fn add(&mut self, record: Record) {
        match record {
            Record::Began { op, at, action } => {
                self.open.insert(op.clone());
                let new = Operation { action, began: at, fate: Fate::Refused, ended: i64::MAX, revision: None };
                self.operations.entry(op).or_insert(new);
            }
            Record::Ended { op, at, outcome } => {
                self.open.remove(&op);
                *self.calls.entry(outcome.name()).or_default() += 1;
                if matches!(outcome, Outcome::Stored(_) | Outcome::Replayed(_)) {
                    self.acknowledged.push(at);
                }
                let Some(operation) = self.operations.get_mut(&op) else {
                    self.objections.push(format!("{op} ended and had not begun"));
                    return;
                };
                match outcome {
                    Outcome::Stored(revision) | Outcome::Replayed(revision) => {
                        if operation.revision.is_some_and(|before| before != revision) {
                            self.objections.push(format!("{op} was acknowledged at two revisions"));
                        }
                        if operation.fate == Fate::Acknowledged && matches!(outcome, Outcome::Stored(_)) {
                            self.objections.push(format!("{op} was acknowledged as new twice"));
                        }
                        operation.fate = Fate::Acknowledged;
                        operation.revision = Some(revision);
                        operation.ended = operation.ended.min(at);
                    }
                    Outcome::Refused(refusal) => {
                        let transient = matches!(refusal, Refusal::Contention | Refusal::Unavailable);
                        if operation.fate == Fate::Acknowledged && !transient && refusal != Refusal::NotFound {
                            self.objections.push(format!("{op} was acknowledged, and refused later: {refusal:?}"));
                        }
                    }
                    Outcome::Unknown => {
                        if operation.fate == Fate::Refused {
                            operation.fate = Fate::Unknown;
                        }
                    }
                    Outcome::Wrong(what) => self.objections.push(format!("{op}: {what}")),
                }
            }
            Record::Saw { event, scope, key, value } => self.seen.push([event, scope, key, value]),
            Record::Objection(what) => self.objections.push(what),
        }
    }

    /// A worker killed during a call never learned its outcome.
    pub(crate) fn finish(&mut self) {
        for op in std::mem::take(&mut self.open) {
            if let Some(operation) = self.operations.get_mut(&op).filter(|operation| operation.fate == Fate::Refused) {
                operation.fate = Fate::Unknown;
            }
        }
    }
}

/// Returns the table row that a state key belongs to, and the key's name there.
pub(crate) fn scope_of<'a>(session: &str, key: &'a str) -> (String, &'a str) {
    let mut parts = session.split('/');
    let (app, user) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if let Some(key) = key.strip_prefix("app:") {
        (app.to_owned(), key)
    } else if let Some(key) = key.strip_prefix("user:") {
        (format!("{app}/{user}"), key)
    } else {
        (session.to_owned(), key)
    }
}
