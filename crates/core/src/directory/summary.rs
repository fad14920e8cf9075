//! What a list of conversations shows of a session.

use serde::{Deserialize, Serialize};

use crate::{Event, Revision, SessionKey};

/// A session in a few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SessionSummary {
    /// The session.
    pub key: SessionKey,
    /// Its title.
    pub title: Option<String>,
    /// What was said last: the text of the newest event that has one, among the last
    /// [`RECENT_EVENTS`](Self::RECENT_EVENTS), also of an event that a rewind has taken back.
    pub last_text: Option<String>,
    /// The number of its events.
    pub events: u64,
    /// Its revision.
    pub revision: Revision,
}

impl SessionSummary {
    /// How many events of a session are searched for text, from the newest on.
    pub const RECENT_EVENTS: u32 = 16;

    /// Makes a summary of what a store has of a session. `recent` are its last events, the newest first.
    pub fn new(
        key: SessionKey,
        title: Option<String>,
        recent: impl IntoIterator<Item = Event>,
        events: u64,
        revision: Revision,
    ) -> Self {
        let last_text = recent.into_iter().find_map(|event| event.text());
        Self { key, title, last_text, events, revision }
    }
}
