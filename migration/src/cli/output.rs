//! Standard output and standard error, which may be closed or full: `println!` and `eprintln!` would panic.

use std::fmt::{self, Display};
use std::io::{self, ErrorKind, Write};

/// Standard output.
pub(crate) struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes).map_err(|error| output_error(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush().map_err(|error| output_error(&error))
    }
}

fn output_error(error: &io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::BrokenPipe => io::Error::new(ErrorKind::BrokenPipe, ReaderGone),
        kind => io::Error::new(kind, format!("standard output: {error}")),
    }
}

/// The error of [`Output`] when its reader is gone, as `head` is after ten lines. A connection to a database may break
/// with the same [`ErrorKind`].
#[derive(Debug)]
struct ReaderGone;

impl Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl std::error::Error for ReaderGone {}

/// Whether a command failed because nobody reads its output any more.
pub(crate) fn is_reader_gone(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>()?.get_ref())
        .any(<dyn std::error::Error + Send + Sync>::is::<ReaderGone>)
}

/// Prints a line for the user to standard error. If nobody can read it, the command does its work all the same.
pub(crate) fn message(text: impl Display) {
    let _: io::Result<()> = writeln!(io::stderr(), "{text}");
}
