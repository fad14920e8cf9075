//! Which events are live after rewinds.

use std::collections::HashMap;

use super::view::rewind_target;
use crate::Event;

/// The index of each invocation's first event.
pub(super) fn first_events(events: &[Event]) -> HashMap<&str, usize> {
    let mut first = HashMap::new();
    for (index, event) in events.iter().enumerate().filter(|(_, event)| !event.invocation_id.is_empty()) {
        first.entry(event.invocation_id.as_str()).or_insert(index);
    }
    first
}

/// Returns the events that no rewind has taken back, in order.
///
/// Expects all events of the session. Walks backwards: a rewind takes back itself and everything from the first event
/// of its invocation on, rewinds included. A rewind to an invocation that the session does not have takes back only
/// itself.
///
/// ```
/// use seabed_core::Event;
/// use seabed_core::history::live_events;
///
/// let mut events = vec![Event::new("user").with_invocation_id("a"), Event::new("user").with_invocation_id("b")];
/// let mut marker = Event::new("user");
/// marker.actions.extra.insert("rewind_before_invocation_id".to_owned(), "b".into());
/// events.push(marker);
/// assert_eq!(live_events(&events), [&events[0]]);
/// ```
pub fn live_events(events: &[Event]) -> Vec<&Event> {
    let first = first_events(events);
    let mut live = Vec::with_capacity(events.len());
    let mut end = events.len();
    while let Some(index) = end.checked_sub(1) {
        end = if let Some(invocation) = rewind_target(&events[index]) {
            first.get(invocation.as_str()).copied().unwrap_or(index).min(index)
        } else {
            live.push(&events[index]);
            index
        };
    }
    live.reverse();
    live
}
