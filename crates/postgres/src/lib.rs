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

mod bulk;
mod schema;

use sea_orm::sea_query::{DynIden, InsertStatement, OnConflict};
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgQueryResult, PgRow};
use sea_orm::sqlx::{self, Pool, Row};
use sea_orm::{ColIdx, DatabaseConnection, DatabaseConnectionType, DbBackend, DbErr, EntityName as _, QueryResult};
use seabed_core::entity::sessions;
use seabed_core::sql::{
    Address, BulkStatements, ConnectOptions, Dialect, PoolerProbe, SchemaDialect, SqlSessionService, Tables,
};
use seabed_core::{BackendErrorKind, Result, Timestamp};
use seabed_sqlx::{CREATE_DATABASE, Sqlx, SqlxBackend, bare_host, parse_server_url};

/// A session service on PostgreSQL.
pub type PostgresSessionService = SqlSessionService<Postgres>;
/// How to connect to PostgreSQL.
pub type PostgresOptions = ConnectOptions<Postgres>;

/// What PostgreSQL does differently.
#[derive(Debug, Clone, Copy)]
pub struct Postgres;

/// `invalid_catalog_name`.
const NO_SUCH_DATABASE: &str = "3D000";

/// Each statement sees what was committed before it, also where the database's default is another level. A wait for a
/// lock ends after 10 seconds, as on MySQL. A backslash in a literal is a backslash. A commit is on disk before it is
/// acknowledged, also where the account, the database or the server has asynchronous commit; levels that wait for
/// standbys stay as they are. These are no startup parameters, because PgBouncer rejects those it does not know.
/// `default_transaction_read_only` is left alone: administrators set it to keep writers out, during a switchover or
/// before a disk is full. A service refuses it by name instead.
const SESSION_SETTINGS: &str = "SET default_transaction_isolation TO 'read committed'; SET lock_timeout TO '10s'; \
                                SET standard_conforming_strings TO on; \
                                SELECT pg_catalog.set_config(CAST('synchronous_commit' AS text), CAST('on' AS text), false) \
                                WHERE pg_catalog.current_setting(CAST('synchronous_commit' AS text)) = CAST('off' AS text)";

/// The driver's statements are `sqlx_s_1` and so on, on each connection. A pooler that knows them renames them.
const POOLER_PROBE: PoolerProbe = PoolerProbe {
    query: "SELECT CAST(pg_catalog.pg_backend_pid() AS text) WHERE EXISTS (SELECT 1 \
            FROM pg_catalog.pg_prepared_statements WHERE pg_catalog.starts_with(name, CAST('sqlx' AS text)))",
    advice: "a transaction pooler gives clients each other's prepared statements; set max_prepared_statements of \
             PgBouncer (1.21 or later), or pool sessions",
};

/// The parameters of a URL that the driver knows.
const URL_PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// 2000-01-01T00:00:00Z, where PostgreSQL's times begin, in microseconds since 1970.
const YEAR_2000: i64 = 946_684_800_000_000;

impl Dialect for Postgres {
    type Driver = Sqlx<Self>;

    const BACKEND: DbBackend = DbBackend::Postgres;
    const SCHEMA: &'static dyn SchemaDialect = &Self;
    /// A statement of many writes costs little more than a statement of one, so a few batches keep a server busy.
    const MAX_CONCURRENT_BATCHES: usize = 4;
    const ENFORCES_FOREIGN_KEYS: bool = true;
    /// Only a commit that has written to the log waits for a synchronous standby. So does this one: a message in the
    /// log, which nobody has to read.
    const AWAIT_STANDBYS: Option<&'static str> =
        Some("SELECT pg_catalog.pg_logical_emit_message(true, CAST('seabed' AS text), CAST('' AS text))");

    /// A standby is read-only too.
    const ROLE_QUERY: Option<&'static str> = Some(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN CAST('standby' AS text) \
         WHEN CAST(pg_catalog.current_setting(CAST('transaction_read_only' AS text)) AS bool) \
         THEN CAST('read-only' AS text) ELSE CAST('primary' AS text) END",
    );

    /// `ON CONFLICT (key) DO NOTHING` locks nothing when the row exists.
    fn insert_or_ignore(insert: &mut InsertStatement, key: Vec<DynIden>) {
        insert.on_conflict(OnConflict::columns(key).do_nothing().to_owned());
    }

    /// By the function, which takes any name.
    fn session_setting(name: &str, value: &str) -> Option<String> {
        let text = |text: &str| format!("CAST('{}' AS text)", text.replace('\'', "''"));
        Some(format!("SELECT pg_catalog.set_config({}, {}, false)", text(name), text(value)))
    }

    fn bulk_statements(tables: &Tables, max_state_bytes: usize) -> Option<BulkStatements> {
        let statements = [bulk::append, bulk::append_or_refuse, bulk::append_free, bulk::create, bulk::create_free];
        let [append, append_or_refuse, append_free, create, create_free] =
            statements.map(|statement| statement(tables, max_state_bytes));
        Some(BulkStatements { append, append_or_refuse, append_free, create, create_free })
    }

    fn database_query(tables: &Tables) -> Option<String> {
        let server = "pg_catalog.date_part(CAST('epoch' AS text), pg_catalog.pg_postmaster_start_time())";
        Some(format!("SELECT {}", on_server(tables, server)))
    }

    /// A server shares its identifier with its physical standbys.
    fn cluster_query(tables: &Tables) -> Option<String> {
        Some(format!("SELECT {} FROM pg_catalog.pg_control_system()", on_server(tables, "system_identifier")))
    }
}

/// A server's name, the database, and the table that the connection finds under the name.
fn on_server(tables: &Tables, server: &str) -> String {
    let schema = tables.schema().map_or_else(String::new, |schema| format!("\"{schema}\"."));
    let table = format!("'{schema}\"{}\"'", tables.name(sessions::Entity.table_name()));
    let table = format!("CAST(pg_catalog.to_regclass(CAST({table} AS text)) AS pg_catalog.oid)");
    format!("pg_catalog.concat_ws(CAST(' ' AS text), {server}, pg_catalog.current_database(), {table})")
}

impl SqlxBackend for Postgres {
    type Database = sqlx::Postgres;

    const URL_SCHEMES: &'static [&'static str] = &["postgres", "postgresql"];
    const SESSION_SETTINGS: Option<&'static str> = Some(SESSION_SETTINGS);
    const POOLER_PROBE: Option<PoolerProbe> = Some(POOLER_PROBE);

    fn owns(pool: &DatabaseConnection) -> bool {
        matches!(pool.inner, DatabaseConnectionType::SqlxPostgresPoolConnection(_))
    }

    fn pool(connection: &DatabaseConnection) -> &Pool<sqlx::Postgres> {
        connection.get_postgres_connection_pool()
    }

    fn row(row: &QueryResult) -> Option<&PgRow> {
        row.try_as_pg_row()
    }

    fn rows_affected(done: &PgQueryResult) -> u64 {
        done.rows_affected()
    }

    fn options(url: &str) -> Result<PgConnectOptions> {
        let options: PgConnectOptions = parse_server_url(url, &URL_PARAMETERS)?;
        let options = match bare_host(options.get_host()) {
            Some(host) => options.clone().host(host),
            None => options,
        };
        Ok(match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("seabed"),
        })
    }

    fn place(options: &PgConnectOptions) -> Option<Address> {
        let is_socket = options.get_socket().is_some() || options.get_host().starts_with('/');
        (!is_socket).then(|| Address { host: options.get_host().to_owned(), port: options.get_port() })
    }

    fn at(options: PgConnectOptions, address: &Address) -> PgConnectOptions {
        options.host(&address.host).port(address.port)
    }

    fn address(options: &PgConnectOptions) -> String {
        match options.get_socket() {
            Some(socket) => format!("PostgreSQL at {}", socket.display()),
            None => format!("PostgreSQL at {}:{}", options.get_host(), options.get_port()),
        }
    }

    fn connect_problem(_: &PgConnectOptions, error: Option<&dyn DatabaseError>) -> Option<(BackendErrorKind, String)> {
        (error?.code()? == NO_SUCH_DATABASE).then(|| (BackendErrorKind::Schema, CREATE_DATABASE.to_owned()))
    }

    /// `too_many_connections`, of the server, the database or the account.
    fn has_too_many_clients(error: &dyn DatabaseError) -> bool {
        error.code().as_deref() == Some("53300")
    }

    /// By SQLSTATE (PostgreSQL's appendix A).
    fn classify(error: &dyn DatabaseError) -> BackendErrorKind {
        match error.code().as_deref().unwrap_or_default() {
            // serialization_failure, deadlock_detected, lock_not_available, query_canceled (a statement_timeout of the
            // server's or the role's, which a wait for a lock may reach)
            "40001" | "40P01" | "55P03" | "57014" => BackendErrorKind::Contention,
            // too_many_connections, admin_shutdown, crash_shutdown, cannot_connect_now, idle_session_timeout,
            // idle_in_transaction_session_timeout, read_only_sql_transaction (a server that is no longer the primary)
            "53300" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25006" => BackendErrorKind::Unavailable,
            // connection exceptions
            code if code.starts_with("08") => BackendErrorKind::Unavailable,
            // undefined_table, undefined_column, invalid_schema_name
            "42P01" | "42703" | "3F000" => BackendErrorKind::Schema,
            // program_limit_exceeded, such as a JSON string of 256 MB
            "54000" => BackendErrorKind::TooLarge,
            _ => BackendErrorKind::Unexpected,
        }
    }

    /// `invalid_sql_statement_name`, `duplicate_prepared_statement`: others use the same connection of the server.
    /// `too_many_connections`.
    fn advice(error: &dyn DatabaseError) -> Option<&'static str> {
        match error.code().as_deref() {
            Some("26000" | "42P05") => Some(POOLER_PROBE.advice),
            Some("53300") => Some(
                "the server has too many clients already; give the pools of all processes together fewer connections \
                 than its max_connections",
            ),
            _ => None,
        }
    }

    /// `admin_shutdown`, `crash_shutdown` and the connection exceptions are no such errors: the statement may have run.
    fn was_rejected(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|code| !matches!(&*code, "57P01" | "57P02") && !code.starts_with("08"))
    }

    /// The classes of data exceptions and of constraint violations, `insufficient_privilege`, and what a trigger raises.
    fn refuses_content(error: &dyn DatabaseError) -> bool {
        error
            .code()
            .is_some_and(|code| matches!(&*code, "42501" | "P0001") || code.starts_with("22") || code.starts_with("23"))
    }

    /// The driver's own decoder panics for `infinity` and for years that chrono does not know. The wire has
    /// microseconds since the year 2000.
    fn moment(row: &QueryResult, index: impl ColIdx) -> Result<Timestamp, DbErr> {
        let row = Self::row(row).ok_or_else(|| DbErr::Type("the row comes from another driver".to_owned()))?;
        let micros: Result<i64, sqlx::Error> = row.try_get_unchecked(index.as_sqlx_postgres_index());
        let micros = micros.map_err(|error| DbErr::Type(error.to_string()))?;
        let moment = Timestamp::try_from_micros(micros.saturating_add(YEAR_2000));
        moment.map_err(|error| DbErr::Type(error.to_string()))
    }
}
