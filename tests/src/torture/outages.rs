//! How long writers wait for a server when one is killed.

use std::fmt;
use std::time::Duration;

/// A kill of the server, on the clock of the histories.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kill {
    pub(crate) killed: i64,
    /// When the server, or the one in its place, could take writes.
    pub(crate) ready: i64,
}

/// What the kills of a run meant for its writers, each in order of length.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outages {
    /// From each kill to when a server could take writes again, as its administrator found.
    pub until_ready: Vec<Duration>,
    /// The longest time around each kill in which no write was acknowledged.
    pub without_writes: Vec<Duration>,
    /// From when a server was ready to the first acknowledged write.
    pub after_ready: Vec<Duration>,
}

impl Outages {
    /// Finds the outages of `kills`, given when writes were acknowledged.
    pub(crate) fn find(kills: &[Kill], mut acknowledged: Vec<i64>) -> Self {
        acknowledged.sort_unstable();
        let mut outages = Self::default();
        for kill in kills {
            let before = acknowledged.partition_point(|at| *at < kill.killed).saturating_sub(1);
            let after = acknowledged.partition_point(|at| *at < kill.ready);
            // Without a write afterwards, the run ended first.
            let around = acknowledged.get(before..=after).unwrap_or_default();
            let longest = around.windows(2).max_by_key(|pair| pair[1] - pair[0]);
            if let Some([last, first]) = longest {
                outages.until_ready.push(micros(kill.ready - kill.killed));
                outages.without_writes.push(micros(first - last));
                outages.after_ready.push(micros(first - kill.ready));
            }
        }
        for times in [&mut outages.until_ready, &mut outages.without_writes, &mut outages.after_ready] {
            times.sort_unstable();
        }
        outages
    }
}

/// Nothing if it is negative.
fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

/// The median and the longest of some times in order, in seconds.
struct Seconds<'a>(&'a [Duration]);

impl fmt::Display for Seconds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |place: usize| self.0.get(place).map(Duration::as_secs_f64).unwrap_or_default();
        write!(f, "{:.2} (at most {:.2})", at(self.0.len() / 2), at(self.0.len().saturating_sub(1)))
    }
}

impl Outages {
    /// The names of [`columns`](Self::columns).
    pub const COLUMNS: [&str; 3] = ["until another was ready, s", "without a write, s", "after it was ready, s"];

    /// The median of each kind of time, and the longest.
    pub fn columns(&self) -> [String; 3] {
        [&self.until_ready, &self.without_writes, &self.after_ready].map(|times| Seconds(times).to_string())
    }
}

impl fmt::Display for Outages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> =
            Self::COLUMNS.iter().zip(self.columns()).map(|(name, times)| format!("{name}: {times}")).collect();
        f.write_str(&lines.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_the_longest_silence_around_a_kill() {
        // A write that the old server had sent on its way is acknowledged after the kill.
        let acknowledged = vec![100, 200, 1_000_300, 1_000_400, 900, 2_000_000];
        let outages = Outages::find(&[Kill { killed: 850, ready: 900_000 }], acknowledged);
        assert_eq!(outages.until_ready, [Duration::from_micros(899_150)]);
        assert_eq!(outages.without_writes, [Duration::from_micros(999_400)]);
        assert_eq!(outages.after_ready, [Duration::from_micros(100_300)]);
    }

    #[test]
    fn a_write_before_the_server_was_found_ready_waited_for_nothing() {
        let outages = Outages::find(&[Kill { killed: 150, ready: 500 }], vec![100, 450, 550]);
        assert_eq!(outages.after_ready, [Duration::ZERO]);
        assert_eq!(Outages::find(&[Kill { killed: 150, ready: 500 }], vec![100, 450]), Outages::default());
    }
}
