//! The files of a database, watched for their loss.
//!
//! SQLite goes on writing to a file that was deleted, or renamed away, and reports success. So a service compares what
//! is at the path with what it has opened. It only looks at names: a process that closes a database file which it has
//! opened a second time loses SQLite's locks on it.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use seabed_core::sql::DatabaseFiles;

/// A database file and what belongs to it.
#[derive(Debug)]
pub(super) struct Files {
    /// As the driver opens it.
    path: PathBuf,
    identity: Identity,
    companions: [Companion; 2],
    lost: OnceLock<String>,
}

/// A file that exists while a connection to a database in WAL mode is open, and only then.
///
/// Names tell no more. A file that another connection has created anew is not missed. If the database was taken out of
/// WAL mode while the pool had no connection open, the file is missed without need; the connections that Seabed opens
/// put the database back into WAL mode.
#[derive(Debug)]
struct Companion {
    path: PathBuf,
    /// Whether it was there before. In other journal modes it never is.
    seen: AtomicBool,
}

/// What tells a file from others: device and inode.
#[cfg(unix)]
type Identity = (u64, u64);
#[cfg(not(unix))]
type Identity = Option<std::time::SystemTime>;

#[cfg(unix)]
fn identity(file: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    (file.dev(), file.ino())
}

/// The standard library has no more than the time of its creation.
#[cfg(not(unix))]
fn identity(file: &Metadata) -> Identity {
    file.created().ok()
}

impl Files {
    /// `None` where there is no such file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let identity = identity(&fs::metadata(path).ok()?);
        // SQLite follows links, and then adds the ending.
        let target = fs::canonicalize(path).ok()?;
        let companions = ["-wal", "-shm"].map(|ending| {
            let mut path = OsString::from(&target);
            path.push(ending);
            Companion { path: path.into(), seen: AtomicBool::new(false) }
        });
        Some(Self { path: path.to_owned(), identity, companions, lost: OnceLock::new() })
    }

    fn lost_file(&self) -> Option<String> {
        let path = self.path.display();
        match fs::metadata(&self.path) {
            Ok(file) if identity(&file) == self.identity => None,
            Ok(_) => Some(format!("the database file {path} was replaced")),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Some(format!("the database file {path} was deleted or moved"))
            }
            // The folder cannot be searched now, say. That says nothing of the file.
            Err(_) => None,
        }
    }

    fn lost_companion(&self) -> Option<String> {
        let lost = self.companions.iter().find(|companion| companion.is_lost())?;
        Some(format!("the file {} was deleted or moved under an open database", lost.path.display()))
    }

    /// The first problem, which stays.
    fn first(&self, find: impl FnOnce() -> Option<String>) -> Option<String> {
        match self.lost.get() {
            Some(lost) => Some(lost.clone()),
            None => find().map(|found| self.lost.get_or_init(|| found).clone()),
        }
    }
}

impl Companion {
    fn is_lost(&self) -> bool {
        match self.path.try_exists() {
            Ok(false) => self.seen.load(Ordering::Relaxed),
            Ok(true) => {
                self.seen.store(true, Ordering::Relaxed);
                false
            }
            Err(_) => false,
        }
    }
}

impl DatabaseFiles for Files {
    fn problem(&self) -> Option<String> {
        self.first(|| self.lost_file())
    }

    fn problem_while_open(&self) -> Option<String> {
        self.first(|| self.lost_file().or_else(|| self.lost_companion()))
    }
}
