//! Standard output and standard error. They may be closed or full, where `println!` and `eprintln!` would panic, and
//! they may be terminals, which obey control characters in the names and texts of strangers.

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};
use std::io::{self, ErrorKind, Write};

/// Standard output. Line breaks and tabs are written as they are, other control characters [`escaped`]. In the JSON of
/// an export these stand only in strings, where the escaped text has the same value.
pub(crate) struct Output;

impl Write for Output {
    /// Writes the text that `bytes` begin with.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        };
        if text.is_empty() && !bytes.is_empty() {
            return Err(io::Error::new(ErrorKind::InvalidData, "standard output takes text only"));
        }
        let shown = escaped(text, &['\n', '\t']);
        io::stdout().write_all(shown.as_bytes()).map_err(|error| output_error(&error))?;
        Ok(text.len())
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

/// Prints a line for the user to standard error, with control characters [`escaped`]. If nobody can read it, the
/// command does its work all the same.
pub(crate) fn message(text: impl Display) {
    let _: io::Result<()> = writeln!(io::stderr(), "{}", escaped(&text.to_string(), &[]));
}

/// Returns the text with each control character that is not `kept` in JSON's notation: `\u001b` for ESC. Neither a
/// command to a terminal nor a change of the writing direction, which makes a text look like another, is left.
fn escaped<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let is_escaped = |character: char| is_control(character) && !kept.contains(&character);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_escaped(character) {
            // Writing to a string does not fail.
            let _: fmt::Result = write!(shown, "\\u{:04x}", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// Whether a terminal may obey the character: those of Unicode's category Cc (C0, DEL, C1), line and paragraph
/// separators, and the marks, embeddings, overrides and isolates of writing direction.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_nothing_else() {
        let text = "a\u{1b}]0;b\u{7}\r\u{7f}\u{9b}2J\u{200e}\u{202e}\u{2066}\n\tc";
        let shown = r"a\u001b]0;b\u0007\u000d\u007f\u009b2J\u200e\u202e\u2066";
        assert_eq!(escaped(text, &['\n', '\t']), format!("{shown}\n\tc"));
        assert_eq!(escaped(text, &[]), format!("{shown}\\u000a\\u0009c"));
        let harmless = "żółw 🐢, שלום, \u{a0}\u{200d}";
        assert!(matches!(escaped(harmless, &[]), Cow::Borrowed(text) if text == harmless));
    }
}
