//! Creates and appends in one statement each: one round trip, no transaction, and many writes at once under load.

use sea_orm::sea_query::ArrayType;
use sea_orm::{DbErr, EntityName, QueryResult, Value};

use super::Dialect;
use super::failure::autocommit_error;
use super::prepared::Prepared;
use super::queue::Claimed;
use super::retry::Tries;
use super::rows::RowOf;
use super::service::Inner;
use super::shared_state::{Key, existing, json_value};
use super::write::Write;
use crate::entity::{app_states, user_states};
use crate::prepare::{NewEvent, NewSession};
use crate::{
    Appended, BackendError, BackendErrorKind, ExpectedRevision, Result, Revision, Session, SessionKey, State, Timestamp,
};

pub(in crate::sql) struct Statements<D> {
    append: Prepared<D>,
    create: Prepared<D>,
}

impl<D: Dialect> Statements<D> {
    /// `None` where the dialect has no such statements.
    pub(super) fn new() -> Option<Self> {
        let statements = D::single_statements()?;
        Some(Self { append: Prepared::new(&statements.append), create: Prepared::new(&statements.create) })
    }

    /// Gives the writes of a group, which are of one kind and to different sessions, their outcomes; none to those that
    /// the portable algorithm must settle. Nothing of these was written.
    pub(super) async fn execute(&self, inner: &Inner<D>, group: &mut [Claimed], tries: &mut Tries) {
        let executed = match group.first().map(|first| &first.write) {
            Some(Write::Append(_)) => self.append(inner, group).await,
            Some(Write::Create(_)) => self.create(inner, group).await,
            Some(Write::Delete(_)) | None => return,
        };
        let Err(error) = executed else { return };
        let told = |write: &Write| autocommit_error::<D>(write.operation(), error.clone());
        let Some(Claimed { write, .. }) = group.first() else { return };
        let (again, first) = (tries.are_left(&told(write)), told(write));
        if again || !first.is_retryable() {
            tries.count(&first);
        }
        for Claimed { write, .. } in group {
            let told = told(write);
            match told.backend_kind() {
                _ if !again && told.is_retryable() => write.fail(told),
                Some(BackendErrorKind::CommitUnknown) => write.doubt(told),
                // The portable algorithm meets it again, if it is about this write.
                _ => {}
            }
        }
    }

    async fn append(&self, inner: &Inner<D>, group: &mut [Claimed]) -> Result<(), DbErr> {
        let new: Vec<&NewEvent> = group.iter().filter_map(|claimed| claimed.write.append()).collect();
        let values = keys(new.iter().map(|new| &new.key)).chain([
            texts(new.iter().map(|new| &new.id)),
            texts(new.iter().map(|new| &new.invocation_id)),
            times(new.iter().map(|new| new.timestamp)),
            texts(new.iter().map(|new| new.event_data.as_str())),
            texts(new.iter().map(|new| match new.expected {
                ExpectedRevision::Exact(revision) => revision.timestamp().to_naive_utc().to_string(),
                ExpectedRevision::Any => String::new(),
            })),
            states(new.iter().map(|new| &new.delta.session))?,
            states(new.iter().map(|new| &new.delta.app))?,
            states(new.iter().map(|new| &new.delta.user))?,
            times(new.iter().map(|new| new.now)),
            count(new.len()),
        ]);
        for row in inner.query_all(self.append.bind(values)).await? {
            let stored = D::moment(&row, 1)?;
            if let Some(Write::Append(call)) = written(group, &row)? {
                call.outcome = Some(Ok(Appended::Stored(Revision::new(stored))));
            }
        }
        Ok(())
    }

    async fn create(&self, inner: &Inner<D>, group: &mut [Claimed]) -> Result<(), DbErr> {
        let new: Vec<&NewSession> = group.iter().filter_map(|claimed| claimed.write.create()).collect();
        let values = keys(new.iter().map(|new| &new.key)).chain([
            states(new.iter().map(|new| &new.state.session))?,
            states(new.iter().map(|new| &new.state.app))?,
            states(new.iter().map(|new| &new.state.user))?,
            times(new.iter().map(|new| new.create_time)),
            count(new.len()),
        ]);
        for row in inner.query_all(self.create.bind(values)).await? {
            if let Some(Write::Create(call)) = written(group, &row)? {
                match created(inner, &call.request, &row).await {
                    Err(error) => call.doubt = Some(error),
                    created => call.outcome = Some(created),
                }
            }
        }
        Ok(())
    }
}

/// The session that a row of the statement tells of. It is stored, so an error from here on must not say otherwise.
async fn created<D: Dialect>(inner: &Inner<D>, new: &NewSession, row: &QueryResult) -> Result<Session> {
    let key = &new.key;
    let state = |index, table, key: Key<'_>| -> Result<Option<State>> {
        let stored = RowOf::<D>::new(table, &key);
        let text = stored.text_or_null(row, index, "state")?;
        text.map(|text| stored.decode(text, "state")).transpose()
    };
    let app = state(1, app_states::Entity.table_name(), Key::app(key))?;
    let user = state(2, user_states::Entity.table_name(), Key::user(key))?;
    if let Some((app, user)) = app.zip(user) {
        return Ok(new.to_session(app, user));
    }
    // Made by others after the statement had begun.
    let states = existing(inner, key, "create_session").await;
    let (app, user) = states
        .map_err(|error| {
            let message = "the session is stored, but reading its app's and user's state ended in an error";
            BackendError::new(BackendErrorKind::CommitUnknown, message).with_source(error)
        })?
        .unwrap_or_default();
    Ok(new.to_session(app, user))
}

/// The write that a row tells of by its number.
fn written<'a>(group: &'a mut [Claimed], row: &QueryResult) -> Result<Option<&'a mut Write>, DbErr> {
    let number: i32 = row.try_get_by_index(0)?;
    Ok(usize::try_from(number).ok().and_then(|number| group.get_mut(number)).map(|claimed| &mut claimed.write))
}

/// The numbers of the writes, and the three parts of their sessions' keys.
fn keys<'a>(keys: impl Iterator<Item = &'a SessionKey> + Clone) -> impl Iterator<Item = Value> {
    [
        array(ArrayType::Int, (0_i32..).zip(keys.clone()).map(|(number, _)| number)),
        texts(keys.clone().map(|key| &key.app_name)),
        texts(keys.clone().map(|key| &key.user_id)),
        texts(keys.map(|key| &key.session_id)),
    ]
    .into_iter()
}

fn array<T: Into<Value>>(of: ArrayType, values: impl Iterator<Item = T>) -> Value {
    Value::Array(of, Some(Box::new(values.map(Into::into).collect())))
}

fn texts(values: impl Iterator<Item = impl AsRef<str>>) -> Value {
    array(ArrayType::String, values.map(|text| text.as_ref().to_owned()))
}

fn times(values: impl Iterator<Item = Timestamp>) -> Value {
    array(ArrayType::ChronoDateTime, values.map(Timestamp::to_naive_utc))
}

fn states<'a>(values: impl Iterator<Item = &'a State>) -> Result<Value, DbErr> {
    let values: Vec<Value> =
        values.map(json_value).collect::<Result<_>>().map_err(|error| DbErr::Json(error.to_string()))?;
    Ok(array(ArrayType::String, values.into_iter()))
}

fn count(writes: usize) -> Value {
    Value::from(i64::try_from(writes).unwrap_or(i64::MAX))
}
