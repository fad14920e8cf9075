//! Times in JSON.

use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A number of seconds. `serde_json` with `arbitrary_precision`, which any crate of the program may turn on, buffers a
/// number as a map from a name of its own to the number's text.
pub(super) struct Seconds(f64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl<'de> Visitor<'de> for Number {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds")
            }

            fn visit_f64<E>(self, seconds: f64) -> Result<Seconds, E> {
                Ok(Seconds(seconds))
            }

            #[allow(clippy::cast_precision_loss, reason = "a double is what google-adk reads, too")]
            fn visit_i64<E>(self, seconds: i64) -> Result<Seconds, E> {
                Ok(Seconds(seconds as f64))
            }

            #[allow(clippy::cast_precision_loss, reason = "a double is what google-adk reads, too")]
            fn visit_u64<E>(self, seconds: u64) -> Result<Seconds, E> {
                Ok(Seconds(seconds as f64))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut number: A) -> Result<Seconds, A::Error> {
                let text: Option<(String, String)> = number.next_entry()?;
                let text = text.filter(|(name, _)| name == "$serde_json::private::Number");
                let seconds = text.and_then(|(_, text)| text.parse().ok());
                seconds.map(Seconds).ok_or_else(|| de::Error::custom("not a number of seconds"))
            }
        }

        deserializer.deserialize_any(Number)
    }
}

impl Seconds {
    pub(super) fn value(self) -> f64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use crate::Event;

    #[test]
    fn a_map_is_no_time() {
        for other in [r#"{"$date":"1"}"#, r#"{"x":"inf"}"#, "{}"] {
            assert!(serde_json::from_str::<Event>(&format!(r#"{{"timestamp":{other}}}"#)).is_err(), "{other}");
        }
    }
}
