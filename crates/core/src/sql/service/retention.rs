//! Forgetting users and apps.

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};

use super::{SqlSessionService, traced};
use crate::sql::dialect::Dialect;
use crate::sql::op::context::Context;
use crate::sql::op::forget::{self, ForgetStateOp, ForgottenState, some_of};
use crate::sql::write::SharedKey;
use crate::{DeleteSession, Forgotten, Result, RetentionService, SessionKey, SessionScope, SessionService as _};

const OPERATION: &str = "forget_some";

/// How many deletes run at once: few, so that the database serves others.
const FORGET_AT_ONCE: usize = 4;

#[async_trait]
impl<D: Dialect> RetentionService for SqlSessionService<D> {
    async fn forget_some(&self, scope: &SessionScope) -> Result<Forgotten> {
        traced::<D, _>(OPERATION, async {
            let Context { database, tables, .. } = &*self.context;
            let find = async || forget::find_sessions::<D>(tables, &mut database.autocommit(), scope).await;
            let sessions = some_of(self.read(OPERATION, find).await?);
            if !sessions.is_empty() {
                return Forgotten::sum(self.forget_sessions(sessions).await);
            }
            let find = async || forget::find_states::<D>(tables, &mut database.autocommit(), scope).await;
            let states = some_of(self.read(OPERATION, find).await?);
            Forgotten::sum(self.forget_states(states, matches!(scope, SessionScope::App(_))).await)
        })
        .await
    }
}

impl<D: Dialect> SqlSessionService<D> {
    async fn forget_sessions(&self, sessions: Vec<SessionKey>) -> Vec<Result<Forgotten>> {
        let delete = |key: SessionKey| async move {
            let Context { database, tables, .. } = &*self.context;
            let count = async || forget::count_events::<D>(tables, &mut database.autocommit(), &key).await;
            let Some(events) = self.read(OPERATION, count).await? else {
                // Somebody else was faster.
                return Ok(Forgotten { has_more: true, ..Forgotten::default() });
            };
            self.delete_session(DeleteSession::new(key)).await?;
            Ok(Forgotten { sessions: 1, events, states: 0, has_more: true })
        };
        stream::iter(sessions).map(delete).buffer_unordered(FORGET_AT_ONCE).collect().await
    }

    async fn forget_states(&self, states: Vec<SharedKey>, is_app: bool) -> Vec<Result<Forgotten>> {
        let delete = |row| async move {
            let of_many = is_app && matches!(row, SharedKey::User(_));
            let state = self.submit(ForgetStateOp { row }).await?;
            let states = u64::from(state == ForgottenState::Deleted);
            // Somebody else who was faster with this user may have left others.
            let has_more = of_many || state != ForgottenState::Absent;
            Ok(Forgotten { states, has_more, ..Forgotten::default() })
        };
        stream::iter(states).map(delete).buffer_unordered(FORGET_AT_ONCE).collect().await
    }
}
