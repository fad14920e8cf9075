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
            let around = acknowledged.get(before..=after).unwrap_or_default();
            let longest = around.windows(2).max_by_key(|pair| pair[1] - pair[0]);
            if let Some([last, first]) = longest {
                outages.without_writes.push(micros(first - last));
                outages.after_ready.push(micros(first - kill.ready));
            }
        }
        outages.without_writes.sort_unstable();
        outages.after_ready.sort_unstable();
        outages
    }
}

/// Nothing if it is negative.
fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

/// Returns the median and the longest of some times, in seconds.
pub(crate) fn median_and_longest(sorted: &[Duration]) -> (f64, f64) {
    let at = |place: usize| sorted.get(place).map(Duration::as_secs_f64).unwrap_or_default();
    (at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}

impl fmt::Display for Outages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, longest) = median_and_longest(&self.without_writes);
        write!(f, "without a write around a kill of the server: {median:.2} s, at most {longest:.2} s; ")?;
        let (median, longest) = median_and_longest(&self.after_ready);
        write!(f, "after a server was ready: {median:.2} s, at most {longest:.2} s")
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
