//! Seabed's session service on MySQL 8 and 9, and MariaDB 10.6 and later.
//!
//! ```no_run
//! # async fn example() -> seabed_core::Result<()> {
//! use seabed_mysql::MySqlSessionService;
//!
//! let sessions = MySqlSessionService::connect("mysql://agent:secret@db.example/agents").await?;
//! # Ok(())
//! # }
//! ```
//!
//! TLS is used where the server offers it, and required with `?ssl-mode=REQUIRED` (or `VERIFY_IDENTITY`) in the URL. An
//! account with a password on MySQL 9 (`caching_sha2_password`) needs it.

mod schema;

use sea_orm::sea_query::{DynIden, InsertStatement, OnConflict};
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlQueryResult, MySqlRow};
use sea_orm::sqlx::{self, Pool};
use sea_orm::{DatabaseConnection, DatabaseConnectionType, DbBackend, QueryResult};
use seabed_core::sql::{ConnectOptions, Dialect, SchemaDialect, SqlSessionService};
use seabed_core::{BackendErrorKind, Error, Result};
use seabed_sqlx::{Sqlx, SqlxBackend, bare_host, parse_server_url};

/// A session service on MySQL or MariaDB.
pub type MySqlSessionService = SqlSessionService<MySql>;
/// How to connect to MySQL or MariaDB.
pub type MySqlOptions = ConnectOptions<MySql>;

/// What MySQL and MariaDB do differently.
#[derive(Debug, Clone, Copy)]
pub struct MySql;

/// A single statement commits by itself. READ COMMITTED takes no gap locks, and each statement sees what was committed
/// before it. A wait for a lock ends after 10 seconds, not 50. Strict mode turns truncation into an error. The rest of
/// the server's `sql_mode` is dropped, because parts of it change what statements mean (`ANSI_QUOTES`,
/// `NO_BACKSLASH_ESCAPES`, MariaDB's `EMPTY_STRING_IS_NULL` and `SIMULTANEOUS_ASSIGNMENT`). A server that is read-only
/// stays so: this is not one of these settings. The driver has set the time zone to UTC and the character set to
/// utf8mb4 before.
const SESSION_SETTINGS: &str = "SET SESSION autocommit = 1; \
                                SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; \
                                SET SESSION innodb_lock_wait_timeout = 10; \
                                SET SESSION sql_safe_updates = 0; \
                                SET SESSION sql_mode = \
                                'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'";

/// The parameters of a URL that the driver knows, without those that Seabed must set itself: another time zone would
/// move times. Of the character sets only utf8mb4 is accepted; others would lose text.
const URL_PARAMETERS: [&str; 11] = [
    "charset",
    "socket",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "sslca",
    "sslcert",
    "sslkey",
    "sslmode",
    "statement-cache-capacity",
];

impl Dialect for MySql {
    type Driver = Sqlx<Self>;

    const BACKEND: DbBackend = DbBackend::MySql;
    const SCHEMA: &'static dyn SchemaDialect = &Self;
    /// Enough that the server can write the logs of several commits at once, and fewer than a pool has connections.
    const MAX_CONCURRENT_BATCHES: usize = 8;
    /// The driver always asks for found rows (`CLIENT_FOUND_ROWS`), and by those an ignored row counts as inserted.
    /// Only the unique violation is exact.
    const DUPLICATE_IS_ERROR: bool = true;
    const STATEMENT_LIMIT: Option<&'static str> = Some("SELECT @@max_allowed_packet");

    /// `ON DUPLICATE KEY UPDATE key = key`, because `INSERT IGNORE` would swallow truncation as well. Without the
    /// columns sea-query writes `ON DUPLICATE KEY IGNORE`, which no server understands.
    fn insert_or_ignore(insert: &mut InsertStatement, key: Vec<DynIden>) {
        insert.on_conflict(OnConflict::new().do_nothing_on(key).to_owned());
    }
}

/// The servers' error number; the SQLSTATE of most errors is HY000.
fn number(error: &dyn DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}

impl SqlxBackend for MySql {
    type Database = sqlx::MySql;

    const URL_SCHEMES: &'static [&'static str] = &["mysql", "mariadb"];
    const SESSION_SETTINGS: Option<&'static str> = Some(SESSION_SETTINGS);

    fn owns(pool: &DatabaseConnection) -> bool {
        matches!(pool.inner, DatabaseConnectionType::SqlxMySqlPoolConnection(_))
    }

    fn pool(connection: &DatabaseConnection) -> &Pool<sqlx::MySql> {
        connection.get_mysql_connection_pool()
    }

    fn row(row: &QueryResult) -> Option<&MySqlRow> {
        row.try_as_mysql_row()
    }

    fn rows_affected(done: &MySqlQueryResult) -> u64 {
        done.rows_affected()
    }

    fn options(url: &str) -> Result<MySqlConnectOptions> {
        let options: MySqlConnectOptions = parse_server_url(url, &URL_PARAMETERS)?;
        if options.get_charset() != "utf8mb4" {
            let reason = "the parameter charset is not supported, except for utf8mb4".to_owned();
            return Err(Error::Invalid { field: "url", reason });
        }
        Ok(match bare_host(options.get_host()) {
            Some(host) => options.clone().host(host),
            None => options,
        })
    }

    fn address(options: &MySqlConnectOptions) -> String {
        match options.get_socket() {
            Some(socket) => format!("MySQL at {}", socket.display()),
            None => format!("MySQL at {}:{}", options.get_host(), options.get_port()),
        }
    }

    fn classify(error: &dyn DatabaseError) -> BackendErrorKind {
        match number(error).unwrap_or_default() {
            // ER_LOCK_DEADLOCK, ER_LOCK_WAIT_TIMEOUT, ER_CHECKREAD (MariaDB's snapshot isolation), ER_QUERY_TIMEOUT and
            // ER_STATEMENT_TIMEOUT (a limit of the server's, which a wait for a lock may reach),
            // ER_TRANSACTION_ROLLBACK_DURING_COMMIT and ER_ERROR_DURING_COMMIT (other members of a group or cluster)
            1213 | 1205 | 1020 | 3024 | 1969 | 3101 | 1180 => BackendErrorKind::Contention,
            // ER_CON_COUNT_ERROR, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED, ER_SERVER_SHUTDOWN,
            // ER_QUERY_INTERRUPTED, ER_CONNECTION_KILLED (MariaDB), ER_CLIENT_INTERACTION_TIMEOUT, ER_UNKNOWN_COM_ERROR
            // (a Galera node that is not ready), ER_OPTION_PREVENTS_STATEMENT and ER_READ_ONLY_MODE (a server that is
            // no longer the primary)
            1040 | 1203 | 1226 | 1053 | 1317 | 1927 | 4031 | 1047 | 1290 | 1836 => BackendErrorKind::Unavailable,
            // ER_NO_SUCH_TABLE, ER_BAD_FIELD_ERROR, ER_BAD_DB_ERROR, ER_BEFORE_DML_VALIDATION_ERROR
            1146 | 1054 | 1049 | 3098 => BackendErrorKind::Schema,
            // ER_NET_PACKET_TOO_LARGE (also for a row that is read), ER_TOO_BIG_ROWSIZE (more than a tenth of the redo
            // log)
            1153 | 1118 => BackendErrorKind::TooLarge,
            _ => BackendErrorKind::Unexpected,
        }
    }

    /// `ER_BEFORE_DML_VALIDATION_ERROR`: a group in multi-primary mode does not check writes against the foreign key of
    /// google-adk's tables, which deletes a session's events with it.
    fn advice(error: &dyn DatabaseError) -> Option<&'static str> {
        match number(error)? {
            3098 => Some(
                "group replication in multi-primary mode refuses tables with ON DELETE CASCADE; use single-primary mode \
                 (group_replication_single_primary_mode = ON)",
            ),
            // ER_CON_COUNT_ERROR, ER_TOO_MANY_USER_CONNECTIONS
            1040 | 1203 => Some(
                "the server has too many clients already; give the pools of all processes together fewer connections \
                 than its max_connections",
            ),
            _ => None,
        }
    }

    /// `ER_SERVER_SHUTDOWN` and `ER_CONNECTION_KILLED` (MariaDB) are no such errors: the statement may have run.
    fn was_rejected(error: &dyn DatabaseError) -> bool {
        number(error).is_some_and(|number| !matches!(number, 1053 | 1927))
    }
}
