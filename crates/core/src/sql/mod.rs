//! The portable SQL algorithms, one operation per file, and the seam a backend fills in.
//!
//! Every algorithm is written once, against the entities of [`entity`](crate::entity) and a [`Dialect`]. SQL text is
//! built by sea-query when a service is made, and kept: a call only binds values.
//!
//! Rows are locked in one order everywhere: session, then app state, then user state.

mod append;
mod columns;
mod connect;
mod connections;
mod create;
mod delete;
mod dialect;
mod driver;
mod failure;
mod get;
mod group;
mod list;
mod patience;
mod prepared;
mod queue;
mod retry;
mod rows;
mod schema;
mod service;
mod shared_state;
mod single;
mod transaction;
mod write;

pub use columns::{Column, Objection, Unfit, Weakness, columns, columns_of_tables, unfit_columns};
pub use connect::ConnectOptions;
pub use dialect::{Dialect, PoolLimits, SingleStatements};
pub use driver::{DriverConnection, in_task};
pub use failure::is_broken_connection;
pub use patience::answers;
pub use service::SqlSessionService;
