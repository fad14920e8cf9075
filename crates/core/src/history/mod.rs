//! What a session's events mean once google-adk has rewound and compacted them. Pure functions, without I/O.
//!
//! Nothing of a session is ever deleted by a rewind or a compaction: both are events. A **rewind** is an event with
//! `actions.rewind_before_invocation_id`. It takes back everything from the first event of that invocation on, and
//! its state delta restores the state. A **compaction** is an event with `actions.compaction`: a range of time, and a
//! summary that stands for the events of that time.
//!
//! - [`live_events`]: the events that no rewind has taken back. This is the conversation to show to people.
//! - [`effective_events`]: the events that google-adk builds a model's request from.
//! - [`StateHistory`]: the state of the session as of any event, and what a rewind has to write.
//!
//! The first two return what google-adk 2.13 itself computes. The test suite compares both on 10,000 generated
//! histories.

mod calls;
mod compaction;
mod context;
pub(crate) mod fork;
pub(crate) mod fork_plan;
pub(crate) mod redact;
mod rewind;
mod rewinds;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::borrow::Cow;

pub use self::context::AgentContext;
pub use self::fork::{ForkSession, Forked, Origin, Parent};
pub use self::redact::{RedactEvent, Redacted};
pub use self::rewind::{RewindSession, Rewound};
pub use self::rewinds::live_events;
pub use self::state::{Rewind, StateAt, StateHistory};

use self::compaction::Item;
use self::view::View;
use crate::Event;

/// Returns the events that google-adk builds the request to the model of `agent` from, in order.
///
/// Expects all events of the session. Applies, in this order:
///
/// 1. rewinds, as [`live_events`] does;
/// 2. what the agent may see: events of its branch and scope that have content, without requests for credentials and
///    confirmations, and without what its tools publish on branches of their own;
/// 3. compactions: a range inside another is superseded by it; events within a range are hidden by their own times,
///    bounds included; the summary stands at the end of the range, as an event with the id of its compaction. If
///    there is a compaction, the events are sorted by their own times;
/// 4. function calls: if a compaction hides a call whose response is still there, the call is put back before the
///    response, with the responses to its other calls.
///
/// Events are borrowed; summaries are new. From here, google-adk joins transcripts, quotes what other agents said,
/// and pairs calls with responses, as the model at hand needs it.
///
/// Events of a shape that google-adk cannot read are treated as if the field in question were absent.
pub fn effective_events<'a>(events: &'a [Event], agent: &AgentContext) -> Vec<Cow<'a, Event>> {
    let live: Vec<View<'a>> = live_events(events).into_iter().map(View::of).collect();
    let visible = agent.visible(live);
    if !visible.iter().any(|view| view.compaction.is_some()) {
        return visible.into_iter().map(|view| Cow::Borrowed(view.event)).collect();
    }
    let compacted = compaction::compact(&visible, agent);
    calls::put_back(compacted, &visible)
        .into_iter()
        .map(|item| match item {
            Item::Event(index) => Cow::Borrowed(visible[index].event),
            Item::Summary(summary) => Cow::Owned(*summary),
        })
        .collect()
}
