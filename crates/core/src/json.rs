//! JSON kept as text, so that nothing in it is rounded, reordered or dropped.

mod deserialize;
pub(crate) mod finite;
pub(crate) mod number;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::{fmt, iter};

use serde::de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// A JSON value, stored as its original text.
///
/// Numbers beyond 64 bits, the difference between `1.0` and `1`, and all keys are preserved, as far as the column
/// preserves them (PostgreSQL's `jsonb` sorts keys and rewrites `1e2` as `100`). Equality compares values: key order,
/// whitespace and number notation are ignored; every digit counts.
///
/// serde buffers what it reads for tagged, untagged and flattened types. There, numbers are rounded to 64 bits and keys
/// are sorted. Read such a message into a struct with a `Json` field, or in two steps, to keep them.
///
/// ```
/// use seabed_core::Json;
///
/// let json = Json::from(serde_json::json!({"b": 1, "a": [true, null]}));
/// assert_eq!(json, Json::parse(r#"{ "a": [true, null], "b": 1.0 }"#)?);
/// assert_eq!(json.decode::<serde_json::Value>()?["b"], 1);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Json(Text);

#[derive(Clone)]
enum Text {
    Own(Box<RawValue>),
    /// Of a value that many hold: a state that all sessions of an app show, for example.
    Shared(Arc<RawValue>),
}

impl Json {
    /// Wraps one JSON text without changing it.
    ///
    /// # Errors
    /// If `text` is not exactly one JSON value.
    pub fn parse(text: impl Into<String>) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text.into()).map(Self::own)
    }

    /// Reads the text of a column that other programs write too: like [`parse`](Self::parse), but `NaN` and infinities,
    /// which google-adk stores on SQLite and MySQL, become `null`.
    ///
    /// # Errors
    /// If `text` is not exactly one JSON value even so.
    pub fn from_stored(text: &str) -> Result<Self, serde_json::Error> {
        Self::parse(text).or_else(|error| Self::parse(finite::with_nulls(text).ok_or(error)?))
    }

    /// Serializes any value to JSON.
    ///
    /// # Errors
    /// If `value` cannot be represented as JSON, for example a map whose keys are not strings.
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self::own)
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        self.raw().get()
    }

    fn own(text: Box<RawValue>) -> Self {
        Self(Text::Own(text))
    }

    fn raw(&self) -> &RawValue {
        match &self.0 {
            Text::Own(text) => text,
            Text::Shared(text) => text,
        }
    }

    /// The same value, whose clones share its text.
    pub(crate) fn into_shared(self) -> Self {
        Self(match self.0 {
            Text::Own(text) => Text::Shared(text.into()),
            shared @ Text::Shared(_) => shared,
        })
    }

    /// The bytes of the text that belong to this value alone.
    pub(crate) fn own_bytes(&self) -> usize {
        match &self.0 {
            Text::Own(text) => text.get().len(),
            Text::Shared(_) => 0,
        }
    }

    /// Deserializes the value; use `decode::<serde_json::Value>()` for a tree.
    ///
    /// # Errors
    /// If the JSON does not fit `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.as_str())
    }

    /// Returns the canonical text of the value: keys sorted, no whitespace, numbers as digits and an exponent. Two
    /// values are equal exactly when their canonical texts are.
    pub fn canonical(&self) -> String {
        let mut canonical = String::with_capacity(self.as_str().len());
        match write_canonical(self.as_str(), MAX_DEPTH, &mut canonical) {
            Ok(()) => canonical,
            // An unpaired surrogate, written by another program, has no canonical text.
            Err(_) => self.as_str().to_owned(),
        }
    }

    /// Checks that every backend can store the value and read it back unchanged.
    ///
    /// # Errors
    /// For nesting beyond 127 levels, a NUL character, an unpaired surrogate, a number beyond the range of a double or
    /// with more than 1000 digits, and exponents that stand for more than a million digits in all. The error does not
    /// contain the value.
    pub fn check_portable(&self) -> Result<(), serde_json::Error> {
        check_portable(self.as_str())
    }

    /// Replaces every NUL character with U+FFFD, the replacement character. Returns `None` if the text contains no
    /// `\u0000`.
    pub(crate) fn with_nul_replaced(&self) -> Result<Option<Self>, serde_json::Error> {
        match replace_nul(self.as_str()) {
            Cow::Borrowed(_) => Ok(None),
            Cow::Owned(replaced) => Self::parse(replaced).map(Some),
        }
    }

    /// Whether the value is JSON's `null`, which is a value like any other.
    pub fn is_null(&self) -> bool {
        self.as_str().trim() == "null"
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Json {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    /// Keeps the text that `serde_json` reads, except inside of types that serde buffers; see [`Json`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize::raw_value(deserializer).map(Self::own)
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str() || self.canonical() == other.canonical()
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        // The text of a `Value` is valid JSON by construction, so the fallback is never taken.
        Self::parse(value.to_string()).unwrap_or_else(|_| Self::own(RawValue::NULL.to_owned()))
    }
}

macro_rules! from_plain_value {
    ($($plain:ty),*) => {$(
        impl From<$plain> for Json {
            fn from(value: $plain) -> Self {
                serde_json::Value::from(value).into()
            }
        }
    )*};
}
from_plain_value!(bool, i32, i64, u32, u64, f64, &str, String);

/// How deep canonicalization descends; [`check_portable`] lets nothing deeper through to a database.
const MAX_DEPTH: usize = 127;

/// Appends the canonical text of `text`. Descends level by level on borrowed slices, so that numbers are read as they
/// are written. Values more than `depth` levels deep are copied unchanged.
fn write_canonical(text: &str, depth: usize, canonical: &mut String) -> Result<(), serde_json::Error> {
    let text = text.trim();
    let mut separator = "";
    match text.as_bytes().first() {
        Some(b'{') if depth > 0 => {
            let entries: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_str(text)?;
            canonical.push('{');
            for (key, value) in entries {
                canonical.push_str(separator);
                canonical.push_str(&serde_json::to_string(&key)?);
                canonical.push(':');
                write_canonical(value.get(), depth - 1, canonical)?;
                separator = ",";
            }
            canonical.push('}');
        }
        Some(b'[') if depth > 0 => {
            canonical.push('[');
            for item in serde_json::from_str::<Vec<&RawValue>>(text)? {
                canonical.push_str(separator);
                write_canonical(item.get(), depth - 1, canonical)?;
                separator = ",";
            }
            canonical.push(']');
        }
        Some(b'"') => canonical.push_str(&serde_json::to_string(&serde_json::from_str::<Cow<'_, str>>(text)?)?),
        Some(b'-' | b'0'..=b'9') => Number::parse(text).write(canonical),
        _ => canonical.push_str(text),
    }
    Ok(())
}

/// A JSON number in normal form, digits × 10^exponent: `1e2`, `100` and `100.0` are equal, and no digit is rounded
/// away. An arbitrary-precision type would expand `1e999999999`; this one does not.
struct Number {
    negative: bool,
    digits: String,
    exponent: Option<i64>,
}

impl Number {
    fn parse(text: &str) -> Self {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let written = format!("{whole}{fraction}");
        let digits = written.trim_start_matches('0').trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Self { negative: false, digits, exponent: None };
        }
        let length = |text: &str| i64::try_from(text.len()).unwrap_or(i64::MAX);
        let shift = length(&written) - length(written.trim_end_matches('0')) - length(fraction);
        // An exponent beyond 64 bits saturates: no column can store such a number anyway.
        let exponent = exponent.parse::<i64>().unwrap_or(if exponent.starts_with('-') { i64::MIN } else { i64::MAX });
        Self { negative, digits, exponent: Some(exponent.saturating_add(shift)) }
    }

    fn write(&self, canonical: &mut String) {
        let Some(exponent) = self.exponent else { return canonical.push('0') };
        if self.negative {
            canonical.push('-');
        }
        canonical.push_str(&self.digits);
        if exponent != 0 {
            canonical.push('e');
            canonical.push_str(&exponent.to_string());
        }
    }
}

/// Parses a whole JSON text and rejects what some backend or reader cannot handle: nesting beyond `serde_json`'s limit
/// of 127 levels, a NUL character (`jsonb` has none), an unpaired surrogate, a number beyond the range of a double or
/// with more digits than `jsonb` keeps.
fn check_portable(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<Portable>(text)?;
    let mut growth = 0;
    for number in numbers(text) {
        check_portable_number(number).map_err(de::Error::custom)?;
        growth += exponent(number).unwrap_or_default();
    }
    if growth > MAX_GROWTH {
        return Err(de::Error::custom("numbers whose exponents stand for more than a million digits"));
    }
    Ok(())
}

/// Returns the numbers of a valid JSON text as they are written.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    iter::from_fn(move || {
        loop {
            rest = &rest[find(rest, |byte| matches!(byte, b'"' | b'-' | b'0'..=b'9'))?..];
            if let Some(string) = rest.strip_prefix('"') {
                rest = after_string(string)?;
                continue;
            }
            let is_over = |byte| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
            let number;
            (number, rest) = rest.split_at(find(rest, is_over).unwrap_or(rest.len()));
            return Some(number);
        }
    })
}

/// `text` starts inside a string; returns what follows the closing quote.
fn after_string(mut text: &str) -> Option<&str> {
    loop {
        let at = find(text, |byte| matches!(byte, b'"' | b'\\'))?;
        if text.as_bytes()[at] == b'"' {
            return Some(&text[at + 1..]);
        }
        // A backslash is followed by the ASCII character that it escapes.
        text = &text[at + 2..];
    }
}

/// Returns the position of the first byte that satisfies `is`. `is` must match ASCII only, so that the text can be
/// split there.
fn find(text: &str, is: impl Fn(u8) -> bool) -> Option<usize> {
    text.bytes().position(is)
}

/// How many digits the exponents of a value may stand for: `jsonb` writes `1e-300` out, and a few megabytes of such
/// numbers could not be read again.
const MAX_GROWTH: u64 = 1_000_000;

/// The exponent of a number without its sign; 0 if there is none, and `None` if it is beyond 64 bits.
fn exponent(number: &str) -> Option<u64> {
    let exponent = number.split_once(['e', 'E']).map_or("0", |(_, exponent)| exponent);
    exponent.parse::<i64>().ok().map(i64::unsigned_abs)
}

/// Checks that the number is in the range of a double, and has at most 1000 digits when written out; PostgreSQL's
/// `numeric` keeps 16,383 after the decimal point. `serde_json` checks the range too, unless some crate of the program
/// turns its `arbitrary_precision` on.
fn check_portable_number(number: &str) -> Result<(), &'static str> {
    if exponent(number).is_none_or(|exponent| exponent.saturating_add(number.len() as u64) > 1000) {
        return Err("a number of more than 1000 digits");
    }
    // No number of fewer characters without an exponent is out of range.
    let may_be_infinite = number.len() > 300 || number.contains(['e', 'E']);
    if may_be_infinite && !number.parse::<f64>().is_ok_and(f64::is_finite) {
        return Err("a number out of range");
    }
    Ok(())
}

struct Portable;

impl<'de> Deserialize<'de> for Portable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Portable {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self, E> {
        if text.contains('\0') { Err(E::custom("contains a NUL character")) } else { Ok(self) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self, A::Error> {
        while entries.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

/// Replaces every `\u0000` in a JSON text with U+FFFD, the replacement character.
fn replace_nul(text: &str) -> Cow<'_, str> {
    if !text.contains("\\u0000") {
        return Cow::Borrowed(text);
    }
    let mut replaced = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        replaced.push_str(&rest[..at]);
        rest = &rest[at..];
        // A backslash is followed by the ASCII character that it escapes.
        let (escape, len) = if rest.starts_with("\\u0000") { ("\\ufffd", 6) } else { (&rest[..2], 2) };
        replaced.push_str(escape);
        rest = &rest[len..];
    }
    replaced.push_str(rest);
    Cow::Owned(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn equal(left: &str, right: &str) -> bool {
        Json::parse(left).unwrap() == Json::parse(right).unwrap()
    }

    #[test]
    fn equality_is_of_values() {
        assert!(equal(r#"{"a":1,"b":[2,3]}"#, r#" {"b": [2, 3.0], "a": 1e0} "#));
        assert!(equal(r#""é""#, r#""\u00e9""#));
        assert!(!equal("[1,2]", "[2,1]"));
        assert!(!equal(r#"{"a":1}"#, r#"{"a":1,"b":null}"#));
        assert!(!equal("null", "false"));
    }

    #[test]
    fn numbers_are_compared_digit_by_digit() {
        assert!(equal("1e2", "100"));
        assert!(equal("-0", "0.00"));
        assert!(equal("0.0120", "12E-3"));
        assert!(!equal("123456789012345678901234567890", "123456789012345678901234567891"));
        assert!(!equal("1e999999999", "1e999999998"));
        assert!(!equal("-1", "1"));
    }

    #[test]
    fn the_canonical_text_is_json_of_the_same_value() {
        let json = Json::parse(r#" {"b": [1.50, -0, 1e3, true], "a": {"\u00e9": "\/"}, "": null} "#).unwrap();
        assert_eq!(json.canonical(), r#"{"":null,"a":{"é":"/"},"b":[15e-1,0,1e3,true]}"#);
        assert_eq!(Json::parse(json.canonical()).unwrap(), json);
    }

    #[test]
    fn what_some_backend_cannot_hold_is_refused() {
        assert!(check_portable(r#"{"a":[1,"\u0001",123456789012345678901234567890]}"#).is_ok());
        assert!(check_portable(&f64::MAX.to_string()).is_ok() && check_portable(&format!("-{}", f64::MAX)).is_ok());
        assert!(check_portable(&format!("{}0", f64::MAX)).is_err());
        assert!(check_portable(r#"["\\\"1e-20000", {"-1e-9999": "1e-20000\\\\"}, 1e-300, -0.5]"#).is_ok());
        for text in [r#""\u0000""#, r#"{"\u0000":1}"#, r#""\ud800""#, "1e400", "[1e-20000]", "{\"\\\"\":1e-999}"] {
            assert!(check_portable(text).is_err(), "{text}");
        }
        assert!(check_portable(&("[".repeat(127) + &"]".repeat(127))).is_ok());
        assert!(check_portable(&("[".repeat(128) + &"]".repeat(128))).is_err());
    }

    #[test]
    fn only_real_nul_escapes_are_replaced() {
        assert_eq!(replace_nul(r#"["\u0000","\\u0000","\"\\\u0000"]"#), r#"["\ufffd","\\u0000","\"\\\ufffd"]"#);
        assert_eq!(replace_nul(r#""plain""#), r#""plain""#);
    }
}
