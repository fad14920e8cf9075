//! Reads the objects of google-adk's JSON, leniently: other programs wrote them.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use chrono::{DateTime, Utc};
use seabed::Timestamp;
use serde_json::{Map, Value};

pub(super) type Object = Map<String, Value>;

/// Returns a field under its name or, as some writers have it, in camelCase. A null field is absent.
pub(super) fn field<'a>(object: &'a Object, name: &str) -> Option<&'a Value> {
    object.get(name).or_else(|| object.get(&camel_case(name))).filter(|value| !value.is_null())
}

pub(super) fn object<'a>(object: &'a Object, name: &str) -> Option<&'a Object> {
    field(object, name)?.as_object()
}

/// Returns the items of a list; none if there is no list.
pub(super) fn items<'a>(object: &'a Object, name: &str) -> impl Iterator<Item = &'a Value> {
    field(object, name).and_then(Value::as_array).into_iter().flatten()
}

pub(super) fn text(object: &Object, name: &str) -> Option<String> {
    field(object, name)?.as_str().map(str::to_owned)
}

pub(super) fn integer(object: &Object, name: &str) -> Option<i32> {
    field(object, name)?.as_i64()?.try_into().ok()
}

/// Returns bytes that are written in Base64.
pub(super) fn bytes(object: &Object, name: &str) -> Option<Vec<u8>> {
    from_base64(field(object, name)?.as_str()?)
}

/// Returns a time that is written in seconds since the epoch.
pub(super) fn time(object: &Object, name: &str) -> Option<DateTime<Utc>> {
    from_seconds(field(object, name)?.as_f64()?)
}

/// Converts seconds since the epoch; `None` outside of the years 1 to 9999.
pub(super) fn from_seconds(seconds: f64) -> Option<DateTime<Utc>> {
    Timestamp::try_from_seconds(seconds).ok().map(DateTime::from)
}

/// Converts a time to google-adk's seconds since the epoch, which have microseconds.
#[allow(clippy::cast_precision_loss, reason = "a double has microseconds until the year 2242; the rest comes back too")]
pub(super) fn to_seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp_micros() as f64 / 1e6
}

/// Writes bytes in the alphabet in which google-adk writes them.
pub(super) fn to_base64(bytes: &[u8]) -> Value {
    BASE64_URL_SAFE.encode(bytes).into()
}

/// Reads Base64 in either alphabet, with or without padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&base64::alphabet::STANDARD, config).decode(text.replace('-', "+").replace('_', "/")).ok()
}

/// Converts a thought signature of adk-rust, which is the model's Base64, to google-adk's bytes. One that is not Base64
/// becomes the bytes of its text.
pub(super) fn signature_to_base64(signature: &str) -> Value {
    match BASE64_STANDARD.decode(signature) {
        Ok(bytes) => to_base64(&bytes),
        Err(_) => to_base64(signature.as_bytes()),
    }
}

/// Converts the bytes of a thought signature to the text that models send and expect.
pub(super) fn signature(part: &Object) -> Option<String> {
    bytes(part, "thought_signature").map(|bytes| BASE64_STANDARD.encode(bytes))
}

pub(super) fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (initial, rest) = word.split_at(word.len().min(1));
        name + &initial.to_ascii_uppercase() + rest
    })
}
