//! Whether google-adk can read an event. Its pydantic models refuse keys and types that they do not know, and one such
//! event makes its whole session unreadable.

mod models;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Key;
use crate::{Error, Json, Result};

/// Whether a service refuses events that google-adk cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdkCheck {
    /// An append of such an event is refused.
    #[default]
    On,
    /// It is stored.
    Off,
}

impl AdkCheck {
    /// Checks what goes into `events.event_data`.
    pub(crate) fn check(self, event_data: &Json) -> Result<()> {
        match self {
            Self::On => check(event_data.as_str()).map_err(|problem| Error::invalid("event", problem.to_string())),
            Self::Off => Ok(()),
        }
    }
}

fn check(event: &str) -> Result<(), Problem> {
    let entries = parse_object(event)?;
    models::EVENT.check(&entries)?;
    let is_set = |key| entries.get(&Key(Cow::Borrowed(key))).is_some_and(|value| !is_null(value.get()));
    if is_set("message") && is_set("content") {
        return Err(Problem::new("is another name of content, which is there too").at("message"));
    }
    Ok(())
}

/// What google-adk cannot read.
struct Problem {
    /// Where it is: keys and indexes, each with what separates it from what is before it.
    path: String,
    what: &'static str,
}

impl Problem {
    fn new(what: &'static str) -> Self {
        Self { path: String::new(), what }
    }

    /// The problem as seen from the object that has it under `key`. A key that is no plain word may be content, which
    /// errors do not repeat.
    fn at(self, key: &str) -> Self {
        let is_word = key.len() <= 64 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        let key = if is_word { key } else { "…" };
        Self { path: format!(".{key}{}", self.path), ..self }
    }

    fn at_index(self, index: usize) -> Self {
        Self { path: format!("[{index}]{}", self.path), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "google-adk 2.13 cannot read {}: it {}", self.path.trim_start_matches('.'), self.what)
    }
}

/// A model of google-adk's: an object with these fields.
struct Model {
    fields: &'static [Field],
    /// Whether it ignores keys without a field, and does not refuse them.
    is_open: bool,
    /// Whether each field has a second name, in camelCase.
    has_aliases: bool,
}

struct Field {
    name: &'static str,
    kind: Kind,
    presence: Presence,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// It may be absent or null.
    Optional,
    /// It may be absent.
    NotNull,
    Required,
}

/// The values that a field may have. As pydantic's lax mode does, a kind has room for values that can be converted.
enum Kind {
    Any,
    /// Also an enumeration: those of google-genai take any string.
    String,
    Literal(&'static str),
    Bool,
    Int,
    Float,
    /// A string in Base64.
    Bytes,
    List(&'static Kind),
    Map(&'static Kind),
    Object(&'static Model),
    /// Anything but an object.
    NoObject,
    OneOf(&'static [Kind]),
}

impl Kind {
    fn check(&self, json: &str) -> Result<(), Problem> {
        let require = |holds: bool, what| if holds { Ok(()) } else { Err(Problem::new(what)) };
        match self {
            Self::Any => Ok(()),
            Self::String => require(json.starts_with('"'), "is not a string"),
            Self::Literal(literal) => require(text(json).is_some_and(|text| text == *literal), "is another string"),
            Self::Bool => require(boolean(json).is_some(), "is not a boolean"),
            Self::Int => require(number(json).is_some_and(|number| number.fract() == 0.0), "is not an integer"),
            Self::Float => require(number(json).is_some(), "is not a number"),
            Self::Bytes => require(text(json).is_some_and(|text| is_base64(&text)), "is not Base64"),
            Self::NoObject => require(!json.starts_with('{'), "is an object"),
            Self::OneOf(kinds) => require(kinds.iter().any(|kind| kind.check(json).is_ok()), "is of no accepted type"),
            Self::Object(model) => model.check(&parse_object(json)?),
            Self::Map(kind) => {
                let entries = parse_object(json)?;
                let mut entries = entries.iter();
                entries.try_for_each(|(key, value)| kind.check(value.get()).map_err(|problem| problem.at(&key.0)))
            }
            Self::List(kind) => {
                let items: Vec<&RawValue> = parse(json).ok_or(Problem::new("is not a list"))?;
                let mut items = items.into_iter().zip(0..);
                items.try_for_each(|(item, index)| kind.check(item.get()).map_err(|problem| problem.at_index(index)))
            }
        }
    }
}

impl Model {
    fn check(&self, entries: &Object<'_>) -> Result<(), Problem> {
        let mut seen = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            match self.field(&key.0) {
                Some(field) if !self.is_open && seen.contains(&field.name) => {
                    return Err(Problem::new("is there under both of its names").at(&key.0));
                }
                Some(field) => {
                    field.check(value.get()).map_err(|problem| problem.at(&key.0))?;
                    seen.push(field.name);
                }
                None if self.is_open => {}
                None => return Err(Problem::new("is an unknown key").at(&key.0)),
            }
        }
        match self.fields.iter().find(|field| field.presence == Presence::Required && !seen.contains(&field.name)) {
            Some(missing) => Err(Problem::new("is missing").at(missing.name)),
            None => Ok(()),
        }
    }

    fn field(&self, key: &str) -> Option<&Field> {
        let may_be_alias = self.has_aliases && key.bytes().any(|byte| byte.is_ascii_uppercase());
        let is_alias = |field: &Field| may_be_alias && camel_case(field.name).eq(key.chars());
        self.fields.iter().find(|field| field.name == key || is_alias(field))
    }
}

impl Field {
    fn check(&self, json: &str) -> Result<(), Problem> {
        match (is_null(json), self.presence) {
            (true, Presence::Optional) => Ok(()),
            (true, Presence::NotNull | Presence::Required) => Err(Problem::new("is null")),
            (false, _) => self.kind.check(json),
        }
    }
}

/// The characters of a `snake_case` name in camelCase.
pub(crate) fn camel_case(name: &str) -> impl Iterator<Item = char> {
    let mut is_start = false;
    name.chars().filter_map(move |char| {
        let is_first = std::mem::replace(&mut is_start, char == '_');
        (char != '_').then(|| if is_first { char.to_ascii_uppercase() } else { char })
    })
}

type Object<'a> = BTreeMap<Key<'a>, &'a RawValue>;

/// One level of a JSON object. As in Python, the last of two equal keys counts.
fn parse_object(json: &str) -> Result<Object<'_>, Problem> {
    parse(json).ok_or(Problem::new("is not an object"))
}

/// `None` for a value of another type.
fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Option<T> {
    serde_json::from_str(json).ok()
}

fn is_null(json: &str) -> bool {
    json == "null"
}

/// The string that a value is.
pub(crate) fn text(json: &str) -> Option<String> {
    json.starts_with('"').then(|| parse(json)).flatten()
}

const BOOLEANS: [(bool, [&str; 6]); 2] =
    [(false, ["0", "f", "false", "n", "no", "off"]), (true, ["1", "on", "t", "true", "y", "yes"])];

/// The boolean that a value stands for.
pub(crate) fn boolean(json: &str) -> Option<bool> {
    match (text(json), number(json)) {
        (Some(text), _) => {
            let is_one_of = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
            BOOLEANS.iter().find(|(_, words)| is_one_of(words)).map(|(boolean, _)| *boolean)
        }
        (None, Some(0.0)) => Some(false),
        (None, Some(1.0)) => Some(true),
        (None, _) => None,
    }
}

/// The number that a value stands for.
pub(crate) fn number(json: &str) -> Option<f64> {
    match (json, text(json)) {
        ("true", _) => Some(1.0),
        ("false", _) => Some(0.0),
        (_, Some(text)) => text.trim().replace('_', "").parse().ok(),
        (number, None) => number.parse().ok(),
    }
}

/// Whether a text is Base64 in one of its two alphabets, with or without padding.
fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let padding = text.len() - digits.len();
    // The bits of the last digit that belong to no byte are zero.
    let is_complete = match digits.len() % 4 {
        0 => padding == 0,
        2 => padding <= 2 && digits.ends_with(['A', 'Q', 'g', 'w']),
        3 => padding <= 1 && digits.ends_with(|digit| "AEIMQUYcgkosw048".contains(digit)),
        _ => false,
    };
    let is_of = |others: &[u8]| digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte));
    is_complete && (is_of(b"+/") || is_of(b"-_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with an event that has these keys beside its id.
    fn problem(keys: &str) -> Option<String> {
        check(&format!(r#"{{"id":"e",{keys}}}"#)).err().map(|problem| problem.to_string())
    }

    #[test]
    fn a_problem_is_named_by_its_path() {
        for (keys, expected) in [
            (r#""content":"hi""#, "content: it is not an object"),
            (r#""content":{"parts":"hi"}"#, "content.parts: it is not a list"),
            (r#""content":{"parts":[{},{"txt":"hi"}]}"#, "content.parts[1].txt: it is an unknown key"),
            (r#""content":{"parts":[null]}"#, "content.parts[0]: it is not an object"),
            (r#""content":{"parts":[{"text":1}]}"#, "content.parts[0].text: it is not a string"),
            (
                r#""content":{"parts":[{"functionCall":{},"function_call":{}}]}"#,
                "content.parts[0].function_call: it is there under both of its names",
            ),
            (r#""actions":{"do this":1}"#, "actions.…: it is an unknown key"),
            (r#""actions":{"state_delta":null}"#, "actions.state_delta: it is null"),
            (
                r#""actions":{"requested_auth_configs":{"call-1":{}}}"#,
                "actions.requested_auth_configs.call-1: it is of no accepted type",
            ),
            (r#""usage_metadata":[1]"#, "usage_metadata: it is not an object"),
            (
                r#""usageMetadata":{"totalTokenCount":"12 tokens"}"#,
                "usageMetadata.totalTokenCount: it is not an integer",
            ),
            (r#""custom_metadata":["a"]"#, "custom_metadata: it is not an object"),
            (r#""cache_metadata":{"fingerprint":"f"}"#, "cache_metadata.contents_count: it is missing"),
            (
                r#""cache_metadata":{"fingerprint":"f","contentsCount":1}"#,
                "cache_metadata.contentsCount: it is an unknown key",
            ),
            (r#""content":{},"message":"hi""#, "message: it is another name of content, which is there too"),
        ] {
            assert_eq!(problem(keys), Some(format!("google-adk 2.13 cannot read {expected}")), "{keys}");
        }
    }

    #[test]
    fn what_google_adk_reads_passes() {
        for keys in [
            r#""content":null,"message":"hi","unknown":{"k":1},"node_info":{"unknown":1,"outputFor":["a"]}"#,
            r#""content":{"parts":[{},{"text":null,"partMetadata":{"k":[1]}},{"functionCall":{"args":{"k":{}}}}]}"#,
            r#""actions":{"requested_auth_configs":{"a":{"authScheme":{},"k":1},"b":[1]},"route":[1,"a",true]}"#,
            r#""citation_metadata":{"citationSources":[{"publicationDate":{"day":"1"}}]}"#,
            r#""content":"hi","content":{}"#,
        ] {
            assert_eq!(problem(keys), None, "{keys}");
        }
    }

    #[test]
    fn values_are_converted_as_pydantic_converts_them() {
        let accepts = |kind: Kind, values: &[&str], are_accepted: bool| {
            for value in values {
                assert_eq!(kind.check(value).is_ok(), are_accepted, "{value}");
            }
        };
        accepts(Kind::Bool, &["true", "1", "0.0", r#""Yes""#, r#""0""#], true);
        accepts(Kind::Bool, &["null", "2", "0.5", r#"" true ""#, r#""1.0""#, "[]", "{}"], false);
        accepts(Kind::Int, &["true", "-1", "1.0", "1e3", "123456789012345678901234567890", r#"" 1_000 ""#], true);
        accepts(Kind::Int, &["null", "1.5", r#""1.5""#, r#""""#, r#""inf""#, r#""0x1""#, "[1]", "{}"], false);
        accepts(Kind::Float, &["false", "1", "1.5", r#""1.5""#, r#""NaN""#, r#""-inf""#], true);
        accepts(Kind::Float, &["null", r#""x""#, r#""1e""#, "[]"], false);
    }

    #[test]
    fn base64_is_that_of_pydantic() {
        for text in ["", "YWJj", "YWI", "YWI=", "YQ", "YQ=", "YQ==", "+/+/", "-_-_"] {
            assert!(is_base64(text), "{text}");
        }
        for text in ["Y", "YR", "YWJ", "YQ===", "YWJj=", "====", "+_==", "YW Jj", "YW=J", "é", "hello"] {
            assert!(!is_base64(text), "{text}");
        }
    }
}
