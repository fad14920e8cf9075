//! The session service on SQL databases, and the seams that a backend fills in: [`Dialect`], [`Driver`] and
//! [`SchemaDialect`].
//!
//! A file imports only from the lines below its own:
//!
//! - `service`: the service itself, and the traits it implements;
//! - `op/`: the operations;
//! - `identity`, for a caller's transaction, and `schema/check`, which runs at connect;
//! - `database`: transactions and single statements;
//! - `deadline`, for a write that is one statement;
//! - `pool`, and `write/`, the write path, which knows no operation;
//! - `connections` (where those of a pool come from), and `options`;
//! - `servers`: connecting to one of several;
//! - `executor` (where statements run), `timeout`, `statement`;
//! - `error`, `decode` (from rows to values), and `schema/columns`, `layout` and `risks`;
//! - `dialect`;
//! - `driver`, `tables` and `schema/dialect`;
//! - `target`: which server a URL asks for.

mod connections;
mod database;
mod deadline;
mod decode;
mod dialect;
mod driver;
mod error;
mod executor;
mod identity;
mod op;
mod options;
mod pool;
mod schema;
mod servers;
mod service;
mod statement;
mod tables;
mod target;
mod timeout;
mod write;

pub use dialect::{BulkStatements, Dialect};
pub use driver::{DatabaseFiles, Driver, DriverConnection, PoolLimits, PoolerProbe, in_range, in_task};
pub use error::{error_kind, is_broken_connection};
pub use op::statements;
pub use options::{ConnectOptions, ServiceOptions};
pub use schema::columns::{UnsuitableColumn, columns, columns_of_tables, unsuitable_columns};
pub use schema::dialect::{Column, ColumnProblem, ColumnRole, SchemaDialect, SchemaRisk, is_at_least, name_type};
pub use schema::layout::OtherLayout;
pub use schema::risks::{FoundRisk, risks};
pub use service::SqlSessionService;
pub use statement::{event_columns, event_key_columns, is_not_being_deleted};
pub use tables::{Tables, own_table_names};
pub use target::{Address, PRIMARY, READ_ONLY, STANDBY, TargetServer, UrlOptions};
pub use timeout::answers;
