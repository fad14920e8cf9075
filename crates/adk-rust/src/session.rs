//! A session as adk-rust sees it.

use std::collections::HashMap;

use adk_core::{Event, validate_state_key};
use adk_session::{Events, Session, State};
use chrono::{DateTime, Utc};
use seabed::SessionKey;
use serde_json::Value;

use crate::codec;

/// What one read saw.
pub(crate) struct StoredSession {
    key: SessionKey,
    state: HashMap<String, Value>,
    events: Vec<Event>,
    last_update_time: DateTime<Utc>,
}

impl StoredSession {
    pub(crate) fn new(session: &seabed::Session) -> Self {
        Self {
            key: session.key.clone(),
            state: codec::read_state(&session.state),
            events: session.events.iter().map(codec::decode).collect(),
            last_update_time: session.last_update_time().into(),
        }
    }

    /// Leaves out the events whose own time is before `time`.
    pub(crate) fn retain_since(&mut self, time: DateTime<Utc>) {
        self.events.retain(|event| event.timestamp >= time);
    }
}

impl Session for StoredSession {
    fn id(&self) -> &str {
        self.key.session_id.as_str()
    }

    fn app_name(&self) -> &str {
        self.key.app_name.as_str()
    }

    fn user_id(&self) -> &str {
        self.key.user_id.as_str()
    }

    fn state(&self) -> &dyn State {
        self
    }

    fn events(&self) -> &dyn Events {
        self
    }

    fn last_update_time(&self) -> DateTime<Utc> {
        self.last_update_time
    }
}

impl State for StoredSession {
    fn get(&self, key: &str) -> Option<Value> {
        self.state.get(key).cloned()
    }

    /// Sets a key of this copy; what is stored comes from the deltas of events.
    fn set(&mut self, key: String, value: Value) {
        match validate_state_key(&key) {
            Ok(()) => drop(self.state.insert(key, value)),
            Err(reason) => tracing::warn!(target: "seabed", reason, "a state key is ignored"),
        }
    }

    fn all(&self) -> HashMap<String, Value> {
        self.state.clone()
    }
}

impl Events for StoredSession {
    fn all(&self) -> Vec<Event> {
        self.events.clone()
    }

    fn len(&self) -> usize {
        self.events.len()
    }

    fn at(&self, index: usize) -> Option<&Event> {
        self.events.get(index)
    }
}
