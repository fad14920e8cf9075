//! The texts of JSON columns in a file of JSON Lines.

use seabed_core::Json;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The text of a JSON column. An object is written as it is. Any other text, such as one with `NaN` in it, is written
/// as a string that contains it; so a string in a file always is such a text.
pub(super) struct Body(pub(super) String);

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match Json::parse(one_line(&self.0)) {
            Ok(json) if self.0.trim_start().starts_with('{') => json.serialize(serializer),
            _ => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Json::deserialize(deserializer)?;
        let text = if json.as_str().starts_with('"') { json.decode() } else { Ok(json.as_str().to_owned()) };
        text.map(Self).map_err(serde::de::Error::custom)
    }
}

/// Replaces line breaks between JSON tokens. Strings in JSON contain none.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_as_it_was() {
        for (text, written) in [
            (r#"{"a": 1.50}"#, r#"{"a": 1.50}"#),
            ("{\"a\":\n1}", r#"{"a": 1}"#),
            (r#"{"a": NaN}"#, r#""{\"a\": NaN}""#),
            ("no JSON", r#""no JSON""#),
            (r#""text""#, r#""\"text\"""#),
            ("null", r#""null""#),
            ("[1]", r#""[1]""#),
            ("", r#""""#),
        ] {
            let line = serde_json::to_string(&Some(Body(text.to_owned()))).unwrap();
            assert_eq!(line, written);
            let read: Option<Body> = serde_json::from_str(&line).unwrap();
            assert_eq!(read.unwrap().0, text.replace('\n', " "));
        }
        assert!(serde_json::from_str::<Option<Body>>("null").unwrap().is_none());
    }
}
