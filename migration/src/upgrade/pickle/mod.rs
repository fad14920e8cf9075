//! Reads the pickles that google-adk's schema v0 keeps in `events.actions`.
//!
//! A pickle is a program for a stack machine that may name anything Python can import. This reader runs none of it:
//! it knows the opcodes and types that an `EventActions` of plain data needs, and refuses all others by name.
//!
//! [`machine`] runs the opcodes, [`types`] knows what the types would do that they name, and [`json`] writes the
//! outcome, with the help of [`text`].
//!
//! Values live in one arena and refer to each other by index. So a pickle's shared and cyclic references cost nothing
//! to build and nothing to drop, and only the writer, which has a depth and a budget, ever follows them.

mod json;
mod machine;
#[cfg(test)]
mod tests;
mod text;
mod types;

use types::Kind;

/// Values, stack slots and memo entries that one pickle may have, each.
const MAX_VALUES: usize = 1 << 20;
/// How deep the JSON may nest: `serde_json` reads 128 levels, and the actions stand inside an event.
const MAX_DEPTH: usize = 120;
/// Bytes that may be written, whatever the pickle: references let a small one stand for an endless document.
const MAX_WRITTEN: usize = 64 << 20;
/// Bytes that any pickle may stand for: as many as a state may have. A larger pickle may stand for so many times its
/// own.
const WRITTEN: usize = 4 << 20;
const GROWTH: usize = 16;
/// What a value costs beyond its text, in bytes: about as much time as so much text would take.
const VALUE: usize = 16;
/// Bytes of an integer: Python itself refuses to write those of more than 4300 digits.
const MAX_INT: usize = 1024;
/// Bytes of a path or a decimal, and parts of a path: these are joined and checked anew for each reference.
const MAX_TEXT: usize = 4096;

/// Why a pickle was not decoded.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum PickleError {
    /// The pickle ends before its value does.
    #[error("the pickle ends early, at byte {0}")]
    Truncated(usize),
    /// An opcode that the actions of an event do not need.
    #[error("opcode {opcode:#04x} at byte {at} is refused")]
    Opcode {
        /// The opcode.
        opcode: u8,
        /// Where in the pickle it stands.
        at: usize,
    },
    /// A Python type, named with its module, that is not decoded.
    #[error("{0} is refused")]
    Type(String),
    /// Bytes that are no pickle Python could have written.
    #[error("the pickle is malformed: {0}")]
    Malformed(&'static str),
    /// A value that has no JSON, or none that google-adk would store.
    #[error("{0} cannot be written as JSON")]
    Value(String),
    /// A limit that keeps hostile pickles from using up memory or time.
    #[error("the pickle exceeds the limit of {0}")]
    Limit(&'static str),
}

type Result<T, E = PickleError> = std::result::Result<T, E>;
/// A value's place in the arena.
type Id = usize;

/// One unpickled value.
enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits: two's complement, little endian.
    Long(&'a [u8]),
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    /// A value whose JSON is a string: a date, a time, a UUID.
    Text(String),
    List(Vec<Id>),
    Set(Vec<Id>),
    /// The set of a list's items.
    SetOf(Id),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A path, as the tuple of its parts.
    Path(Id),
    /// A type that the pickle names.
    Class(Kind, &'a str),
    /// Seconds east of UTC.
    Zone(i64),
    /// Days, seconds and microseconds.
    Delta([i64; 3]),
    /// An instance of a named class, and its state once that is known.
    Object(Kind, &'a str, Option<Id>),
}

/// Decodes a pickled `EventActions` into the JSON object that google-adk's own migration would store under `actions`.
///
/// The JSON is text because it may hold integers of any size, which `serde_json::Value` would round.
pub(super) fn decode_actions(pickle: &[u8]) -> Result<String> {
    let (nodes, root) = machine::run(pickle)?;
    let budget = MAX_WRITTEN.min(WRITTEN.max(pickle.len().saturating_mul(GROWTH)));
    json::actions(&nodes, root, budget)
}
