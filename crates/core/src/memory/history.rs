//! How sessions began, and forks.

use async_trait::async_trait;

use super::{MemorySessionService, StoredEvent, StoredSession};
use crate::backend::{ForkPlan, NewFork, NewRedaction};
use crate::history::{ForkSession, Forked, Origin, RedactEvent, Redacted};
use crate::{Annotations, Appended, Error, HistoryService, Json, Result, SessionKey};

#[async_trait]
impl HistoryService for MemorySessionService {
    async fn get_origin(&self, key: &SessionKey) -> Result<Origin> {
        let store = self.open()?;
        let stored = store.sessions.get(key).ok_or_else(|| Error::not_found(key))?;
        Ok(Origin::new(stored.create_time, stored.initial_state.clone(), stored.parent.clone()))
    }

    async fn fork_session(&self, request: ForkSession) -> Result<Forked> {
        let new = NewFork::try_prepare(&request, &*self.clock, &*self.ids)?;
        let mut store = self.open()?;
        let source = store.sessions.get(&new.source).ok_or_else(|| Error::not_found(&new.source))?;
        let mut plan = ForkPlan::new(new, source.state.clone(), source.initial_state.clone());
        for event in &source.events {
            plan.add(&event.decode()?, event.cursor.timestamp);
        }
        let fork = plan.finish()?;
        if store.sessions.contains_key(&fork.key) {
            return Err(Error::already_exists(&fork.key));
        }
        let is_copied = |stored: &&StoredEvent| stored.cursor.timestamp <= fork.update_time;
        let stored = StoredSession {
            state: fork.state,
            create_time: fork.create_time,
            update_time: fork.update_time,
            events: source.events.iter().filter(is_copied).cloned().collect(),
            annotations: Annotations::default(),
            initial_state: fork.initial_state,
            parent: Some(fork.parent),
        };
        let session = store.show(&fork.key, &stored);
        store.sessions.insert(fork.key, stored);
        Ok(Forked { session, events: fork.events, unknown: fork.unknown })
    }

    async fn redact_event(&self, request: RedactEvent) -> Result<Redacted> {
        let new = NewRedaction::try_prepare(request, &*self.clock, self.adk_check)?;
        let mut store = self.open()?;
        let stored = store.sessions.get(&new.key).ok_or_else(|| Error::not_found(&new.key))?;
        let revision = stored.revision();
        let place = stored.events.iter().position(|event| event.cursor.event_id == new.event_id);
        let place = place.ok_or_else(NewRedaction::no_such_event)?;
        let decoded = stored.events[place].decode()?;
        let Some(redacted) = new.apply_to(&decoded) else { return Ok(Redacted::new(decoded, revision)) };
        let data = Json::from_serialize(&redacted).map_err(|error| Error::invalid("event", error.to_string()))?;
        let key = new.key.clone();
        let Appended::Stored(appended) = store.append(new.notice)? else {
            return Ok(Redacted::new(decoded, revision));
        };
        if let Some(stored) = store.sessions.get_mut(&key) {
            stored.events[place].event_data = data;
        }
        Ok(Redacted::new(redacted, appended))
    }
}
