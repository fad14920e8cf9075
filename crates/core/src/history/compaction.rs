//! Compactions: summaries in the place of the events of a range of time.

use super::context::AgentContext;
use super::view::View;
use crate::Event;

/// An event after compaction.
pub(super) enum Item {
    /// The visible event at this index.
    Event(usize),
    Summary(Box<Event>),
}

/// A range of time that a compaction covers, bounds included.
#[derive(Clone, Copy)]
struct Range {
    /// Of the compaction's event.
    index: usize,
    start: f64,
    end: f64,
}

/// Returns the events and summaries in the order of their times; those of one time as in `visible`.
pub(super) fn compact(visible: &[View<'_>], agent: &AgentContext) -> Vec<Item> {
    let ranges = kept_ranges(visible);
    // Ranges that begin later also end later, so the last one that has begun decides.
    let is_hidden = |time| {
        let begun = ranges.partition_point(|range| range.start <= time);
        ranges[..begun].last().is_some_and(|range| time <= range.end)
    };
    let summaries = ranges.iter().filter_map(|range| {
        let summary = summary(&visible[range.index], range.end, agent)?;
        Some((range.end, range.index, Item::Summary(Box::new(summary))))
    });
    let events = visible.iter().enumerate().filter(|(_, view)| view.compaction.is_none());
    let events = events.map(|(index, view)| (view.event.timestamp, index, Item::Event(index)));
    let mut items: Vec<_> = events.filter(|(time, ..)| !is_hidden(*time)).chain(summaries).collect();
    // Adding 0 makes the two zeros one.
    items.sort_by(|left, right| (left.0 + 0.0).total_cmp(&(right.0 + 0.0)).then(left.1.cmp(&right.1)));
    items.into_iter().map(|(.., item)| item).collect()
}

/// The ranges without those that are inside another, in the order of their starts and of their ends. Of equal ranges
/// the last counts.
fn kept_ranges(visible: &[View<'_>]) -> Vec<Range> {
    let range = |(index, view): (usize, &View<'_>)| {
        let compaction = view.compaction.as_ref().filter(|compaction| compaction.content.is_some())?;
        let (start, end) = (compaction.start?, compaction.end?);
        (!start.is_nan() && !end.is_nan()).then_some(Range { index, start: start + 0.0, end: end + 0.0 })
    };
    let mut ranges: Vec<Range> = visible.iter().enumerate().filter_map(range).collect();
    // Each range comes after all that may contain it, so the latest end so far decides.
    ranges.sort_by(|left, right| {
        left.start.total_cmp(&right.start).then(right.end.total_cmp(&left.end)).then(right.index.cmp(&left.index))
    });
    let mut latest_end = f64::NEG_INFINITY;
    ranges.retain(|range| {
        let is_inside_another = range.end <= latest_end;
        latest_end = latest_end.max(range.end);
        !is_inside_another
    });
    ranges
}

fn summary(compaction: &View<'_>, end: f64, agent: &AgentContext) -> Option<Event> {
    let event = compaction.event;
    let mut summary = Event {
        id: event.id.clone(),
        invocation_id: event.invocation_id.clone(),
        author: agent.author().to_owned(),
        timestamp: end,
        branch: event.branch.clone(),
        content: Some(compaction.compaction.as_ref()?.content.clone()?),
        actions: event.actions.clone(),
        ..Event::default()
    };
    let scope = compaction.isolation_scope.as_deref();
    summary.extra.extend(scope.map(|scope| ("isolation_scope".to_owned(), scope.into())));
    Some(summary)
}
