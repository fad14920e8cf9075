//! Seabed's session service on PostgreSQL 12 and later.
//!
//! ```no_run
//! # async fn example() -> seabed_core::Result<()> {
//! use seabed_postgres::PostgresSessionService;
//!
//! let sessions = PostgresSessionService::connect("postgres://agent:secret@db.example/agents").await?;
//! # Ok(())
//! # }
//! ```
//!
//! TLS is used where the server offers it, and required with `?sslmode=require` (or `verify-full`) in the URL.

mod statements;

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::{DynIden, Expr, ExprTrait, InsertStatement, OnConflict};
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgConnection};
use sea_orm::sqlx::{Connection, Error as SqlxError, Executor, Postgres as Driver};
use sea_orm::{ColIdx, DatabaseConnection, DbBackend, DbErr, QueryResult, RuntimeErr};
use seabed_core::sql::{
    ConnectOptions, Dialect, DriverConnection, PoolLimits, SingleStatements, SqlSessionService, is_broken_connection,
};
use seabed_core::{BackendErrorKind, Error, Result, driver_text, open_driver_pool, take_driver_connection};

/// A session service on PostgreSQL.
pub type PostgresSessionService = SqlSessionService<Postgres>;
/// How to connect to PostgreSQL.
pub type PostgresOptions = ConnectOptions<Postgres>;

/// What PostgreSQL does differently.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

/// Each statement sees what was committed before it, also where the database's default is another level. A lock that
/// somebody holds is waited for as long as on MySQL, and not for ever. Not startup parameters, for PgBouncer refuses those it
/// does not know.
const SESSION_SETTINGS: &str = "SET default_transaction_isolation TO 'read committed'; SET lock_timeout TO '10s'";

#[async_trait]
impl Dialect for Postgres {
    type Driver = PgConnectOptions;

    const URL_SCHEMES: &'static [&'static str] = &["postgres", "postgresql"];
    const BACKEND: DbBackend = DbBackend::Postgres;
    /// A statement of many writes costs little more than one of one, so that few are enough to keep a server busy.
    const GROUPS: usize = 4;

    /// `ON CONFLICT (key) DO NOTHING` locks nothing when the row exists.
    fn insert_or_ignore(insert: &mut InsertStatement, key: Vec<DynIden>) {
        insert.on_conflict(OnConflict::columns(key).do_nothing().to_owned());
    }

    fn single_statements() -> Option<SingleStatements> {
        Some(SingleStatements { append: statements::append(), create: statements::create() })
    }

    fn read_json(column: Expr) -> Expr {
        column.cast_as("text")
    }

    fn write_json(text: Expr) -> Expr {
        text.cast_as("jsonb")
    }

    /// Unchecked: types of columns are looked at when a service is made, and the driver compares each with six, one of them by name.
    fn text(row: &QueryResult, index: impl ColIdx) -> Result<Option<&str>, DbErr> {
        driver_text!(row.try_as_pg_row(), try_get_unchecked, index.as_sqlx_postgres_index())
    }

    /// By SQLSTATE (PostgreSQL's appendix A).
    fn classify(error: &RuntimeErr) -> BackendErrorKind {
        let RuntimeErr::SqlxError(error) = error else { return BackendErrorKind::Unexpected };
        let SqlxError::Database(error) = &**error else {
            return match **error {
                SqlxError::Io(ref error) if is_broken_connection(error) => BackendErrorKind::Unavailable,
                // An answer that was cut off.
                SqlxError::Protocol(_) => BackendErrorKind::Unavailable,
                _ => BackendErrorKind::Unexpected,
            };
        };
        match error.code().as_deref().unwrap_or_default() {
            // serialization_failure, deadlock_detected, lock_not_available
            "40001" | "40P01" | "55P03" => BackendErrorKind::Contention,
            // too_many_connections, admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout,
            // idle_in_transaction_session_timeout, read_only_sql_transaction (a server that is no longer the primary)
            "53300" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25006" => BackendErrorKind::Unavailable,
            // connection exceptions
            code if code.starts_with("08") => BackendErrorKind::Unavailable,
            // undefined_table, undefined_column, invalid_schema_name
            "42P01" | "42703" | "3F000" => BackendErrorKind::Schema,
            _ => BackendErrorKind::Unexpected,
        }
    }

    fn is_refusal(error: &RuntimeErr) -> bool {
        let RuntimeErr::SqlxError(error) = error else { return false };
        let code = error.as_database_error().and_then(DatabaseError::code);
        // admin_shutdown, crash_shutdown, and the connection exceptions
        code.is_some_and(|code| !matches!(&*code, "57P01" | "57P02") && !code.starts_with("08"))
    }

    fn driver_options(url: &str) -> Result<PgConnectOptions> {
        let options: PgConnectOptions =
            url.parse().map_err(|error: SqlxError| Error::Invalid { field: "url", reason: error.to_string() })?;
        Ok(match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("seabed"),
        })
    }

    fn address(driver: &PgConnectOptions) -> String {
        match driver.get_socket() {
            Some(socket) => format!("PostgreSQL at {}", socket.display()),
            None => format!("PostgreSQL at {}:{}", driver.get_host(), driver.get_port()),
        }
    }

    async fn try_connection(driver: &PgConnectOptions) -> Result<(), DbErr> {
        let connected = async {
            let mut connection = PgConnection::connect_with(driver).await?;
            connection.execute(SESSION_SETTINGS).await?;
            connection.close().await
        };
        connected.await.map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))))
    }

    fn pool_limits(pool: &DatabaseConnection) -> PoolLimits {
        let options = pool.get_postgres_connection_pool().options();
        PoolLimits { max_connections: options.get_max_connections(), acquire_timeout: options.get_acquire_timeout() }
    }

    async fn take_connection(pool: &DatabaseConnection) -> Result<Box<dyn DriverConnection>, DbErr> {
        take_driver_connection!(Driver, pool.get_postgres_connection_pool())
    }

    fn open_pool(options: PostgresOptions) -> DatabaseConnection {
        open_driver_pool!(Driver, options, SESSION_SETTINGS)
    }
}
