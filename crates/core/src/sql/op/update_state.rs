//! `update_state` of an app or a user: one shared row, and no session.
//!
//! The state of a session changes by an event, so that its history explains it: see
//! [`UpdateState`](crate::UpdateState). That is an append.

use async_trait::async_trait;

use super::context::Context;
use crate::sql::dialect::Dialect;
use crate::sql::write::{Applied, Attempt, Row, SharedChange, SharedKey, SharedStates, WriteOp};
use crate::validate::{NewSharedState, SharedTarget};
use crate::{Result, State, Timestamp};

const OPERATION: &str = "update_state";

/// Keys to set in the state of an app or a user.
pub(crate) struct UpdateSharedStateOp {
    row: SharedKey,
    delta: State,
    now: Timestamp,
}

impl UpdateSharedStateOp {
    pub(crate) fn new(NewSharedState { target, delta, now }: NewSharedState) -> Self {
        let row = match target {
            SharedTarget::App(app_name) => SharedKey::App(app_name),
            SharedTarget::User(user) => SharedKey::User(user),
        };
        Self { row, delta, now }
    }
}

#[async_trait]
impl<D: Dialect> WriteOp<Context<D>> for UpdateSharedStateOp {
    /// The state after the update.
    type Outcome = State;

    const NAME: &'static str = OPERATION;

    /// Setting the keys again would undo what others have set since.
    const REPEATABLE: bool = false;

    fn target(&self) -> Row {
        Row::Shared(self.row.clone())
    }

    fn shared(&self) -> Vec<SharedChange> {
        vec![SharedChange { row: self.row.clone(), delta: self.delta.clone(), now: self.now }]
    }

    fn bytes(&self) -> usize {
        self.delta.bytes()
    }

    async fn apply(&self, _: &Context<D>, _: Attempt<'_, Context<D>>) -> Result<Applied<State>> {
        Ok(Applied::Written(State::new()))
    }

    fn complete(&self, _: State, shared: &SharedStates) -> State {
        shared.get(&self.row)
    }

    /// The update was committed if every key has its new value. If one has another value, others may have set it since.
    /// The read waits for the row's lock, which an undecided first attempt still holds.
    async fn resolve(&self, context: &Context<D>) -> Result<Option<State>> {
        let mut on = context.database.autocommit();
        let state = context.shared_state.read_decided(&mut on, &self.row, OPERATION).await?.unwrap_or_default();
        let is_there = self.delta.iter().all(|(key, value)| state.get(key) == Some(value));
        Ok(is_there.then_some(state))
    }
}
