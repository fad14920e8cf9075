//! The tables of google-adk's schema v1 as sea-orm entities: the only place in Seabed, with the migrations, that names a
//! column.
//!
//! JSON columns (`state`, `event_data`) are `jsonb` on PostgreSQL and text elsewhere, and `DATETIME` columns are text on
//! SQLite. The entities declare the types that all backends read and write them as: text and a time without zone; see
//! [`Dialect`](crate::sql::Dialect) for how each backend gets there.

pub mod adk_internal_metadata;
pub mod app_states;
pub mod events;
pub mod sessions;
pub mod user_states;
