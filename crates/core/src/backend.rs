//! The rules that every backend shares, for a session service on a store of your own.
//!
//! A backend implements [`SessionService`](crate::SessionService), and [`StateService`](crate::StateService),
//! [`DirectoryService`](crate::DirectoryService), [`HistoryService`](crate::HistoryService) and
//! [`RetentionService`](crate::RetentionService) if it can.
//! What a request stores, and whether a stored session accepts it, does not depend on the store and is decided here,
//! also for [`MemorySessionService`](crate::MemorySessionService) and the services on databases.
//!
//! 1. **Before any I/O**, convert the request to the form that is stored: [`NewSession`], [`NewEvent`],
//!    [`NewStateUpdate`], [`NewAnnotations`]. This validates ids, times and JSON, handles NUL characters, drops `temp:`
//!    keys, and splits state by scope. Listings have [`ListSessions::check`](crate::ListSessions::check),
//!    [`ListEvents::check`](crate::ListEvents::check) and [`FindSessions::check`](crate::FindSessions::check).
//! 2. **A write** is one atomic step of the store. Nothing else writes to the session in between, nor to the state of
//!    its app and its user. [`State::merge`](crate::State::merge) merges a delta.
//!    - Create: [`AlreadyExists`](crate::Error::AlreadyExists) if the key is taken. Otherwise insert the session, and
//!      merge the app's and the user's part of its state. Return [`NewSession::to_session`].
//!    - Append: as in the example below, with the app's and the user's part of the delta.
//!    - Delete: [`DeleteSession::check_revision`](crate::DeleteSession::check_revision) if the session exists.
//!    - Titles and labels: [`AnnotateSession::check_revision`](crate::AnnotateSession::check_revision) if the session
//!      exists, and then what [`AnnotateSession::apply_to`](crate::AnnotateSession::apply_to) returns.
//!    - Fork: read the session to fork and its events with a [`ForkPlan`], and write the [`Fork`] that it returns, with
//!      these events, unless there is a session of the new id.
//!    - Redaction: what [`NewRedaction::apply_to`] returns replaces the stored event, and [`NewRedaction::notice`] is
//!      appended.
//!    - Update of state: for a session, an append. For an app or a user, merge [`NewSharedState::delta`], and return
//!      the whole state.
//! 3. **A read** is one snapshot. [`ScopedState::merged`] is the state of a session,
//!    [`GetSession::events_since`](crate::GetSession::events_since) fills in the field of that name, and
//!    [`Page::from_rows`](crate::Page::from_rows) ends a page. Sessions are listed by
//!    [`SessionCursor`](crate::SessionCursor), events by [`EventCursor`](crate::EventCursor); both are ordered.
//!    [`FindSessions::page`](crate::FindSessions::page) makes a page of the sessions that a
//!    [`SessionFilter`](crate::SessionFilter) matches.
//!
//! Test the result with the crate `seabed-conformance`. Its `tests/backend.rs` is a whole backend, on a file.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use seabed_core::backend::NewEvent;
//! use seabed_core::{Appended, Error, EventCursor, Json, Result, Revision, State, Timestamp};
//!
//! struct StoredSession {
//!     state: State,
//!     create_time: Timestamp,
//!     update_time: Timestamp,
//!     events: BTreeMap<EventCursor, Json>,
//! }
//!
//! /// Appends to a session that the caller has locked.
//! fn append(session: Option<&mut StoredSession>, new: NewEvent) -> Result<Appended> {
//!     let Some(session) = session else { return Err(Error::NotFound { key: Box::new(new.key) }) };
//!     let revision = |update_time| Revision::new(session.create_time, update_time);
//!     // A replay succeeds at any revision, so this comes first.
//!     if let Some((stored, event_data)) = session.events.iter().find(|(stored, _)| stored.event_id() == new.id) {
//!         new.check_replay(event_data)?;
//!         return Ok(Appended::Replayed(revision(stored.timestamp())));
//!     }
//!     new.check_revision(revision(session.update_time))?;
//!     let timestamp = new.stored_timestamp(session.create_time, session.update_time)?;
//!     let appended = Appended::Stored(revision(timestamp));
//!     session.events.insert(EventCursor::new(timestamp, new.id), new.event_data);
//!     session.state.merge(new.delta.session);
//!     session.update_time = timestamp;
//!     Ok(appended)
//! }
//! ```

pub use crate::event::adk_check::AdkCheck;
pub use crate::history::fork::{Fork, NewFork};
pub use crate::history::fork_plan::ForkPlan;
pub use crate::history::redact::NewRedaction;
pub use crate::state::ScopedState;
pub use crate::validate::{NewAnnotations, NewEvent, NewSession, NewSharedState, NewStateUpdate, SharedTarget};
