//! The tables of google-adk's schema v1, and Seabed's own beside them (`seabed_sessions`, `seabed_labels`), as sea-orm
//! entities. The statements of this crate and of the backends take the names of tables and columns from here.
//!
//! JSON columns (`state`, `event_data`, `labels`, `initial_state`) are `jsonb` on PostgreSQL and text elsewhere, and
//! `DATETIME` columns are text on SQLite. The entities declare the types that all backends read and write: text, and a
//! time without zone. See [`SchemaDialect`](crate::sql::SchemaDialect) for how each backend converts them.

pub mod adk_internal_metadata;
pub mod app_states;
pub mod events;
pub mod seabed_labels;
pub mod seabed_sessions;
pub mod sessions;
pub mod user_states;
