//! The core of Seabed: the contract of a session service, and its implementation in SQL.
//!
//! This crate knows no database driver. It holds
//!
//! - the values: [`SessionKey`] and its parts, [`Event`], [`State`], [`Session`], [`Revision`], [`Page`];
//! - the contract: [`SessionService`], [`StateService`], [`DirectoryService`], [`HistoryService`] and
//!   [`TransactionalService`], and the conveniences of [`SessionServiceExt`], [`DirectoryServiceExt`] and
//!   [`HistoryServiceExt`];
//! - what events mean after rewinds and compactions, and the state as of any event, [`history`];
//! - the reference model, [`MemorySessionService`], and what a backend of your own needs besides, [`backend`];
//! - the sea-orm entities of the tables, [`entity`];
//! - the portable SQL algorithms, [`sql`], and the seams that a backend fills in, [`Dialect`](sql::Dialect),
//!   [`SchemaDialect`](sql::SchemaDialect) and [`Driver`](sql::Driver).
//!
//! Applications depend on the facade crate `seabed` instead, which re-exports what they need of this, with a backend
//! per cargo feature.

pub mod backend;
mod clock;
mod directory;
pub mod entity;
mod error;
mod event;
pub mod history;
mod history_service;
mod json;
mod key;
mod memory;
mod page;
mod replay;
mod request;
mod retention;
mod revision;
mod service;
mod service_ext;
mod session;
pub mod sql;
mod state;
mod state_service;
mod sync;
mod transactional;
mod validate;

pub use clock::{Clock, IdSource, SystemClock, Timestamp, UuidV7};
pub use directory::{
    AnnotateSession, Annotations, DirectoryService, DirectoryServiceExt, FindCursor, FindSessions, FoundSession,
    SessionFilter, SessionSummary,
};
pub use error::{BackendError, BackendErrorKind, Error, Result};
pub use event::{Event, EventActions};
pub use history_service::{HistoryService, HistoryServiceExt};
pub use json::Json;
pub use key::{AppName, SessionId, SessionKey, UserId, UserKey};
pub use memory::MemorySessionService;
pub use page::{EventCursor, Order, Page, SessionCursor};
pub use request::{
    AppendEvent, Appended, CreateSession, DeleteSession, GetSession, ListEvents, ListSessions, NulPolicy, SessionScope,
};
pub use retention::{
    ExpireSessions, Expired, ExpiryServiceExt, Forget, Forgotten, Receipt, RetentionService, RetentionServiceExt,
};
pub use revision::{ExpectedRevision, Revision};
pub use service::SessionService;
pub use service_ext::{GetOrCreated, SessionServiceExt};
pub use session::Session;
pub use state::{Scope, State};
pub use state_service::{StateService, StateTarget, StateUpdated, UpdateState};
pub use transactional::TransactionalService;
