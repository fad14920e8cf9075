//! Forgetting users and apps.

use async_trait::async_trait;

use super::MemorySessionService;
use crate::retention::Forgotten;
use crate::{Result, RetentionService, SessionScope};

/// How many sessions a step deletes, as on a database.
const DELETED_AT_ONCE: usize = 100;

#[async_trait]
impl RetentionService for MemorySessionService {
    async fn forget_some(&self, scope: &SessionScope) -> Result<Forgotten> {
        let mut store = self.open()?;
        let found: Vec<_> = store.sessions.keys().filter(|key| scope.contains(key)).take(DELETED_AT_ONCE).collect();
        let found: Vec<_> = found.into_iter().cloned().collect();
        let mut step = Forgotten::default();
        if found.is_empty() {
            let before = store.users.len() + store.apps.len();
            store.users.retain(|user, _| match scope {
                SessionScope::App(app_name) => user.app_name != *app_name,
                SessionScope::User(forgotten) => user != forgotten,
            });
            if let SessionScope::App(app_name) = scope {
                store.apps.remove(app_name);
            }
            step.states = (before - store.users.len() - store.apps.len()) as u64;
        }
        for key in found {
            step.sessions += 1;
            step.events += store.sessions.remove(&key).map_or(0, |stored| stored.events.len() as u64);
        }
        step.has_more = step.sessions + step.states > 0;
        Ok(step)
    }
}
