//! Reads the pickles that google-adk's schema v0 keeps in `events.actions`.
//!
//! A pickle is a program for a stack machine that may name anything Python can import. This reader runs none of it:
//! it knows the opcodes and types that an `EventActions` of plain data needs, and refuses all others by name.
//!
//! Values live in one arena and refer to each other by index. So a pickle's shared and cyclic references cost nothing
//! to build and nothing to drop, and only the writer, which has a depth and a budget, ever follows them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write as _;

/// Values, stack slots and memo entries that one pickle may have, each.
const MAX_VALUES: usize = 1 << 20;
/// How deep the JSON may nest: `serde_json` reads 128 levels, and the actions stand inside an event.
const MAX_DEPTH: usize = 120;
/// Bytes that may be written: references let a small pickle stand for an endless document.
const MAX_WRITTEN: usize = 64 << 20;
/// What a value costs beyond its text, in bytes: about as much time as so much text would take.
const VALUE: usize = 16;
/// Bytes of an integer: Python itself refuses to write those of more than 4300 digits.
const MAX_INT: usize = 1024;
/// Bytes of a path or a decimal, and parts of a path: these are joined and checked anew for each reference.
const MAX_TEXT: usize = 4096;

/// Why a pickle was not decoded.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum PickleError {
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

/// What is done with a Python type that a pickle names.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A pydantic model or a string enum: inert data either way.
    Model,
    OrderedDict,
    DefaultDict,
    /// Accepted only as the factory of a `defaultdict`, and for `set` as what protocol 3 makes of a list.
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
            // These modules hold nothing but data; a version of google-adk or google-genai that adds a type adds data.
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

/// One unpickled value.
#[derive(Debug)]
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
pub(crate) fn decode_actions(pickle: &[u8]) -> Result<String> {
    let mut machine = Machine { input: pickle, at: 0, nodes: Vec::new(), stack: Vec::new(), memo: HashMap::new() };
    let root = machine.run()?;
    let mut writer = Writer { nodes: &machine.nodes, json: String::new(), left: MAX_WRITTEN };
    writer.actions(root)?;
    Ok(writer.json)
}

/// The stack machine of the pickle format.
struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    /// `None` is the mark that delimits the items of a collection.
    stack: Vec<Option<Id>>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id> {
        if self.take(1)? != b"\x80" || !(2..=5).contains(&self.byte()?) {
            return Err(PickleError::Malformed("it does not begin with a protocol of 2 to 5"));
        }
        loop {
            let at = self.at;
            let node = match self.byte()? {
                b'.' => return self.stop(),
                b'N' => Node::None,
                0x88 => Node::Bool(true),
                0x89 => Node::Bool(false),
                b'K' => Node::Int(self.byte()?.into()),
                b'M' => Node::Int(u16::from_le_bytes(self.array()?).into()),
                b'J' => Node::Int(i32::from_le_bytes(self.array()?).into()),
                0x8a => self.int(1)?,
                0x8b => self.int(4)?,
                b'G' => Node::Float(f64::from_be_bytes(self.array()?)),
                0x8c => self.text(1)?,
                b'X' => self.text(4)?,
                b'C' => Node::Bytes(self.counted(1)?),
                b'B' => Node::Bytes(self.counted(4)?),
                0x96 => Node::Bytes(self.counted(8)?),
                b'}' => Node::Dict(Vec::new()),
                b']' => Node::List(Vec::new()),
                0x8f => Node::Set(Vec::new()),
                b')' => Node::Tuple(Vec::new()),
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => Node::Tuple(self.marked()?),
                0x91 => Node::Set(self.marked()?),
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    global(module, name)?
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.nodes[module], &self.nodes[name]) {
                        (Node::Str(module), Node::Str(name)) => global(module, name)?,
                        _ => return Err(PickleError::Malformed("the name of a type is no string")),
                    }
                }
                b'R' => self.reduce()?,
                0x81 => self.new_object()?,
                other => {
                    self.act(other, at)?;
                    continue;
                }
            };
            if self.nodes.len() == MAX_VALUES {
                return Err(PickleError::Limit("values"));
            }
            self.nodes.push(node);
            self.push(Some(self.nodes.len() - 1))?;
        }
    }

    /// The opcodes that make no value of their own.
    fn act(&mut self, opcode: u8, at: usize) -> Result<()> {
        match opcode {
            // A frame is a hint for reading from a stream: the opcodes within stand by themselves.
            0x95 => {
                let length = self.number(8)?;
                if length <= self.input.len() - self.at { Ok(()) } else { Err(self.truncated()) }
            }
            b'(' => self.push(None),
            b'a' => {
                let item = self.pop()?;
                self.extend(&[item])
            }
            b'e' | 0x90 => {
                let items = self.marked()?;
                self.extend(&items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])
            }
            b'u' => {
                let items = self.marked()?;
                self.set_items(&items)
            }
            b'b' => self.build(),
            0x94 => self.remember(self.memo.len()),
            b'q' | b'r' => {
                let index = self.number(if opcode == b'q' { 1 } else { 4 })?;
                self.remember(index)
            }
            b'h' | b'j' => {
                let index = self.number(if opcode == b'h' { 1 } else { 4 })?;
                self.recall(index)
            }
            _ => Err(PickleError::Opcode { opcode, at }),
        }
    }

    fn stop(&mut self) -> Result<Id> {
        let root = self.pop()?;
        if self.stack.is_empty() && self.at == self.input.len() {
            Ok(root)
        } else {
            Err(PickleError::Malformed("more follows the value"))
        }
    }

    fn truncated(&self) -> PickleError {
        PickleError::Truncated(self.input.len())
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, _) = self.input[self.at..].split_at_checked(length).ok_or_else(|| self.truncated())?;
        self.at += length;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| self.truncated())
    }

    fn number(&mut self, width: usize) -> Result<usize> {
        let number = self.take(width)?.iter().rfold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).map_err(|_| self.truncated())
    }

    /// Bytes preceded by their number, itself of `width` bytes.
    fn counted(&mut self, width: usize) -> Result<&'a [u8]> {
        let length = self.number(width)?;
        self.take(length)
    }

    fn text(&mut self, width: usize) -> Result<Node<'a>> {
        // Python writes a lone surrogate as if it were a character; neither JSON nor UTF-8 has it.
        let text = std::str::from_utf8(self.counted(width)?);
        text.map(Node::Str).map_err(|_| PickleError::Value("a string with a lone surrogate".into()))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.input[self.at..];
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| self.truncated())?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| PickleError::Malformed("the name of a type is not UTF-8"))
    }

    fn int(&mut self, width: usize) -> Result<Node<'a>> {
        let bytes = self.counted(width)?;
        if bytes.len() > MAX_INT {
            return Err(PickleError::Limit("digits of an integer"));
        }
        let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut word = [fill; 8];
        Ok(match word.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(word))
            }
            None => Node::Long(bytes),
        })
    }

    fn push(&mut self, slot: Option<Id>) -> Result<()> {
        if self.stack.len() == MAX_VALUES {
            return Err(PickleError::Limit("stack slots"));
        }
        self.stack.push(slot);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        self.stack.pop().flatten().ok_or(PickleError::Malformed("a value is missing on the stack"))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().flatten().ok_or(PickleError::Malformed("a value is missing on the stack"))
    }

    fn marked(&mut self) -> Result<Vec<Id>> {
        let mark = self.stack.iter().rposition(Option::is_none).ok_or(PickleError::Malformed("a mark is missing"))?;
        let items = self.stack.drain(mark..).flatten().collect();
        Ok(items)
    }

    fn tuple(&mut self, length: usize) -> Result<Node<'a>> {
        let mut items = (0..length).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        Ok(Node::Tuple(items))
    }

    fn remember(&mut self, index: usize) -> Result<()> {
        if self.memo.len() == MAX_VALUES {
            return Err(PickleError::Limit("memo entries"));
        }
        self.memo.insert(index, self.top()?);
        Ok(())
    }

    fn recall(&mut self, index: usize) -> Result<()> {
        let id = *self.memo.get(&index).ok_or(PickleError::Malformed("it recalls what it did not remember"))?;
        self.push(Some(id))
    }

    fn extend(&mut self, new: &[Id]) -> Result<()> {
        let target = self.top()?;
        match &mut self.nodes[target] {
            Node::List(items) | Node::Set(items) => items.extend_from_slice(new),
            _ => return Err(PickleError::Malformed("items are added to what is no collection")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let target = self.top()?;
        match (&mut self.nodes[target], items.as_chunks()) {
            (Node::Dict(pairs), (new, [])) => pairs.extend(new.iter().map(|[key, value]| (*key, *value))),
            _ => return Err(PickleError::Malformed("items are set on what is no dict")),
        }
        Ok(())
    }

    /// Makes an object that `build` gives its state.
    fn new_object(&mut self) -> Result<Node<'a>> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        match (&self.nodes[class], &self.nodes[arguments]) {
            (Node::Class(kind @ (Kind::Model | Kind::Uuid), name), Node::Tuple(items)) if items.is_empty() => {
                Ok(Node::Object(*kind, name, None))
            }
            (Node::Class(_, name), _) => Err(PickleError::Type(format!("a new object of {name}"))),
            _ => Err(PickleError::Malformed("a new object has no class")),
        }
    }

    fn build(&mut self) -> Result<()> {
        let (state, object) = (self.pop()?, self.top()?);
        let built = match &self.nodes[object] {
            Node::Object(Kind::Model, name, None) => Node::Object(Kind::Model, name, Some(state)),
            Node::Object(Kind::Uuid, ..) => {
                let uuid = part_of_state(&self.nodes, state, "int").and_then(|id| uuid(&self.nodes[id]));
                Node::Text(uuid.ok_or(PickleError::Malformed("a UUID is not of 128 bits"))?)
            }
            Node::Object(_, name, _) => return Err(PickleError::Type(format!("a rebuilt {name}"))),
            _ => return Err(PickleError::Malformed("a state is set on what is no object")),
        };
        self.nodes[object] = built;
        Ok(())
    }

    /// Where Python calls a type on arguments, this knows what the call would make.
    fn reduce(&mut self) -> Result<Node<'a>> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let (Node::Class(kind, name), Node::Tuple(ids)) = (&self.nodes[class], &self.nodes[arguments]) else {
            return Err(PickleError::Malformed("what is called is no type"));
        };
        // No type but a path is given more than three.
        let given: Vec<&Node<'a>> = ids.iter().take(4).map(|id| &self.nodes[*id]).collect();
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
            (Kind::TimeDelta, [Node::Int(days), Node::Int(seconds), Node::Int(micros)])
                if days.abs() < 1_000_000_000 && (0..86_400).contains(seconds) && (0..1_000_000).contains(micros) =>
            {
                Some(Node::Delta([*days, *seconds, *micros]))
            }
            (
                Kind::TimeZone,
                [Node::Delta([days @ -1..=0, seconds, 0])] | [Node::Delta([days @ -1..=0, seconds, 0]), _],
            ) if seconds % 60 == 0 && (*days, *seconds) > (-1, 0) => Some(Node::Zone(days * 86_400 + seconds)),
            (Kind::Decimal, [Node::Str(text)]) if is_decimal(text) => Some(Node::Str(text)),
            (Kind::Path, _) => Some(Node::Path(arguments)),
            _ => None,
        };
        made.ok_or_else(|| PickleError::Type(format!("{name} of these arguments")))
    }
}

/// The type of a name, if it is one that is decoded.
fn global<'a>(module: &str, name: &'a str) -> Result<Node<'a>> {
    let kind = Kind::of(module, name).ok_or_else(|| PickleError::Type(format!("{module}.{name}")))?;
    Ok(Node::Class(kind, name))
}

/// A part of an object's state. No state has more than four; a search in more of them would not be paid for.
fn part_of_state(nodes: &[Node<'_>], state: Id, key: &str) -> Option<Id> {
    let Node::Dict(pairs) = &nodes[state] else { return None };
    let found = pairs
        .get(..pairs.len().min(4))?
        .iter()
        .rfind(|(name, _)| matches!(nodes[*name], Node::Str(name) if name == key));
    found.map(|(_, value)| *value)
}

fn uuid(node: &Node<'_>) -> Option<String> {
    let value = match node {
        Node::Int(value) => u128::try_from(*value).ok()?,
        // The sign takes a seventeenth byte where the first bit is set.
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

fn time(bytes: &[u8]) -> Option<String> {
    let &[hour, minute @ 0..60, second @ 0..60, high, middle, low] = bytes else { return None };
    let micros = u32::from_be_bytes([0, high, middle, low]);
    // The first bit tells the second of two equal hours from the first; ISO 8601 cannot.
    let hour = hour & 0x7f;
    if hour >= 24 || micros >= 1_000_000 {
        return None;
    }
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    Some(format!("{hour:02}:{minute:02}:{second:02}{fraction}"))
}

fn date_time(bytes: &[u8]) -> Option<String> {
    let &[high, low, month, ref rest @ ..] = bytes else { return None };
    let (day, clock) = rest.split_first()?;
    Some(format!("{}T{}", date(&[high, low, month & 0x7f, *day])?, time(clock)?))
}

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

/// An ISO 8601 duration the way pydantic writes it: a year is 365 days.
fn duration([days, seconds, micros]: [i64; 3]) -> String {
    let total = (i128::from(days) * 86_400 + i128::from(seconds)) * 1_000_000 + i128::from(micros);
    let (sign, total) = (if total < 0 { "-" } else { "" }, total.unsigned_abs());
    let (clock, micros) = (total / 1_000_000 % 86_400, total % 1_000_000);
    let days = total / 86_400_000_000;
    let part = |value: u128, unit: char| if value == 0 { String::new() } else { format!("{value}{unit}") };
    let date = part(days / 365, 'Y') + &part(days % 365, 'D');
    let mut time = part(clock / 3600, 'H') + &part(clock / 60 % 60, 'M');
    if micros == 0 {
        time += &part(clock % 60, 'S');
    } else {
        time += format!("{}.{micros:06}", clock % 60).trim_end_matches('0');
        time.push('S');
    }
    match (date.is_empty(), time.is_empty()) {
        (true, true) => "PT0S".into(),
        (false, true) => format!("{sign}P{date}"),
        (_, false) => format!("{sign}P{date}T{time}"),
    }
}

/// Whether Python writes a `Decimal` so; others it would write differently from how they are pickled.
fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let number = text.len() <= MAX_TEXT
        && digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b".E+-".contains(&byte));
    number || matches!(digits, "NaN" | "Infinity")
}

/// A POSIX path the way Python writes it: up to 3.12 the parts are those of the path, since 3.13 those it was made of.
fn path(nodes: &[Node<'_>], parts: Id) -> Option<String> {
    let Node::Tuple(parts) = &nodes[parts] else { return None };
    if parts.len() > MAX_TEXT {
        return None;
    }
    let mut joined = String::new();
    for part in parts {
        let Node::Str(part) = nodes[*part] else { return None };
        if part.starts_with('/') {
            joined.clear();
        } else if !joined.is_empty() && !joined.ends_with('/') {
            joined.push('/');
        }
        if joined.len() + part.len() > MAX_TEXT {
            return None;
        }
        joined.push_str(part);
    }
    let root = match joined.bytes().take_while(|byte| *byte == b'/').count() {
        0 => "",
        2 => "//",
        _ => "/",
    };
    let names: Vec<&str> = joined.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    Some(if root.is_empty() && names.is_empty() { ".".into() } else { format!("{root}{}", names.join("/")) })
}

/// A number as Python's `repr` writes it: with an exponent of two digits at least, below 1e-4 and from 1e16.
fn python_float(float: f64) -> String {
    let scientific = format!("{float:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(exponent) if float != 0.0 && !(-4..16).contains(&exponent) => {
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ => {
            let plain = float.to_string();
            if plain.contains('.') { plain } else { plain + ".0" }
        }
    }
}

/// Base64 of the alphabet for URLs, which pydantic uses for bytes.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, index| bits << 8 | usize::from(chunk.get(index).copied().unwrap_or(0)));
        for digit in 0..4 {
            let letter = ALPHABET[bits >> (18 - 6 * digit) & 0x3f];
            text.push(if digit > chunk.len() { '=' } else { letter.into() });
        }
    }
    text
}

/// The decimal digits of an integer in two's complement, little endian.
fn decimal(bytes: &[u8]) -> String {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut carry = negative;
    let mut magnitude = Vec::with_capacity(bytes.len());
    for byte in bytes {
        let (byte, carried) = (byte ^ if negative { 0xff } else { 0 }).overflowing_add(carry.into());
        carry = carried;
        magnitude.push(byte);
    }
    let mut groups = Vec::new();
    while !magnitude.is_empty() {
        let mut rest = 0_u64;
        for byte in magnitude.iter_mut().rev() {
            rest = rest << 8 | u64::from(*byte);
            *byte = (rest / 1_000_000_000).to_le_bytes()[0];
            rest %= 1_000_000_000;
        }
        groups.push(rest);
        magnitude.truncate(magnitude.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    }
    let mut digits = String::new();
    for group in groups.iter().rev() {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{group:09}");
    }
    let digits = digits.trim_start_matches('0');
    format!("{}{}", if negative { "-" } else { "" }, if digits.is_empty() { "0" } else { digits })
}

/// Where in the actions a value stands, which decides how pydantic writes it.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// In a field of type `Any`, where the migration has made a plain dict of every model before it writes.
    Any,
    /// In a field of a model, where fields that are `None` are left out.
    Field,
    /// In a field of an `AuthConfig`.
    Auth,
}

/// Fields that the migration adds to an auth config as defaults that older versions did not have. An `APIKey` gets one
/// that was not meant for it: google-adk reads every scheme without a scheme of its own back as `HTTPBearer`.
const AUTH_DEFAULTS: [(&str, &str, &str); 3] = [
    ("OAuth2Auth", "token_endpoint_auth_method", r#""client_secret_basic""#),
    ("ServiceAccount", "use_id_token", "false"),
    ("APIKey", "scheme", r#""bearer""#),
];

/// Writes values of the arena as JSON.
struct Writer<'a> {
    nodes: &'a [Node<'a>],
    json: String,
    /// What is left of [`MAX_WRITTEN`].
    left: usize,
}

impl<'a> Writer<'a> {
    fn actions(&mut self, root: Id) -> Result<()> {
        let fields = self.fields(root, "EventActions")?;
        self.json.push('{');
        for name in ["state_delta", "artifact_delta", "requested_auth_configs", "requested_tool_confirmations"] {
            if !fields.iter().any(|(field, _)| field == name) {
                self.member(name);
                self.json.push_str("{}");
            }
        }
        for (name, id) in fields {
            let node = &self.nodes[id];
            // Every field that may be `None` has that as its default; the others are checked below.
            let required = name.ends_with("_delta") || name.starts_with("requested_");
            if matches!(node, Node::None) && !required {
                continue;
            }
            self.member(&name);
            match (&*name, node) {
                ("skip_summarization" | "escalate" | "end_of_agent" | "route", Node::Bool(_))
                | ("transfer_to_agent" | "transfer_reason" | "rewind_before_invocation_id" | "route", Node::Str(_))
                | ("route", Node::Int(_) | Node::Long(_))
                | ("set_model_response", _) => self.value(id, Place::Any, 1)?,
                ("route", Node::List(items))
                    if items.iter().all(|item| {
                        matches!(self.nodes[*item], Node::Bool(_) | Node::Int(_) | Node::Long(_) | Node::Str(_))
                    }) =>
                {
                    self.value(id, Place::Any, 1)?;
                }
                ("state_delta" | "agent_state", Node::Dict(pairs)) => {
                    self.map(&name, pairs, |writer, value| writer.value(value, Place::Any, 2))?;
                }
                ("artifact_delta", Node::Dict(pairs)) => self.map(&name, pairs, |writer, value| {
                    matches!(writer.nodes[value], Node::Int(_) | Node::Long(_))
                        .then(|| writer.value(value, Place::Any, 2))
                        .unwrap_or_else(|| Err(PickleError::Value("an artifact's version that is no integer".into())))
                })?,
                ("requested_auth_configs", Node::Dict(pairs)) => {
                    self.map(&name, pairs, |writer, value| writer.model("AuthConfig", value, Place::Auth, 2))?;
                }
                ("requested_tool_confirmations", Node::Dict(pairs)) => {
                    self.map(&name, pairs, |writer, value| writer.model("ToolConfirmation", value, Place::Field, 2))?;
                }
                ("compaction", _) => self.model("EventCompaction", id, Place::Field, 1)?,
                ("render_ui_widgets", Node::List(items)) => {
                    self.json.push('[');
                    for item in items {
                        self.separate();
                        self.model("UiWidget", *item, Place::Field, 2)?;
                    }
                    self.json.push(']');
                }
                _ => return Err(PickleError::Value(format!("the field `{name}` as it is"))),
            }
        }
        self.json.push('}');
        Ok(())
    }

    /// A dict of which every key is a string, as the fields of `EventActions` are.
    fn map(
        &mut self,
        name: &str,
        pairs: &'a [(Id, Id)],
        mut write: impl FnMut(&mut Self, Id) -> Result<()>,
    ) -> Result<()> {
        if pairs.iter().any(|(key, _)| !matches!(self.nodes[*key], Node::Str(_))) {
            return Err(PickleError::Value(format!("a key of `{name}` that is no string")));
        }
        self.json.push('{');
        for (key, value) in self.entries(pairs, &[])? {
            self.member(&key);
            write(self, value)?;
        }
        self.json.push('}');
        Ok(())
    }

    fn model(&mut self, class: &str, id: Id, place: Place, depth: usize) -> Result<()> {
        match self.nodes[id] {
            Node::Object(Kind::Model, name, Some(_)) if name == class => self.value(id, place, depth),
            _ => Err(PickleError::Value(format!("what is no {class}, where one belongs,"))),
        }
    }

    fn value(&mut self, id: Id, place: Place, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(PickleError::Limit("nesting"));
        }
        self.spend(VALUE)?;
        match &self.nodes[id] {
            Node::None => self.json.push_str("null"),
            Node::Bool(true) => self.json.push_str("true"),
            Node::Bool(false) => self.json.push_str("false"),
            Node::Int(_) | Node::Long(_) => {
                let digits = self.text(id)?;
                self.json.push_str(&digits);
            }
            // `{:?}` is the shortest text that reads back as the same double.
            Node::Float(value) if value.is_finite() => {
                let _ = write!(self.json, "{value:?}");
            }
            Node::Float(_) if place == Place::Any => self.json.push_str("null"),
            Node::Float(value) => return Err(PickleError::Value(format!("{value} in a field"))),
            // As such, these are text of a different kind in an auth config than everywhere else.
            Node::Bytes(_) if place == Place::Auth => return Err(PickleError::Value("bytes in an auth config".into())),
            Node::Str(_) | Node::Bytes(_) | Node::Text(_) | Node::Delta(_) | Node::Path(_) => {
                let text = self.text(id)?;
                self.string(&text);
            }
            Node::List(items) | Node::Set(items) | Node::Tuple(items) => {
                self.json.push('[');
                for item in items {
                    self.separate();
                    self.value(*item, place, depth + 1)?;
                }
                self.json.push(']');
            }
            Node::SetOf(list) => self.value(*list, place, depth + 1)?,
            Node::Dict(pairs) => {
                let place = if place == Place::Auth { place } else { Place::Any };
                self.json.push('{');
                for (key, value) in self.entries(pairs, &[])? {
                    self.member(&key);
                    self.value(value, place, depth + 1)?;
                }
                self.json.push('}');
            }
            Node::Object(_, name, _) => {
                let fields = self.fields(id, name)?;
                self.json.push('{');
                for (class, field, default) in AUTH_DEFAULTS {
                    if place == Place::Auth && class == *name && !fields.iter().any(|(name, _)| name == field) {
                        self.member(field);
                        self.json.push_str(default);
                    }
                }
                for (field, value) in fields {
                    if place == Place::Any || !matches!(self.nodes[value], Node::None) {
                        self.member(&field);
                        self.value(value, place, depth + 1)?;
                    }
                }
                self.json.push('}');
            }
            Node::Class(_, name) => return Err(PickleError::Value(format!("the type {name}"))),
            Node::Zone(_) => return Err(PickleError::Value("a time zone on its own".into())),
        }
        Ok(())
    }

    /// The fields of a model, extra ones last: `__pydantic_private__` is never written.
    fn fields(&mut self, id: Id, class: &str) -> Result<Vec<(Cow<'a, str>, Id)>> {
        let Node::Object(Kind::Model, name, Some(state)) = self.nodes[id] else {
            return Err(PickleError::Value(format!("what is no {class}")));
        };
        let declared = part_of_state(self.nodes, state, "__dict__");
        let extra = part_of_state(self.nodes, state, "__pydantic_extra__");
        if name != class {
            return Err(PickleError::Value(format!("a {name} that should be a {class}")));
        }
        let Some(Node::Dict(declared)) = declared.map(|id| &self.nodes[id]) else {
            return Err(PickleError::Malformed("a model has no fields"));
        };
        match extra.map(|id| &self.nodes[id]) {
            Some(Node::Dict(extra)) => self.entries(declared, extra),
            Some(Node::None) | None => self.entries(declared, &[]),
            Some(_) => Err(PickleError::Malformed("the extra fields of a model are no dict")),
        }
    }

    /// The members of an object. Keys that differ in Python may be the same in JSON; there as here the last one wins.
    fn entries(&mut self, pairs: &'a [(Id, Id)], more: &'a [(Id, Id)]) -> Result<Vec<(Cow<'a, str>, Id)>> {
        self.spend(VALUE * (pairs.len() + more.len()))?;
        let mut entries: Vec<(Cow<'a, str>, Id)> = Vec::with_capacity(pairs.len());
        let mut places: HashMap<Cow<'a, str>, usize> = HashMap::with_capacity(pairs.len());
        for (key, value) in pairs.iter().chain(more) {
            let key = self.text(*key)?;
            match places.entry(key.clone()) {
                Entry::Occupied(place) => entries[*place.get()].1 = *value,
                Entry::Vacant(place) => {
                    place.insert(entries.len());
                    entries.push((key, *value));
                }
            }
        }
        Ok(entries)
    }

    /// The text of a value that can be the key of an object.
    fn text(&mut self, id: Id) -> Result<Cow<'a, str>> {
        let text: Cow<'a, str> = match &self.nodes[id] {
            Node::Str(text) => (*text).into(),
            Node::Text(text) => text.into(),
            Node::Bytes(bytes) => base64(bytes).into(),
            Node::Delta(delta) => duration(*delta).into(),
            Node::Int(value) => value.to_string().into(),
            Node::Long(bytes) => {
                // Its digits take time by the square of its length.
                self.spend(bytes.len() * bytes.len() / 16)?;
                decimal(bytes).into()
            }
            Node::Bool(true) => "true".into(),
            Node::Bool(false) => "false".into(),
            Node::None => "None".into(),
            Node::Path(parts) => match path(self.nodes, *parts) {
                Some(text) => text.into(),
                None => return Err(PickleError::Value("a path of such parts".into())),
            },
            Node::Float(float) => python_float(*float).into(),
            _ => return Err(PickleError::Value("a key that is a collection".into())),
        };
        self.spend(text.len())?;
        Ok(text)
    }

    fn spend(&mut self, cost: usize) -> Result<()> {
        self.left = self.left.checked_sub(cost).ok_or(PickleError::Limit("size"))?;
        Ok(())
    }

    fn separate(&mut self) {
        if !self.json.ends_with(['{', '[']) {
            self.json.push(',');
        }
    }

    fn member(&mut self, name: &str) {
        self.separate();
        self.string(name);
        self.json.push(':');
    }

    fn string(&mut self, text: &str) {
        self.json.push_str(&serde_json::Value::from(text).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::{PickleError, decode_actions};
    use serde_json::Value;

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |byte: &u8| u8::try_from(char::from(*byte).to_digit(16).unwrap()).unwrap();
        hex.as_bytes().chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
    }

    /// `state_delta` with `value`, given as opcodes, under the key `k`.
    fn state_of(value: &[u8]) -> Vec<u8> {
        let start = b"\x80\x04\x8c\x1fgoogle.adk.events.event_actions\x8c\x0cEventActions\x93)\x81}\x8c\x08__dict__}\
            \x8c\x0bstate_delta}\x8c\x01k";
        [start, value, b"sssb."].concat()
    }

    /// What google-adk 2.13.0's migration makes of actions that these versions pickled.
    #[test]
    fn yields_what_the_migration_yields() {
        for (sample, pickle, expected) in SAMPLES {
            let decoded = decode_actions(&bytes(pickle)).unwrap();
            let [decoded, expected] = [&*decoded, *expected].map(|json| serde_json::from_str::<Value>(json).unwrap());
            assert_eq!(decoded, expected, "{sample}");
        }
    }

    #[test]
    fn rounds_no_integer() {
        let json = decode_actions(&state_of(b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00")).unwrap();
        assert!(json.contains(r#"{"k":18446744073709551615}"#), "{json}");
        let json = decode_actions(&state_of(b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\xff")).unwrap();
        assert!(json.contains(r#"{"k":-18446744073709551616}"#), "{json}");
    }

    #[test]
    fn names_what_it_refuses() {
        let refused = |value: &[u8]| decode_actions(&state_of(value)).unwrap_err();
        assert_eq!(refused(b"\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R"), PickleError::Type("os.system".into()));
        assert_eq!(refused(b"cbuiltins\neval\n"), PickleError::Type("builtins.eval".into()));
        assert_eq!(
            refused(b"\x8c\x04uuid\x8c\x0fUUID.__module__\x93"),
            PickleError::Type("uuid.UUID.__module__".into())
        );
        assert!(matches!(refused(b"(ios\nsystem\n"), PickleError::Opcode { opcode: b'i', .. }));
        assert!(matches!(refused(b"\x8c\x01\xed"), PickleError::Value(_)));
    }

    #[test]
    fn bounds_what_it_reads_and_writes() {
        for huge in [&b"\x96\xff\xff\xff\xff\xff\xff\xff\xff"[..], b"B\xff\xff\xff\xff", b"\x8b\xff\xff\xff\xff"] {
            assert!(matches!(decode_actions(&state_of(huge)), Err(PickleError::Truncated(_))));
        }
        let nested = |depth: usize| decode_actions(&state_of(&[b"]".repeat(depth), b"a".repeat(depth - 1)].concat()));
        assert!(nested(100).is_ok());
        assert_eq!(nested(100_000), Err(PickleError::Limit("nesting")));
        assert_eq!(decode_actions(&state_of(b"]\x94h\x00a")), Err(PickleError::Limit("nesting")));
        // A hundred lists, each of which holds the one before four times.
        let lists: Vec<u8> = (0..100)
            .flat_map(|list| [b']', b'q', list + 1, b'(', b'h', list, b'h', list, b'h', list, b'h', list, b'e'])
            .collect();
        assert_eq!(decode_actions(&state_of(&[b"(]q\0", &lists[..], b"t"].concat())), Err(PickleError::Limit("size")));
    }

    #[test]
    fn refuses_what_is_cut_short() {
        for (sample, pickle, _) in SAMPLES {
            let pickle = bytes(pickle);
            for end in 0..pickle.len() {
                assert!(decode_actions(&pickle[..end]).is_err(), "{sample} up to {end}");
            }
        }
    }

    /// Version of google-adk and protocol, pickle, and JSON.
    const SAMPLES: &[(&str, &str, &str)] = &[
        (
            "empty, 1.0.0, protocol 5",
            "8005950a010000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e944e\
         8c0b73746174655f64656c7461947d948c0e61727469666163745f64656c7461947d948c117472616e736665725f746f5f616765\
         6e74944e8c08657363616c617465944e8c167265717565737465645f617574685f636f6e66696773947d94758c125f5f70796461\
         6e7469635f65787472615f5f944e8c175f5f707964616e7469635f6669656c64735f7365745f5f948f948c145f5f707964616e74\
         69635f707269766174655f5f944e75622e",
            "{\"state_delta\":{},\"artifact_delta\":{},\"requested_auth_configs\":{},\"requested_tool_confirmat\
         ions\":{}}",
        ),
        (
            "empty, 2.13.0, protocol 3",
            "800363676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e730a4576656e74416374696f6e730a71002981\
         71017d71022858080000005f5f646963745f5f71037d7104285812000000736b69705f73756d6d6172697a6174696f6e71054e58\
         0b00000073746174655f64656c746171067d7107580e00000061727469666163745f64656c746171087d71095811000000747261\
         6e736665725f746f5f6167656e74710a4e580f0000007472616e736665725f726561736f6e710b4e5808000000657363616c6174\
         65710c4e58160000007265717565737465645f617574685f636f6e66696773710d7d710e581c0000007265717565737465645f74\
         6f6f6c5f636f6e6669726d6174696f6e73710f7d7110580a000000636f6d70616374696f6e71114e580c000000656e645f6f665f\
         6167656e7471124e580b0000006167656e745f737461746571134e581b000000726577696e645f6265666f72655f696e766f6361\
         74696f6e5f696471144e5805000000726f75746571154e581100000072656e6465725f75695f7769646765747371164e58120000\
         007365745f6d6f64656c5f726573706f6e736571174e7558120000005f5f707964616e7469635f65787472615f5f71184e581700\
         00005f5f707964616e7469635f6669656c64735f7365745f5f7119636275696c74696e730a7365740a711a5d711b85711c52711d\
         58140000005f5f707964616e7469635f707269766174655f5f711e4e75622e",
            "{\"state_delta\":{},\"artifact_delta\":{},\"requested_auth_configs\":{},\"requested_tool_confirmat\
         ions\":{}}",
        ),
        (
            "simple, 2.13.0, protocol 5",
            "800595cd010000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e9489\
         8c0b73746174655f64656c7461947d948c0e61727469666163745f64656c7461947d948c117472616e736665725f746f5f616765\
         6e74948c056f74686572948c0f7472616e736665725f726561736f6e944e8c08657363616c61746594888c167265717565737465\
         645f617574685f636f6e66696773947d948c1c7265717565737465645f746f6f6c5f636f6e6669726d6174696f6e73947d948c0a\
         636f6d70616374696f6e944e8c0c656e645f6f665f6167656e74944e8c0b6167656e745f7374617465944e8c1b726577696e645f\
         6265666f72655f696e766f636174696f6e5f6964944e8c05726f757465944e8c1172656e6465725f75695f77696467657473944e\
         8c127365745f6d6f64656c5f726573706f6e7365944e758c125f5f707964616e7469635f65787472615f5f944e8c175f5f707964\
         616e7469635f6669656c64735f7365745f5f948f94286807680f680c908c145f5f707964616e7469635f707269766174655f5f94\
         4e75622e",
            "{\"skip_summarization\":false,\"state_delta\":{},\"artifact_delta\":{},\"transfer_to_agent\":\"oth\
         er\",\"escalate\":true,\"requested_auth_configs\":{},\"requested_tool_confirmations\":{}}",
        ),
        (
            "state_delta.none, 1.0.0, protocol 5",
            "80059517010000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e944e\
         8c0b73746174655f64656c7461947d948c046e6f6e65944e738c0e61727469666163745f64656c7461947d948c117472616e7366\
         65725f746f5f6167656e74944e8c08657363616c617465944e8c167265717565737465645f617574685f636f6e66696773947d94\
         758c125f5f707964616e7469635f65787472615f5f944e8c175f5f707964616e7469635f6669656c64735f7365745f5f948f9428\
         6808908c145f5f707964616e7469635f707269766174655f5f944e75622e",
            "{\"state_delta\":{\"none\":null},\"artifact_delta\":{},\"requested_auth_configs\":{},\"requested_t\
         ool_confirmations\":{}}",
        ),
        (
            "state_delta.keys, 1.0.0, protocol 4",
            "8004958c010000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e944e\
         8c0b73746174655f64656c7461947d948c046b657973947d94284b014b044e8c016e94898c0166948c086461746574696d65948c\
         0464617465949394430407e8010194859452944b014301ff944b028c0475756964948c04555549449493942981947d948c03696e\
         74944b0173624b03680e8c0974696d6564656c74619493944b014b004b00879452944b0575738c0e61727469666163745f64656c\
         7461947d948c117472616e736665725f746f5f6167656e74944e8c08657363616c617465944e8c167265717565737465645f6175\
         74685f636f6e66696773947d94758c125f5f707964616e7469635f65787472615f5f944e8c175f5f707964616e7469635f666965\
         6c64735f7365745f5f948f94286808908c145f5f707964616e7469635f707269766174655f5f944e75622e",
            "{\"state_delta\":{\"keys\":{\"1\":4,\"None\":\"n\",\"false\":\"f\",\"2024-01-01\":1,\"_w==\":2,\"0\
         0000000-0000-0000-0000-000000000001\":3,\"P1D\":5}},\"artifact_delta\":{},\"requested_auth_configs\
         \":{},\"requested_tool_confirmations\":{}}",
        ),
        (
            "state_delta.samekey, 1.0.0, protocol 5",
            "80059535010000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e944e\
         8c0b73746174655f64656c7461947d948c0773616d656b6579947d94284b018c03696e74948c017a944b008c0131948c03737472\
         9475738c0e61727469666163745f64656c7461947d948c117472616e736665725f746f5f6167656e74944e8c08657363616c6174\
         65944e8c167265717565737465645f617574685f636f6e66696773947d94758c125f5f707964616e7469635f65787472615f5f94\
         4e8c175f5f707964616e7469635f6669656c64735f7365745f5f948f94286808908c145f5f707964616e7469635f707269766174\
         655f5f944e75622e",
            "{\"state_delta\":{\"samekey\":{\"1\":\"str\",\"z\":0}},\"artifact_delta\":{},\"requested_auth_conf\
         igs\":{},\"requested_tool_confirmations\":{}}",
        ),
        (
            "state_delta.many, 1.0.0, protocol 5",
            "800595fc040000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e944e\
         8c0b73746174655f64656c7461947d94288c046e6f6e65944e8c056269673730948a090000000000000000408c03736574948f94\
         284b014b024b03908c056474757463948c086461746574696d65948c086461746574696d65949394430a07e80102000000000000\
         94680f8c0874696d657a6f6e65949394680f8c0974696d6564656c74619493944b004b004b008794529485945294869452948c03\
         646563948c07646563696d616c948c07446563696d616c9493948c04312e313094859452948c04757569649468248c0455554944\
         9493942981947d948c03696e74948a107856341278563412785634127856341273628c0470617468948c07706174686c6962948c\
         0d50757265506f736978506174689493948c012f948c0161948c05622e74787494879452948c06736861726564945d94287d948c\
         016b945d94284b014e657368357d94288c05616761696e9468358c017394582c0100007878787878787878787878787878787878\
         78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878\
         78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878\
         78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878\
         78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878\
         78787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878787878\
         7878787878787878787878787878787878787878787878948c017494683b75658c0470617274948c12676f6f676c652e67656e61\
         692e7479706573948c04506172749493942981947d942868057d94288c106d656469615f7265736f6c7574696f6e944e8c15636f\
         64655f657865637574696f6e5f726573756c74944e8c0f65786563757461626c655f636f6465944e8c0966696c655f6461746194\
         4e8c0d66756e6374696f6e5f63616c6c944e8c1166756e6374696f6e5f726573706f6e7365944e8c0b696e6c696e655f64617461\
         944e8c0474657874948c0178948c0774686f75676874944e8c1174686f756768745f7369676e6174757265944e8c0e766964656f\
         5f6d65746164617461944e8c09746f6f6c5f63616c6c944e8c0d746f6f6c5f726573706f6e7365944e8c0d706172745f6d657461\
         64617461944e8c13617564696f5f7472616e736372697074696f6e944e8c106d656469615f70726f63657373696e67944e8c0f73\
         70656563685f6d65746164617461944e758c125f5f707964616e7469635f65787472615f5f944e8c175f5f707964616e7469635f\
         6669656c64735f7365745f5f948f9428684b908c145f5f707964616e7469635f707269766174655f5f944e7562758c0e61727469\
         666163745f64656c7461947d948c117472616e736665725f746f5f6167656e74944e8c08657363616c617465944e8c1672657175\
         65737465645f617574685f636f6e66696773947d947568564e68578f942868089068594e75622e",
            "{\"state_delta\":{\"none\":null,\"big70\":1180591620717411303424,\"set\":[1,2,3],\"dtutc\":\"2024-\
         01-02T00:00:00Z\",\"dec\":\"1.10\",\"uuid\":\"12345678-1234-5678-1234-567812345678\",\"path\":\"/a\
         /b.txt\",\"shared\":[{\"k\":[1,null]},{\"k\":[1,null]},{\"again\":{\"k\":[1,null]},\"s\":\"xxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"\
         ,\"t\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
         xxxxxxxxxxxxxxx\"}],\"part\":{\"media_resolution\":null,\"code_execution_result\":null,\"executabl\
         e_code\":null,\"file_data\":null,\"function_call\":null,\"function_response\":null,\"inline_data\"\
         :null,\"text\":\"x\",\"thought\":null,\"thought_signature\":null,\"video_metadata\":null,\"tool_ca\
         ll\":null,\"tool_response\":null,\"part_metadata\":null,\"audio_transcription\":null,\"media_proce\
         ssing\":null,\"speech_metadata\":null}},\"artifact_delta\":{},\"requested_auth_configs\":{},\"requ\
         ested_tool_confirmations\":{}}",
        ),
        (
            "state_delta.td, 1.0.0, protocol 5",
            "8005953a010000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e944e\
         8c0b73746174655f64656c7461947d948c027464948c086461746574696d65948c0974696d6564656c74619493944affffffff4b\
         054b0787945294738c0e61727469666163745f64656c7461947d948c117472616e736665725f746f5f6167656e74944e8c086573\
         63616c617465944e8c167265717565737465645f617574685f636f6e66696773947d94758c125f5f707964616e7469635f657874\
         72615f5f944e8c175f5f707964616e7469635f6669656c64735f7365745f5f948f94286808908c145f5f707964616e7469635f70\
         7269766174655f5f944e75622e",
            "{\"state_delta\":{\"td\":\"-PT23H59M54.999993S\"},\"artifact_delta\":{},\"requested_auth_configs\"\
         :{},\"requested_tool_confirmations\":{}}",
        ),
        (
            "state_delta.dtoff, 1.0.0, protocol 5",
            "80059573010000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e944e\
         8c0b73746174655f64656c7461947d948c0564746f6666948c086461746574696d65948c086461746574696d65949394430a07e8\
         0c1f173b3b0927c094680b8c0874696d657a6f6e65949394680b8c0974696d6564656c74619493944affffffff4a280401004b00\
         879452948594529486945294738c0e61727469666163745f64656c7461947d948c117472616e736665725f746f5f6167656e7494\
         4e8c08657363616c617465944e8c167265717565737465645f617574685f636f6e66696773947d94758c125f5f707964616e7469\
         635f65787472615f5f944e8c175f5f707964616e7469635f6669656c64735f7365745f5f948f94286808908c145f5f707964616e\
         7469635f707269766174655f5f944e75622e",
            "{\"state_delta\":{\"dtoff\":\"2024-12-31T23:59:59.600000-05:30\"},\"artifact_delta\":{},\"requeste\
         d_auth_configs\":{},\"requested_tool_confirmations\":{}}",
        ),
        (
            "state_delta.blob, 1.0.0, protocol 5",
            "800595d7020000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e944e\
         8c0b73746174655f64656c7461947d948c04626c6f62948c12676f6f676c652e67656e61692e7479706573948c04506172749493\
         942981947d942868057d94288c106d656469615f7265736f6c7574696f6e944e8c15636f64655f657865637574696f6e5f726573\
         756c74944e8c0f65786563757461626c655f636f6465944e8c0966696c655f64617461944e8c0d66756e6374696f6e5f63616c6c\
         944e8c1166756e6374696f6e5f726573706f6e7365944e8c0b696e6c696e655f6461746194680b8c04426c6f629493942981947d\
         942868057d94288c0464617461944304fffe3e3f948c0c646973706c61795f6e616d65944e8c096d696d655f74797065948c0361\
         2f6294758c125f5f707964616e7469635f65787472615f5f944e8c175f5f707964616e7469635f6669656c64735f7365745f5f94\
         8f94286820681d908c145f5f707964616e7469635f707269766174655f5f944e75628c0474657874944e8c0774686f7567687494\
         4e8c1174686f756768745f7369676e6174757265944302fbff948c0e766964656f5f6d65746164617461944e8c09746f6f6c5f63\
         616c6c944e8c0d746f6f6c5f726573706f6e7365944e8c0d706172745f6d65746164617461944e8c13617564696f5f7472616e73\
         6372697074696f6e944e8c106d656469615f70726f63657373696e67944e8c0f7370656563685f6d65746164617461944e756822\
         4e68238f9428681768289068254e7562738c0e61727469666163745f64656c7461947d948c117472616e736665725f746f5f6167\
         656e74944e8c08657363616c617465944e8c167265717565737465645f617574685f636f6e66696773947d947568224e68238f94\
         2868089068254e75622e",
            "{\"state_delta\":{\"blob\":{\"media_resolution\":null,\"code_execution_result\":null,\"executable_\
         code\":null,\"file_data\":null,\"function_call\":null,\"function_response\":null,\"inline_data\":{\
         \"data\":\"__4-Pw==\",\"display_name\":null,\"mime_type\":\"a/b\"},\"text\":null,\"thought\":null,\
         \"thought_signature\":\"-_8=\",\"video_metadata\":null,\"tool_call\":null,\"tool_response\":null,\"\
         part_metadata\":null,\"audio_transcription\":null,\"media_processing\":null,\"speech_metadata\":nu\
         ll}},\"artifact_delta\":{},\"requested_auth_configs\":{},\"requested_tool_confirmations\":{}}",
        ),
        (
            "auth.apikey, 1.10.0, protocol 5",
            "80059586020000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e944e\
         8c0b73746174655f64656c7461947d948c0e61727469666163745f64656c7461947d948c117472616e736665725f746f5f616765\
         6e74944e8c08657363616c617465944e8c167265717565737465645f617574685f636f6e66696773947d948c0463616c6c948c19\
         676f6f676c652e61646b2e617574682e617574685f746f6f6c948c0a41757468436f6e6669679493942981947d942868057d9428\
         8c0b617574685f736368656d65948c16666173746170692e6f70656e6170692e6d6f64656c73948c064150494b65799493942981\
         947d942868057d94288c05747970655f9468188c125365637572697479536368656d65547970659493948c066170694b65799485\
         9452948c0b6465736372697074696f6e944e8c03696e5f9468188c084150494b6579496e9493948c066865616465729485945294\
         8c046e616d65948c05582d4b657994758c125f5f707964616e7469635f65787472615f5f947d948c175f5f707964616e7469635f\
         6669656c64735f7365745f5f948f94286825682b908c145f5f707964616e7469635f707269766174655f5f944e75628c13726177\
         5f617574685f63726564656e7469616c944e8c1965786368616e6765645f617574685f63726564656e7469616c944e8c0e637265\
         64656e7469616c5f6b6579948c1f61646b5f6170694b65795f373831303534343035373032373430313431345f9475682d7d9468\
         2f8f9428681768349068314e75627375682d4e682f8f9428680e9068314e75622e",
            "{\"state_delta\":{},\"artifact_delta\":{},\"requested_auth_configs\":{\"call\":{\"auth_scheme\":{\"\
         type_\":\"apiKey\",\"scheme\":\"bearer\",\"in_\":\"header\",\"name\":\"X-Key\"},\"credential_key\"\
         :\"adk_apiKey_7810544057027401414_\"}},\"requested_tool_confirmations\":{}}",
        ),
        (
            "confirmations, 1.20.0, protocol 5",
            "8005955f030000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e944e\
         8c0b73746174655f64656c7461947d948c0e61727469666163745f64656c7461947d948c117472616e736665725f746f5f616765\
         6e74944e8c08657363616c617465944e8c167265717565737465645f617574685f636f6e66696773947d948c1c72657175657374\
         65645f746f6f6c5f636f6e6669726d6174696f6e73947d94288c0161948c22676f6f676c652e61646b2e746f6f6c732e746f6f6c\
         5f636f6e6669726d6174696f6e948c10546f6f6c436f6e6669726d6174696f6e9493942981947d942868057d94288c0468696e74\
         948c0168948c09636f6e6669726d656494898c077061796c6f6164947d94288c016e944e8c0162944301ff948c0170948c12676f\
         6f676c652e67656e61692e7479706573948c04506172749493942981947d942868057d94288c106d656469615f7265736f6c7574\
         696f6e944e8c15636f64655f657865637574696f6e5f726573756c74944e8c0f65786563757461626c655f636f6465944e8c0966\
         696c655f64617461944e8c0d66756e6374696f6e5f63616c6c944e8c1166756e6374696f6e5f726573706f6e7365944e8c0b696e\
         6c696e655f64617461944e8c0474657874948c0178948c0774686f75676874944e8c1174686f756768745f7369676e6174757265\
         944e8c0e766964656f5f6d65746164617461944e8c09746f6f6c5f63616c6c944e8c0d746f6f6c5f726573706f6e7365944e8c0d\
         706172745f6d65746164617461944e758c125f5f707964616e7469635f65787472615f5f944e8c175f5f707964616e7469635f66\
         69656c64735f7365745f5f948f9428682f908c145f5f707964616e7469635f707269766174655f5f944e7562757568374e68388f\
         94286819681c90683a4e7562681f68152981947d942868057d942868198c0094681b89681c4e7568374e68388f94683a4e756275\
         8c0a636f6d70616374696f6e944e8c0c656e645f6f665f6167656e74944e8c0b6167656e745f7374617465944e8c1b726577696e\
         645f6265666f72655f696e766f636174696f6e5f6964944e7568374e68388f9428681090683a4e75622e",
            "{\"state_delta\":{},\"artifact_delta\":{},\"requested_auth_configs\":{},\"requested_tool_confirmat\
         ions\":{\"a\":{\"hint\":\"h\",\"confirmed\":false,\"payload\":{\"n\":null,\"b\":\"_w==\",\"p\":{\"\
         media_resolution\":null,\"code_execution_result\":null,\"executable_code\":null,\"file_data\":null\
         ,\"function_call\":null,\"function_response\":null,\"inline_data\":null,\"text\":\"x\",\"thought\"\
         :null,\"thought_signature\":null,\"video_metadata\":null,\"tool_call\":null,\"tool_response\":null\
         ,\"part_metadata\":null}}},\"b\":{\"hint\":\"\",\"confirmed\":false}}}",
        ),
        (
            "compaction, 1.20.0, protocol 5",
            "80059562080000000000008c1f676f6f676c652e61646b2e6576656e74732e6576656e745f616374696f6e73948c0c4576656e74\
         416374696f6e739493942981947d94288c085f5f646963745f5f947d94288c12736b69705f73756d6d6172697a6174696f6e944e\
         8c0b73746174655f64656c7461947d948c0e61727469666163745f64656c7461947d948c117472616e736665725f746f5f616765\
         6e74944e8c08657363616c617465944e8c167265717565737465645f617574685f636f6e66696773947d948c1c72657175657374\
         65645f746f6f6c5f636f6e6669726d6174696f6e73947d948c0a636f6d70616374696f6e9468008c0f4576656e74436f6d706163\
         74696f6e9493942981947d942868057d94288c0f73746172745f74696d657374616d70944741d954fc401000008c0d656e645f74\
         696d657374616d70944741d954fc404000008c11636f6d7061637465645f636f6e74656e74948c12676f6f676c652e67656e6169\
         2e7479706573948c07436f6e74656e749493942981947d942868057d94288c057061727473945d9428681b8c0450617274949394\
         2981947d942868057d94288c106d656469615f7265736f6c7574696f6e944e8c15636f64655f657865637574696f6e5f72657375\
         6c74944e8c0f65786563757461626c655f636f6465944e8c0966696c655f64617461944e8c0d66756e6374696f6e5f63616c6c94\
         4e8c1166756e6374696f6e5f726573706f6e7365944e8c0b696e6c696e655f64617461944e8c0474657874948c0178948c077468\
         6f7567687494888c1174686f756768745f7369676e6174757265944302fbff948c0e766964656f5f6d65746164617461944e8c09\
         746f6f6c5f63616c6c944e8c0d746f6f6c5f726573706f6e7365944e8c0d706172745f6d65746164617461944e758c125f5f7079\
         64616e7469635f65787472615f5f944e8c175f5f707964616e7469635f6669656c64735f7365745f5f948f94286831682f683290\
         8c145f5f707964616e7469635f707269766174655f5f944e756268242981947d942868057d942868284e68294e682a4e682b4e68\
         2c4e682d4e682e681b8c04426c6f629493942981947d942868057d94288c0464617461944304fffe3e3f948c0c646973706c6179\
         5f6e616d65944e8c096d696d655f74797065948c03612f62947568384e68398f94286847684490683b4e7562682f4e68314e6832\
         4e6834681b8c0d566964656f4d657461646174619493942981947d942868057d94288c0a656e645f6f6666736574944e8c036670\
         7394473ff00000000000008c0c73746172745f6f6666736574944e7568384e68398f9428685090683b4e756268354e68364e6837\
         4e7568384e68398f9428682e683490683b4e756268242981947d942868057d942868284e68294e682a4e682b4e682c681b8c0c46\
         756e6374696f6e43616c6c9493942981947d942868057d94288c026964948c0131948c0461726773947d94288c0161944e8c0162\
         944301fb948c01709468242981947d942868057d942868284e68294e682a4e682b4e682c4e682d4e682e4e682f8c01799468314e\
         68324e68344e68354e68364e68374e7568384e68398f9428682f90683b4e7562758c046e616d65948c0166948c0c706172746961\
         6c5f61726773944e8c0d77696c6c5f636f6e74696e7565944e7568384e68398f9428685c685e686990683b4e7562682d4e682e4e\
         682f4e68314e68324e68344e68354e68364e68374e7568384e68398f9428682c90683b4e756268242981947d942868057d942868\
         284e68294e682a4e682b4e682c4e682d681b8c1046756e6374696f6e526573706f6e73659493942981947d942868057d9428686c\
         4e8c0a7363686564756c696e6794681b8c1a46756e6374696f6e526573706f6e73655363686564756c696e679493948c0653494c\
         454e54948594529468214e685c4e6869686a8c08726573706f6e7365947d94288c0172944e8c036e616e94477ff8000000000000\
         757568384e68398f9428687d6877686990683b4e7562682e4e682f4e68314e68324e68344e68354e68364e68374e7568384e6839\
         8f9428682d90683b4e756268242981947d942868057d942868284e68294e682a681b8c0e45786563757461626c65436f64659493\
         942981947d942868057d94288c04636f6465948c0163948c086c616e677561676594681b8c084c616e67756167659493948c0650\
         5954484f4e9485945294685c4e7568384e68398f9428688b688d90683b4e7562682b4e682c4e682d4e682e4e682f4e68314e6832\
         4e68344e68354e68364e68374e7568384e68398f9428682a90683b4e756268242981947d942868057d942868284e6829681b8c13\
         436f6465457865637574696f6e526573756c749493942981947d942868057d94288c076f7574636f6d6594681b8c074f7574636f\
         6d659493948c0a4f5554434f4d455f4f4b94859452948c066f7574707574948c016f94685c4e7568384e68398f9428689d68a390\
         683b4e7562682a4e682b4e682c4e682d4e682e4e682f4e68314e68324e68344e68354e68364e68374e7568384e68398f94286829\
         90683b4e756268242981947d942868057d942868284e68294e682a4e682b681b8c0846696c65446174619493942981947d942868\
         057d942868464e8c0866696c655f757269948c0667733a2f2f7894684768487568384e68398f9428684768af90683b4e7562682c\
         4e682d4e682e4e682f4e68314e68324e68344e68354e68364e68374e7568384e68398f9428682b90683b4e7562658c04726f6c65\
         948c056d6f64656c947568384e68398f942868b3682190683b4e75627568384e68398f9428681a6818681990683b4e75628c0c65\
         6e645f6f665f6167656e74944e8c0b6167656e745f7374617465944e8c1b726577696e645f6265666f72655f696e766f63617469\
         6f6e5f6964944e7568384e68398f9428681290683b4e75622e",
            "{\"state_delta\":{},\"artifact_delta\":{},\"requested_auth_configs\":{},\"requested_tool_confirmat\
         ions\":{},\"compaction\":{\"start_timestamp\":1700000000.25,\"end_timestamp\":1700000001.0,\"compa\
         cted_content\":{\"parts\":[{\"text\":\"x\",\"thought\":true,\"thought_signature\":\"-_8=\"},{\"inl\
         ine_data\":{\"data\":\"__4-Pw==\",\"mime_type\":\"a/b\"},\"video_metadata\":{\"fps\":1.0}},{\"func\
         tion_call\":{\"id\":\"1\",\"args\":{\"a\":null,\"b\":\"-w==\",\"p\":{\"media_resolution\":null,\"c\
         ode_execution_result\":null,\"executable_code\":null,\"file_data\":null,\"function_call\":null,\"f\
         unction_response\":null,\"inline_data\":null,\"text\":\"y\",\"thought\":null,\"thought_signature\"\
         :null,\"video_metadata\":null,\"tool_call\":null,\"tool_response\":null,\"part_metadata\":null}},\"\
         name\":\"f\"}},{\"function_response\":{\"scheduling\":\"SILENT\",\"name\":\"f\",\"response\":{\"r\"\
         :null,\"nan\":null}}},{\"executable_code\":{\"code\":\"c\",\"language\":\"PYTHON\"}},{\"code_execu\
         tion_result\":{\"outcome\":\"OUTCOME_OK\",\"output\":\"o\"}},{\"file_data\":{\"file_uri\":\"gs://x\
         \",\"mime_type\":\"a/b\"}}],\"role\":\"model\"}}}",
        ),
    ];
}
