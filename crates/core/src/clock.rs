//! Sources of time and ids. Services take them as arguments, so that tests control both.

use std::fmt;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::json::number::AnyNumber;
use crate::{Error, Result};

/// 0001-01-01T00:00:00Z: Go's zero time, and the earliest of Python's `datetime`.
const MIN_MICROS: i64 = -62_135_596_800_000_000;
/// 9999-12-31T23:59:59.999999Z: the latest time that every supported server, and Python's `datetime`, can store.
const MAX_MICROS: i64 = 253_402_300_799_999_999;

/// A UTC time with microsecond precision, from the year 1 to the end of 9999: what other programs store. New events
/// have a narrower range; see [`Event::timestamp`](crate::Event::timestamp).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "AnyNumber", into = "i64")]
pub struct Timestamp(NaiveDateTime);

impl Timestamp {
    /// Creates a timestamp from microseconds since 1970-01-01T00:00:00Z.
    ///
    /// # Errors
    /// [`Error::Invalid`] before the year 1 or after the year 9999.
    pub fn try_from_micros(micros: i64) -> Result<Self> {
        if !(MIN_MICROS..=MAX_MICROS).contains(&micros) {
            return Err(Error::invalid("timestamp", "not in the years 1 to 9999"));
        }
        Ok(Self::clamped(micros))
    }

    /// Creates a timestamp from seconds since 1970-01-01T00:00:00Z, rounded to microseconds, ties to even. Python's
    /// `datetime.fromtimestamp` rounds the same float to the same time.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `seconds` is not finite, or out of the range of [`Timestamp::try_from_micros`].
    #[allow(clippy::cast_possible_truncation, reason = "out-of-range floats saturate and are refused after the cast")]
    pub fn try_from_seconds(seconds: f64) -> Result<Self> {
        if !seconds.is_finite() {
            return Err(Error::invalid("timestamp", "not a finite number"));
        }
        let whole = seconds.trunc();
        let micros = ((seconds - whole) * 1e6).round_ties_even();
        Self::try_from_micros((whole as i64).saturating_mul(1_000_000).saturating_add(micros as i64))
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    pub fn as_micros(self) -> i64 {
        self.0.and_utc().timestamp_micros()
    }

    /// Seconds since 1970-01-01T00:00:00Z, as google-adk writes them; exact to the microsecond until the year 2242.
    #[allow(
        clippy::cast_precision_loss,
        reason = "53 bits hold microseconds exactly until 2242-03-16, documented above"
    )]
    pub fn as_seconds(self) -> f64 {
        self.as_micros() as f64 / 1e6
    }

    /// Returns the timestamp one microsecond later; `None` at the end of the year 9999.
    pub fn next(self) -> Option<Self> {
        Self::try_from_micros(self.as_micros() + 1).ok()
    }

    pub(crate) fn clamped(micros: i64) -> Self {
        let micros = micros.clamp(MIN_MICROS, MAX_MICROS);
        Self(DateTime::<Utc>::from_timestamp_micros(micros).unwrap_or_default().naive_utc())
    }

    /// Returns the same time as stored in a column without time zone.
    pub fn to_naive_utc(self) -> NaiveDateTime {
        self.0
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with microseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.and_utc().to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl fmt::Debug for Timestamp {
    /// As [`Display`](fmt::Display).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Timestamp> for DateTime<Utc> {
    fn from(timestamp: Timestamp) -> Self {
        timestamp.0.and_utc()
    }
}

impl TryFrom<DateTime<Utc>> for Timestamp {
    type Error = Error;

    /// Fractions of a microsecond are dropped.
    fn try_from(time: DateTime<Utc>) -> Result<Self> {
        Self::try_from_micros(time.timestamp_micros())
    }
}

impl TryFrom<AnyNumber> for Timestamp {
    type Error = Error;

    /// From microseconds since 1970.
    fn try_from(micros: AnyNumber) -> Result<Self> {
        match micros {
            AnyNumber::Integer(micros) => Self::try_from_micros(micros),
            AnyNumber::Double(_) => Err(Error::invalid("timestamp", "not an integer of microseconds")),
        }
    }
}

impl TryFrom<NaiveDateTime> for Timestamp {
    type Error = Error;

    /// From the value of a column without time zone. Fractions of a microsecond are dropped.
    fn try_from(time: NaiveDateTime) -> Result<Self> {
        Self::try_from(time.and_utc())
    }
}

impl TryFrom<Timestamp> for SystemTime {
    type Error = Error;

    /// The range of the operating system may be smaller: Windows' begins in 1601.
    fn try_from(timestamp: Timestamp) -> Result<Self> {
        let micros = timestamp.as_micros();
        let distance = Duration::from_micros(micros.unsigned_abs());
        let epoch = Self::UNIX_EPOCH;
        let time = if micros < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
        time.ok_or_else(|| Error::invalid("timestamp", "not a time of this operating system"))
    }
}

impl TryFrom<SystemTime> for Timestamp {
    type Error = Error;

    /// Fractions of a microsecond are dropped.
    fn try_from(time: SystemTime) -> Result<Self> {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self::try_from_micros(match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => micros(since),
            // Rounded towards earlier times, as above.
            Err(before) => -micros(before.duration() + Duration::from_nanos(999)),
        })
    }
}

impl From<Timestamp> for i64 {
    fn from(timestamp: Timestamp) -> Self {
        timestamp.as_micros()
    }
}

impl TryFrom<i64> for Timestamp {
    type Error = Error;

    fn try_from(micros: i64) -> Result<Self> {
        Self::try_from_micros(micros)
    }
}

/// The source of a session's `create_time`, and of the time at which app and user state change.
pub trait Clock: Send + Sync + 'static {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
}

/// The clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one clock that is injected by default")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::clamped(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }
}

/// The source of new session and event ids.
pub trait IdSource: Send + Sync + 'static {
    /// Returns an id that was never returned before: 1 to 128 characters without NUL.
    fn new_id(&self) -> String;
}

/// Random ids that sort by creation time: UUID version 7 (RFC 9562), hyphenated, in lower case.
#[derive(Debug, Clone, Copy, Default)]
pub struct UuidV7;

impl IdSource for UuidV7 {
    #[allow(clippy::disallowed_methods, reason = "the one source of ids that is injected by default")]
    fn new_id(&self) -> String {
        uuid::Uuid::now_v7().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_the_years_they_claim() {
        assert_eq!(Timestamp::clamped(i64::MIN).to_string(), "0001-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::clamped(i64::MAX).to_string(), "9999-12-31T23:59:59.999999Z");
        assert!(Timestamp::try_from_micros(MAX_MICROS + 1).is_err());
        assert!(Timestamp::try_from_seconds(f64::NAN).is_err());
        assert!(Timestamp::try_from_seconds(1e300).is_err());
    }

    #[test]
    fn times_of_other_crates_lose_only_fractions_of_a_microsecond() {
        for micros in [MIN_MICROS, -1_500_001, -1, 0, 1, 1_763_900_000_123_456, MAX_MICROS] {
            let timestamp = Timestamp::clamped(micros);
            assert_eq!(Timestamp::try_from(DateTime::<Utc>::from(timestamp)).unwrap(), timestamp);
            assert_eq!(Timestamp::try_from(SystemTime::try_from(timestamp).unwrap()).unwrap(), timestamp);
        }
        let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_nanos(1_001);
        assert_eq!(Timestamp::try_from(before_1970).unwrap().as_micros(), -2);
        assert_eq!(Timestamp::try_from(DateTime::<Utc>::from(before_1970)).unwrap().as_micros(), -2);
    }

    #[test]
    fn seconds_round_as_python_does() {
        for (seconds, micros) in [(1.5, 1_500_000), (0.000_000_5, 0), (0.000_001_5, 2), (-1.25, -1_250_000)] {
            assert_eq!(Timestamp::try_from_seconds(seconds).unwrap().as_micros(), micros);
        }
    }
}
