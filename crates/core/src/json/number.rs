//! Numbers in JSON, out of any deserializer.

use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// A number. `serde_json` with `arbitrary_precision`, which any crate of the program may turn on, buffers one as a map
/// from a name of its own to the number's text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum AnyNumber {
    Integer(i64),
    Double(f64),
}

impl AnyNumber {
    #[allow(clippy::cast_precision_loss, reason = "a double is what google-adk reads, too")]
    pub(crate) fn to_double(self) -> f64 {
        match self {
            Self::Integer(number) => number as f64,
            Self::Double(number) => number,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().map(Self::Integer).or_else(|_| text.parse().map(Self::Double)).ok()
    }
}

impl<'de> Deserialize<'de> for AnyNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = AnyNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E>(self, number: f64) -> Result<AnyNumber, E> {
                Ok(AnyNumber::Double(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<AnyNumber, E> {
                Ok(AnyNumber::Integer(number))
            }

            #[allow(clippy::cast_precision_loss, reason = "as in to_double")]
            fn visit_u64<E>(self, number: u64) -> Result<AnyNumber, E> {
                Ok(i64::try_from(number).map_or(AnyNumber::Double(number as f64), AnyNumber::Integer))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut number: A) -> Result<AnyNumber, A::Error> {
                let text: Option<(String, String)> = number.next_entry()?;
                let text = text.filter(|(name, _)| name == "$serde_json::private::Number");
                let number = text.and_then(|(_, text)| AnyNumber::parse(&text));
                number.ok_or_else(|| de::Error::custom("not a number"))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Event, Timestamp};

    #[test]
    fn a_map_is_no_number() {
        for other in [r#"{"$date":"1"}"#, r#"{"x":"inf"}"#, "{}"] {
            assert!(serde_json::from_str::<Event>(&format!(r#"{{"timestamp":{other}}}"#)).is_err(), "{other}");
            assert!(serde_json::from_str::<Timestamp>(other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_fraction_is_no_number_of_microseconds() {
        for other in ["1.5", "1e3", "99999999999999999999", "\"1\""] {
            assert!(serde_json::from_str::<Timestamp>(other).is_err(), "{other}");
        }
        assert_eq!(serde_json::from_str::<Timestamp>("-1").unwrap().as_micros(), -1);
    }
}
