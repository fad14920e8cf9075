//! The session service on SQL databases, and the seams that a backend fills in: [`Dialect`], [`Driver`] and
//! [`SchemaDialect`].
//!
//! Dependencies point one way, from the top of this list to the bottom:
//!
//! - `service`: the service itself, and the traits it implements;
//! - `op/`: one operation a file, over
//! - `write/`: the write path, which knows no operation, and `decode`, which reads rows;
//! - `database`, `executor` and `pool`: where statements run;
//! - `options` and `schema/`: how to connect, and what is checked then;
//! - `timeout`, `error` and `statement`, and the seams `dialect` and `driver`.
//!
//! Only the last two lines refer to each other: `dialect` names [`Tables`] and [`SchemaDialect`], and the files of
//! these are generic over [`Dialect`].

mod database;
mod decode;
mod dialect;
mod driver;
mod error;
mod executor;
mod op;
mod options;
mod pool;
mod schema;
mod service;
mod statement;
mod tables;
mod timeout;
mod write;

pub use dialect::{BulkStatements, Dialect};
pub use driver::{Driver, DriverConnection, PoolLimits, in_task};
pub use error::is_broken_connection;
pub use op::statements;
pub use options::{ConnectOptions, ServiceOptions};
pub use schema::columns::{UnsuitableColumn, columns, columns_of_tables, unsuitable_columns};
pub use schema::dialect::{Column, ColumnProblem, ColumnRole, SchemaDialect, SchemaRisk, is_at_least, name_type};
pub use service::SqlSessionService;
pub use statement::{event_columns, event_key_columns};
pub use tables::Tables;
pub use timeout::answers;
