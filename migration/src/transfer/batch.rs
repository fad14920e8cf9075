//! What one transaction of a transfer writes, and how it is divided to find a row that the database rejects.

use chrono::TimeDelta;
use sea_orm::prelude::DateTime;

use seabed_core::entity::{app_states, events, seabed_sessions, sessions, user_states};

use super::record::{Record, SessionId};
use super::states::StateRow;

/// A transaction holds no more rows than this, and no more than this much text, unless one row has more: enough to make
/// the cost of a commit negligible, and far below what a server accepts in one statement.
const MAX_ROWS: usize = 500;
const MAX_BYTES: usize = 1 << 20;

/// Some events of a session.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) session: sessions::Model,
    /// Written with the last events.
    pub(super) annotations: Option<seabed_sessions::Model>,
    pub(super) events: Vec<events::Model>,
    /// The time of the newest event so far, of earlier parts too.
    pub(super) newest: Option<DateTime>,
    /// Whether these are the last.
    pub(super) is_last: bool,
    /// Whether an earlier part inserts the session's row.
    pub(super) has_row: bool,
}

/// What the next transaction writes.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) app_states: Vec<app_states::Model>,
    pub(super) user_states: Vec<user_states::Model>,
    pub(super) parts: Vec<Part>,
    /// Sessions that an earlier batch writes without their annotations.
    pub(super) annotated: Vec<Part>,
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

impl Batch {
    /// Whether to write the batch before it takes `record`: it would become too large (`limit` is that of a statement,
    /// in bytes), or it has a row with this key already, with which the next is merged.
    pub(super) fn must_precede(&self, record: &Record, limit: Option<u64>) -> bool {
        let most = limit.and_then(|limit| usize::try_from(limit / 2).ok()).unwrap_or(MAX_BYTES).min(MAX_BYTES);
        let is_large = self.bytes > 0 && self.bytes + record.size() > most;
        self.rows >= MAX_ROWS || is_large || self.has_key_of(record)
    }

    fn has_key_of(&self, record: &Record) -> bool {
        match record {
            Record::AppState(row) => self.app_states.iter().any(|other| other.app_name == row.app_name),
            Record::UserState(row) => {
                let is_same =
                    |other: &user_states::Model| (&other.app_name, &other.user_id) == (&row.app_name, &row.user_id);
                self.user_states.iter().any(is_same)
            }
            Record::Session(row) => {
                let id = SessionId::of(row);
                self.parts.iter().any(|part| SessionId::of(&part.session) == id)
            }
            // Those of one session are told apart by their ids.
            Record::Event(_) | Record::Annotations(_) | Record::Refused(_) => false,
        }
    }

    /// Returns the session that goes on in the next batch, without its events.
    pub(super) fn unfinished(&self) -> Option<Part> {
        let open = self.parts.last().filter(|part| !part.is_last)?;
        let (session, annotations) = (open.session.clone(), open.annotations.clone());
        Some(Part { session, annotations, events: Vec::new(), has_row: true, ..*open })
    }

    /// Divides the batch into two, of which the first must be written first.
    ///
    /// # Errors
    /// The row of a batch that has only one; `None` for a batch without rows.
    pub(super) fn divide(mut self) -> Result<(Self, Self), Option<Box<Record>>> {
        let rows = self.app_states.len() + self.user_states.len() + self.parts.len();
        if rows > 1 {
            let mut left = rows / 2;
            let app_states = first(&mut self.app_states, &mut left);
            let user_states = first(&mut self.user_states, &mut left);
            let parts = first(&mut self.parts, &mut left);
            return Ok((Self { app_states, user_states, parts, ..Self::default() }, self));
        }
        let of = |part| Self { parts: vec![part], ..Self::default() };
        if let Some(part) = self.parts.pop() {
            // A title that the database rejects costs its session nothing else.
            if part.is_last && part.events.is_empty() && part.annotations.is_some() {
                let alone = Part { annotations: None, ..part.clone() };
                return Ok((of(alone), Self { annotated: vec![part], ..Self::default() }));
            }
            let (first, second) = part.divide()?;
            return Ok((of(first), of(second)));
        }
        let row = self.app_states.pop().map(Record::AppState);
        let row = row.or_else(|| self.user_states.pop().map(Record::UserState));
        let annotations = || self.annotated.pop().and_then(|part| part.annotations).map(Record::Annotations);
        Err(row.or_else(annotations).map(Box::new))
    }

    /// The annotations to write.
    pub(super) fn all_annotations(&self) -> impl Iterator<Item = &seabed_sessions::Model> {
        let complete = self.parts.iter().filter(|part| part.is_last);
        complete.chain(&self.annotated).filter_map(|part| part.annotations.as_ref())
    }

    /// Removes the parts of a session, and returns their events.
    pub(super) fn remove(&mut self, session: &SessionId) -> Vec<events::Model> {
        self.annotated.retain(|part| SessionId::of(&part.session) != *session);
        let removed = self.parts.extract_if(.., |part| SessionId::of(&part.session) == *session);
        removed.flat_map(|part| part.events).collect()
    }
}

/// Takes up to `left` rows from the beginning, and subtracts them from `left`.
fn first<T>(rows: &mut Vec<T>, left: &mut usize) -> Vec<T> {
    let count = rows.len().min(*left);
    *left -= count;
    rows.drain(..count).collect()
}

impl Part {
    pub(super) fn new(session: sessions::Model) -> Self {
        Self { session, annotations: None, events: Vec::new(), newest: None, is_last: false, has_row: false }
    }

    pub(super) fn push(&mut self, event: events::Model) {
        self.newest = self.newest.max(Some(event.timestamp));
        self.events.push(event);
    }

    /// Returns the session's row as it is once this part is stored: the state arrives with the last event.
    pub(super) fn row(&self) -> StateRow {
        let row = StateRow::from(&self.session);
        if self.is_last {
            return row;
        }
        // Earlier than that of the last part, in any case: of two states of one time, a target keeps its own.
        let last = self.session.update_time;
        let before_the_last = last.checked_sub_signed(TimeDelta::microseconds(1)).unwrap_or(last);
        let update_time = self.newest.unwrap_or(self.session.create_time).min(before_the_last);
        StateRow { state: "{}".to_owned(), update_time, ..row }
    }

    /// Divides the session's row from the events, so that a row which the database rejects is blamed on no event. Then
    /// halves the events; the state comes after the last of them.
    fn divide(mut self) -> Result<(Self, Self), Option<Box<Record>>> {
        match self.events.len() {
            0 => Err(Some(Box::new(Record::Session(self.session)))),
            _ if !self.has_row => {
                let session = self.session.clone();
                let row = Self { session, annotations: None, events: Vec::new(), is_last: false, ..self };
                Ok((row, Self { has_row: true, ..self }))
            }
            1 if !self.is_last => Err(self.events.pop().map(|event| Box::new(Record::Event(event)))),
            count => {
                let rest = self.events.split_off(count.div_ceil(2));
                let session = self.session.clone();
                let first = Self { session, annotations: None, events: self.events, is_last: false, ..self };
                Ok((first, Self { events: rest, ..self }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(events: &[&str], is_last: bool) -> Batch {
        let session = sessions::Model {
            app_name: "app".to_owned(),
            user_id: "alice".to_owned(),
            id: "s".to_owned(),
            state: r#"{"k":1}"#.to_owned(),
            create_time: DateTime::default(),
            update_time: DateTime::default(),
        };
        let event = |id: &&str| events::Model {
            id: (*id).to_owned(),
            app_name: "app".to_owned(),
            user_id: "alice".to_owned(),
            session_id: "s".to_owned(),
            invocation_id: String::new(),
            timestamp: DateTime::default(),
            event_data: None,
        };
        let app_state =
            app_states::Model { app_name: "app".to_owned(), state: "{}".to_owned(), update_time: DateTime::default() };
        let annotations = Some(seabed_sessions::Model {
            app_name: "app".to_owned(),
            user_id: "alice".to_owned(),
            session_id: "s".to_owned(),
            title: None,
            labels: None,
            initial_state: None,
            parent_session_id: None,
            parent_event_id: None,
            held_since: None,
            update_time: DateTime::default(),
        });
        let events = events.iter().map(event).collect();
        let parts = vec![Part { annotations, events, is_last, ..Part::new(session) }];
        Batch { app_states: vec![app_state], parts, ..Batch::default() }
    }

    /// Divides to the end, and returns what the transactions would write.
    fn rows(batch: Batch) -> Vec<String> {
        let row = match batch.divide() {
            Ok((first, second)) => return [rows(first), rows(second)].concat(),
            Err(row) => row,
        };
        match row.as_deref() {
            Some(Record::Event(event)) => vec![event.id.clone()],
            Some(Record::Session(_)) => vec!["session".to_owned()],
            Some(Record::AppState(_)) => vec!["app".to_owned()],
            Some(Record::Annotations(_)) => vec!["annotations".to_owned()],
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_batch_is_divided_into_its_rows_in_their_order() {
        assert_eq!(rows(batch(&["1", "2", "3"], true)), ["app", "session", "1", "2", "3", "session", "annotations"]);
        assert_eq!(rows(batch(&["1", "2", "3"], false)), ["app", "session", "1", "2", "3"]);
        assert_eq!(rows(batch(&[], false)), ["app", "session"]);
        assert!(rows(Batch::default()).is_empty());
    }

    /// Of two states of one time, a target keeps its own, and that of a session which it holds from an earlier copy has
    /// to give way.
    #[test]
    fn only_the_last_part_of_a_divided_session_has_its_time() {
        let mut whole = batch(&["1", "2"], true).parts.remove(0);
        whole.newest = Some(whole.session.update_time);
        let update_time = whole.session.update_time;
        let (first, last) = whole.divide().expect("two events");
        assert!(first.row().update_time < update_time && first.row().state == "{}");
        assert_eq!(last.row().update_time, update_time);
    }
}
