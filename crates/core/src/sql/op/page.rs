//! Reading a page of a listing: only as many rows as it may hold, and each shared state once.

use std::collections::HashMap;
use std::marker::PhantomData;

use sea_orm::{QueryResult, Statement};

use super::list::{APP_STATE, STATE, USER_ID, USER_STATE};
use crate::sql::decode::RowDecoder;
use crate::sql::dialect::Dialect;
use crate::sql::error::StatementError;
use crate::sql::executor::Executor;
use crate::sql::write::SharedKey;
use crate::state::ScopedState;
use crate::{AppName, Error, Result, SessionKey, State, UserId, UserKey};

/// How much memory the rows of a page take, at most by one row more. Callers ask for up to 1,000 rows, of which each
/// may have megabytes.
const PAGE_BYTES: usize = 16 << 20;

/// A row of a page, and the position after it.
pub(super) struct PageRow<T, C> {
    pub(super) after: Option<C>,
    pub(super) item: Result<T>,
    /// About how much memory it takes.
    pub(super) bytes: usize,
}

/// The rows of a page, and one row more if there are more.
pub(super) struct PageRows<T, C> {
    pub(super) rows: Vec<(Option<C>, Result<T>)>,
    bytes: usize,
}

impl<T, C> PageRows<T, C> {
    /// Runs `statement`, and decodes its rows as they arrive; those that `decode` returns `None` for do not count.
    pub(super) async fn read(
        on: &mut dyn Executor,
        statement: Statement,
        mut decode: impl FnMut(&QueryResult) -> Option<PageRow<T, C>> + Send,
    ) -> Result<Self, StatementError>
    where
        T: Send,
        C: Send,
    {
        let mut page = Self { rows: Vec::new(), bytes: 0 };
        let mut add = |row: QueryResult| {
            if !page.is_full()
                && let Some(PageRow { after, item, bytes }) = decode(&row)
            {
                page.rows.push((after, item));
                page.bytes += bytes;
            }
        };
        on.run(statement, &mut add).await?;
        Ok(page)
    }

    /// Whether there is no room but for a first row. The last row then belongs to the next page.
    fn is_full(&self) -> bool {
        self.bytes > PAGE_BYTES && self.rows.len() > 1
    }

    /// How many rows the page has at most, of up to `limit`.
    pub(super) fn limit(&self, limit: u32) -> u32 {
        let fitting = u32::try_from(self.rows.len().saturating_sub(1)).unwrap_or(limit);
        if self.is_full() { fitting.min(limit) } else { limit }
    }
}

/// The states that the sessions of a page share. Each comes with the first session that shows it.
pub(super) struct PageStates<D> {
    app: Result<State>,
    users: HashMap<UserId, Result<State>>,
    dialect: PhantomData<fn() -> D>,
}

impl<D: Dialect> PageStates<D> {
    pub(super) fn new() -> Self {
        Self { app: Ok(State::new()), users: HashMap::new(), dialect: PhantomData }
    }

    /// Keeps the shared states that come with a row, and returns about how much memory they take.
    pub(super) fn keep(&mut self, app_name: &AppName, row: &QueryResult) -> usize {
        let app_key = SharedKey::App(app_name.clone());
        let app = RowDecoder::<D>::new("app_states", &app_key).state_or_null(row, APP_STATE).transpose();
        let user_id = RowDecoder::<D>::new("sessions", app_name).text(row, USER_ID, "user_id").unwrap_or_default();
        let user = UserKey::new(app_name.clone(), UserId::from_row(user_id.to_owned()));
        let user_key = SharedKey::User(user.clone());
        let user_state = RowDecoder::<D>::new("user_states", &user_key).state_or_null(row, USER_STATE).transpose();
        let memory = |state: &Result<State>| state.as_ref().map_or(0, State::memory);
        let bytes = app.iter().chain(&user_state).map(memory).sum();
        if let Some(app) = app {
            self.app = app.map(State::into_shared);
        }
        if let Some(state) = user_state {
            self.users.insert(user.user_id, state.map(State::into_shared));
        }
        bytes
    }

    /// The state of the session in a row, with that of its user and its app.
    pub(super) fn merged(&self, key: &SessionKey, row: &QueryResult) -> Result<State> {
        let copy = |state: &Result<State>| state.as_ref().map_err(Error::without_source).cloned();
        let app = copy(&self.app)?;
        let user = self.users.get(&key.user_id).map(copy).transpose()?.unwrap_or_default();
        let session = RowDecoder::<D>::new("sessions", key).state(row, STATE)?;
        Ok(ScopedState { app, user, session }.merged())
    }
}
