//! Reads JSON text out of any deserializer.
//!
//! `serde_json` passes a [`RawValue`] its text. Where serde buffers a value first (in tagged, untagged and flattened
//! types), no text is left, and `RawValue` fails. There the buffered value is written as JSON again.

use std::fmt;
use std::iter;

use serde::de::value::MapDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
use serde_json::Value;
use serde_json::value::RawValue;

/// Reads any value as JSON text: exactly, or, where serde has buffered it, with its numbers rounded to 64 bits.
pub(super) fn raw_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<RawValue>, D::Error> {
    Box::deserialize(Buffered(deserializer))
}

/// A deserializer for a `RawValue` that may have been buffered.
struct Buffered<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Buffered<D> {
    type Error = D::Error;

    /// `RawValue` asks for a new type of a name that only `serde_json`'s own deserializers know. All others pass the
    /// value itself.
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, TextOr { name, visitor })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// Passes on the text, or writes the value that comes instead.
struct TextOr<V> {
    name: &'static str,
    visitor: V,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for TextOr<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, text: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(text)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, buffered: D) -> Result<V::Value, D::Error> {
        let text = Value::deserialize(buffered)?.to_string();
        self.visitor.visit_map(MapDeserializer::new(iter::once((self.name, text))))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use crate::{Event, Json, State};

    const EVENT: &str = r#"{"id":"e","author":"user","timestamp":1763900000.1234567,"content":{"parts":[{"text":"hi"}]},"actions":{"state_delta":{"k":{"n":[1,-2,0.1,null,true]}}},"zzz":18446744073709551615}"#;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "type")]
    enum Tagged {
        Event(Box<Event>),
        State { state: State },
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u8),
        Event(Box<Event>),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "type", content = "data")]
    enum Adjacent {
        Event(Event),
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Flat {
        room: String,
        #[serde(flatten)]
        event: Event,
    }

    fn there_and_back<T: Serialize + for<'de> Deserialize<'de>>(value: &T) -> T {
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
    }

    #[test]
    fn events_are_read_inside_of_types_that_serde_buffers() {
        let event: Event = serde_json::from_str(EVENT).unwrap();
        let tagged = Tagged::Event(Box::new(event.clone()));
        assert_eq!(there_and_back(&tagged), tagged);
        let untagged = Untagged::Event(Box::new(event.clone()));
        assert_eq!(there_and_back(&untagged), untagged);
        let adjacent: Adjacent = serde_json::from_str(&format!(r#"{{"data":{EVENT},"type":"Event"}}"#)).unwrap();
        assert_eq!(adjacent, Adjacent::Event(event.clone()));
        let flat = Flat { room: "a".to_owned(), event: event.clone() };
        assert_eq!(there_and_back(&flat), flat);
        assert_eq!(serde_json::from_value::<Event>(serde_json::from_str(EVENT).unwrap()).unwrap(), event);
    }

    #[test]
    fn states_are_read_inside_of_types_that_serde_buffers() {
        let state = Tagged::State { state: State::new().with("a", 0.1).with("b", serde_json::json!([{"c": null}])) };
        assert_eq!(there_and_back(&state), state);
    }

    #[test]
    fn text_stays_exact_where_serde_json_passes_it() {
        let number = "123456789012345678901234567890.10";
        assert_eq!(serde_json::from_str::<Json>(number).unwrap().as_str(), number);
        let buffered = format!(r#"{{"type":"State","state":{{"k":{number}}}}}"#);
        let Tagged::State { state } = serde_json::from_str(&buffered).unwrap() else { panic!("another variant") };
        assert_eq!(state.decode::<f64>("k").unwrap(), Some(1.234_567_890_123_456_8e29));
    }
}
