//! Reads back what was written, and compares it with what was sent.

use futures_util::TryStreamExt as _;
use sea_orm::sea_query::Query;
use sea_orm::{DbErr, StreamTrait as _};
use seabed_core::State;
use seabed_core::entity::{events, sessions};

use super::batch::{Batch, Part};
use super::record::{ContentHash, Record, SessionId};
use super::shape::{Shape as _, V1};
use super::states::{APP_STATES, Found, SESSIONS, StateRow, StateTable, USER_STATES};
use super::store::Store;
use super::tables::of_session;
use crate::rows::json_text;

impl Store<'_> {
    /// Compares what is stored with the states and the complete sessions of a batch that was written.
    pub(super) async fn compare(&mut self, batch: Batch) -> Result<(), DbErr> {
        let annotations = batch.all_annotations().cloned().collect::<Vec<_>>();
        let Batch { app_states, user_states, parts, .. } = batch;
        let parts: Vec<Part> = parts.into_iter().filter(|part| part.is_last).collect();
        for (table, rows) in [
            (&APP_STATES, app_states.iter().map(StateRow::from).collect::<Vec<_>>()),
            (&USER_STATES, user_states.iter().map(StateRow::from).collect()),
            (&SESSIONS, parts.iter().map(|part| StateRow::from(&part.session)).collect()),
        ] {
            for (row, found) in self.found(table, &rows).await? {
                self.compare_state(table, &row, found);
            }
        }
        for part in parts {
            self.compare_events(&part.session).await?;
        }
        for row in annotations {
            self.compare_annotations(&row).await?;
        }
        Ok(())
    }

    /// Returns each row with the stored row of the same key.
    async fn found(&self, table: &StateTable, rows: &[StateRow]) -> Result<Vec<(StateRow, Found)>, DbErr> {
        let mut found = self.select_rows(self.connection, table, rows, false).await?;
        Ok(rows.iter().map(|row| (row.clone(), found.remove(&row.key).unwrap_or(Err("is missing")))).collect())
    }

    fn compare_state(&mut self, table: &StateTable, row: &StateRow, found: Found) {
        let name = format!("{} row {:?}", table.name, row.key);
        let found = match found {
            Ok(found) => found,
            Err(problem) => {
                self.summary.different.push(format!("{name} {problem}"));
                return;
            }
        };
        let holds = match (State::from_stored(&row.state), State::from_stored(&found.state)) {
            (Ok(sent), Ok(stored)) => sent.iter().all(|(key, value)| {
                stored.get(key).is_some_and(|other| other == value || found.version() > row.version())
            }),
            _ => false,
        };
        if !holds {
            self.summary.different.push(format!("{name} lacks a key or has a different value"));
        }
        self.summary.stored_content.toggle(ContentHash::of(&table.record(found)));
    }

    async fn compare_events(&mut self, session: &sessions::Model) -> Result<(), DbErr> {
        let key = SessionId::of(session);
        let mut sent = self.sent.remove(&key).unwrap_or_default();
        if sent.is_empty() {
            return Ok(());
        }
        let mut select = Query::select();
        select
            .from(self.spec.tables.table(events::Entity))
            .columns(["id", "app_name", "user_id", "session_id", "invocation_id", "timestamp"])
            .cond_where(of_session(self.spec, session));
        select.expr_as(json_text(self.spec, "event_data"), "event_data");
        let mut rows = self.connection.stream(&select).await?;
        while let Some(row) = rows.try_next().await? {
            let id: String = row.try_get("", "id")?;
            let Some(hash) = sent.remove(&id) else { continue };
            let stored = V1.event(&row).ok().flatten().map(|event| ContentHash::of(&Record::Event(event)));
            if let Some(stored) = stored {
                self.summary.stored_content.toggle(stored);
            }
            if stored != Some(hash) {
                self.summary.different.push(format!("event {id:?} of {key} has different content"));
            }
        }
        self.summary.different.extend(sent.into_keys().map(|id| format!("event {id:?} of {key} is missing")));
        Ok(())
    }
}
