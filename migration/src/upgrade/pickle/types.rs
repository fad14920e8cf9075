//! The Python types that a pickle may name, and what they do with the arguments and states that Python pickles.
//!
//! These are the results of `__reduce_ex__` in the modules `datetime`, `decimal`, `uuid`, `pathlib` and `collections`,
//! and of pydantic's `BaseModel.__getstate__` for the models of google-adk and google-genai.

use super::{Id, MAX_TEXT, Node, PickleError, Result};
use std::fmt::Write as _;

/// How a Python type that a pickle names is handled.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A pydantic model or a string enum: inert data in both cases.
    Model,
    OrderedDict,
    DefaultDict,
    /// Accepted only as the factory of a `defaultdict`, and for `set` as what protocol 3 builds from a list.
    Builtin,
    ByteArray,
    Date,
    DateTime,
    Time,
    TimeDelta,
    TimeZone,
    Decimal,
    Path,
    Uuid,
}

impl Kind {
    fn of(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            // These modules contain only data; a type that a later google-adk or google-genai adds to them is data too.
            (
                "fastapi.openapi.models"
                | "google.adk.auth.auth_credential"
                | "google.adk.auth.auth_schemes"
                | "google.adk.auth.auth_tool"
                | "google.adk.events.event_actions"
                | "google.adk.events.ui_widget"
                | "google.adk.tools.tool_confirmation"
                | "google.genai.types",
                _,
            ) if name.bytes().all(|byte| byte.is_ascii_alphanumeric()) => Self::Model,
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("collections", "defaultdict") => Self::DefaultDict,
            ("builtins", "bytearray") => Self::ByteArray,
            ("builtins", "dict" | "list" | "set" | "tuple" | "str" | "bytes" | "int" | "float" | "bool") => {
                Self::Builtin
            }
            ("datetime", "date") => Self::Date,
            ("datetime", "datetime") => Self::DateTime,
            ("datetime", "time") => Self::Time,
            ("datetime", "timedelta") => Self::TimeDelta,
            ("datetime", "timezone") => Self::TimeZone,
            ("decimal", "Decimal") => Self::Decimal,
            ("uuid", "UUID") => Self::Uuid,
            ("pathlib" | "pathlib._local", "PurePosixPath" | "PosixPath") => Self::Path,
            _ => return None,
        })
    }
}

/// Returns the type with this name, if it is one that is decoded.
pub(super) fn global<'a>(module: &str, name: &'a str) -> Result<Node<'a>> {
    let kind = Kind::of(module, name).ok_or_else(|| PickleError::Type(format!("{module}.{name}")))?;
    Ok(Node::Class(kind, name))
}

/// Creates an object without its state, which [`built`] adds.
pub(super) fn new_object<'a>(nodes: &[Node<'a>], class: Id, arguments: Id) -> Result<Node<'a>> {
    match (&nodes[class], &nodes[arguments]) {
        (Node::Class(kind @ (Kind::Model | Kind::Uuid), name), Node::Tuple(items)) if items.is_empty() => {
            Ok(Node::Object(*kind, name, None))
        }
        (Node::Class(_, name), _) => Err(PickleError::Type(format!("a new object of {name}"))),
        _ => Err(PickleError::Malformed("a new object has no class")),
    }
}

/// Gives an object its state: a model keeps it; of a UUID's state only `int` matters.
pub(super) fn built<'a>(nodes: &[Node<'a>], object: Id, state: Id) -> Result<Node<'a>> {
    Ok(match &nodes[object] {
        Node::Object(Kind::Model, name, None) => Node::Object(Kind::Model, name, Some(state)),
        Node::Object(Kind::Uuid, ..) => {
            let uuid = part_of_state(nodes, state, "int").and_then(|id| uuid(&nodes[id]));
            Node::Text(uuid.ok_or(PickleError::Malformed("a UUID does not have 128 bits"))?)
        }
        Node::Object(_, name, _) => return Err(PickleError::Type(format!("a rebuilt {name}"))),
        _ => return Err(PickleError::Malformed("a state is set on a value that is not an object")),
    })
}

/// Returns the result of calling a type with the arguments that Python pickles.
pub(super) fn called<'a>(nodes: &[Node<'a>], class: Id, arguments: Id) -> Result<Node<'a>> {
    let (Node::Class(kind, name), Node::Tuple(ids)) = (&nodes[class], &nodes[arguments]) else {
        return Err(PickleError::Malformed("a value that is not a type is called"));
    };
    // Only a path takes more than three arguments.
    let given: Vec<&Node<'a>> = ids.iter().take(4).map(|id| &nodes[*id]).collect();
    let made = match (kind, &given[..]) {
        (Kind::Model, [Node::Str(value)]) => Some(Node::Str(value)),
        (Kind::OrderedDict, []) | (Kind::DefaultDict, [] | [Node::Class(..) | Node::None]) => {
            Some(Node::Dict(Vec::new()))
        }
        (Kind::Builtin, [Node::List(_)]) if *name == "set" => Some(Node::SetOf(ids[0])),
        (Kind::ByteArray, []) => Some(Node::Bytes(&[])),
        (Kind::ByteArray, [Node::Bytes(bytes)]) => Some(Node::Bytes(bytes)),
        (Kind::Date, [Node::Bytes(bytes)]) => date(bytes).map(Node::Text),
        (Kind::Time, [Node::Bytes(bytes), zone @ ..]) => with_zone(time(bytes), zone),
        (Kind::DateTime, [Node::Bytes(bytes), zone @ ..]) => with_zone(date_time(bytes), zone),
        (
            Kind::TimeDelta,
            [
                Node::Int(days @ -999_999_999..=999_999_999),
                Node::Int(seconds @ 0..86_400),
                Node::Int(micros @ 0..1_000_000),
            ],
        ) => Some(Node::Delta([*days, *seconds, *micros])),
        (
            Kind::TimeZone,
            [Node::Delta([days @ -1..=0, seconds, 0])] | [Node::Delta([days @ -1..=0, seconds, 0]), _],
        ) if seconds % 60 == 0 && (*days, *seconds) > (-1, 0) => Some(Node::Zone(days * 86_400 + seconds)),
        (Kind::Decimal, [Node::Str(text)]) if is_decimal(text) => Some(Node::Str(text)),
        (Kind::Path, _) => Some(Node::Path(arguments)),
        _ => None,
    };
    made.ok_or_else(|| PickleError::Type(format!("{name} with these arguments")))
}

/// Returns a part of an object's state. No state has more than four parts; searching more would not be charged to the
/// budget.
pub(super) fn part_of_state(nodes: &[Node<'_>], state: Id, key: &str) -> Option<Id> {
    let Node::Dict(pairs) = &nodes[state] else { return None };
    let found = pairs
        .get(..pairs.len().min(4))?
        .iter()
        .rfind(|(name, _)| matches!(nodes[*name], Node::Str(name) if name == key));
    found.map(|(_, value)| *value)
}

/// Formats a UUID, which Python pickles as a number.
fn uuid(node: &Node<'_>) -> Option<String> {
    let value = match node {
        Node::Int(value) => u128::try_from(*value).ok()?,
        // A UUID whose first bit is set needs a seventeenth byte for the sign.
        Node::Long(bytes) => {
            let (low, high) = bytes.split_at_checked(16).unwrap_or((bytes, &[]));
            if !matches!(high, [] | [0]) || (high.is_empty() && low.last()? & 0x80 != 0) {
                return None;
            }
            low.iter().rfold(0, |value, byte| value << 8 | u128::from(*byte))
        }
        _ => return None,
    };
    let mut text = format!("{value:032x}");
    for hyphen in [20, 16, 12, 8] {
        text.insert(hyphen, '-');
    }
    Some(text)
}

/// Returns the ISO 8601 text for a pickled `datetime.date`: two bytes for the year, one each for month and day.
fn date(bytes: &[u8]) -> Option<String> {
    let &[high, low, month @ 1..=12, day @ 1..=31] = bytes else { return None };
    let year = u16::from_be_bytes([high, low]);
    let days = match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    ((1..=9999).contains(&year) && day <= days).then(|| format!("{year:04}-{month:02}-{day:02}"))
}

/// Returns the ISO 8601 text for a pickled `datetime.time`: one byte each for hour, minute and second, three for
/// microseconds.
fn time(bytes: &[u8]) -> Option<String> {
    let &[hour, minute @ 0..60, second @ 0..60, high, middle, low] = bytes else { return None };
    let micros = u32::from_be_bytes([0, high, middle, low]);
    // The first bit (`fold`) distinguishes the second of two equal hours from the first; ISO 8601 cannot express it.
    let hour = hour & 0x7f;
    if hour >= 24 || micros >= 1_000_000 {
        return None;
    }
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    Some(format!("{hour:02}:{minute:02}:{second:02}{fraction}"))
}

/// A pickled `datetime.datetime` contains the bytes of its date and of its time; the first bit of the month is `fold`.
fn date_time(bytes: &[u8]) -> Option<String> {
    let &[high, low, month, ref rest @ ..] = bytes else { return None };
    let (day, clock) = rest.split_first()?;
    Some(format!("{}T{}", date(&[high, low, month & 0x7f, *day])?, time(clock)?))
}

/// Appends the offset of a time's zone as pydantic does: `Z` for an offset of zero, nothing without a zone.
fn with_zone<'a>(text: Option<String>, zone: &[&Node<'_>]) -> Option<Node<'a>> {
    let mut text = text?;
    match zone {
        [] | [Node::None] => {}
        [Node::Zone(0)] => text.push('Z'),
        [Node::Zone(seconds)] => {
            let (sign, minutes) = (if *seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
            write!(text, "{sign}{:02}:{:02}", minutes / 60, minutes % 60).ok()?;
        }
        _ => return None,
    }
    Some(Node::Text(text))
}

/// Whether Python writes a `Decimal` in this form; it would write any other form differently from how it is pickled.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let number = text.len() <= MAX_TEXT
        && digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b".E+-".contains(&byte));
    number || matches!(digits, "NaN" | "Infinity")
}
