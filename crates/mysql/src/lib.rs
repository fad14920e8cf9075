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

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::{DynIden, InsertStatement, OnConflict};
use sea_orm::sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError};
use sea_orm::sqlx::{Connection, Error as SqlxError, Executor, MySql as Driver};
use sea_orm::{ColIdx, DatabaseConnection, DbBackend, DbErr, QueryResult, RuntimeErr};
use seabed_core::sql::{
    ConnectOptions, Dialect, DriverConnection, PoolLimits, SqlSessionService, is_broken_connection,
};
use seabed_core::{BackendErrorKind, Error, Result, driver_text, open_driver_pool, take_driver_connection};

/// A session service on MySQL or MariaDB.
pub type MySqlSessionService = SqlSessionService<MySql>;
/// How to connect to MySQL or MariaDB.
pub type MySqlOptions = ConnectOptions<MySql>;

/// What MySQL and MariaDB do differently.
#[derive(Debug, Clone, Copy)]
pub struct MySql;

/// A single statement commits by itself. Strict mode turns truncation into an error. READ COMMITTED takes no gap locks, and
/// each statement sees what was committed before it. A lock that somebody holds is waited for for 10 s, not 50. The driver has
/// set the time zone to UTC and the character set to utf8mb4 before.
const SESSION_SETTINGS: &str = "SET SESSION autocommit = 1; \
                                SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                                SET SESSION innodb_lock_wait_timeout = 10; \
                                SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')";

#[async_trait]
impl Dialect for MySql {
    type Driver = MySqlConnectOptions;

    const URL_SCHEMES: &'static [&'static str] = &["mysql", "mariadb"];
    const BACKEND: DbBackend = DbBackend::MySql;
    /// Enough that the server can write the logs of several commits at once, and fewer than a pool has connections.
    const GROUPS: usize = 8;

    /// `ON DUPLICATE KEY UPDATE key = key`, for `INSERT IGNORE` would swallow truncation as well. Without the columns
    /// sea-query writes `ON DUPLICATE KEY IGNORE`, which no server understands.
    fn insert_or_ignore(insert: &mut InsertStatement, key: Vec<DynIden>) {
        insert.on_conflict(OnConflict::new().do_nothing_on(key).to_owned());
    }

    /// The driver always asks for found rows (`CLIENT_FOUND_ROWS`), and by those an ignored row counts as inserted. Only the unique
    /// violation is exact.
    const FAILS_WHEN_PRESENT: bool = true;

    fn text(row: &QueryResult, index: impl ColIdx) -> Result<Option<&str>, DbErr> {
        driver_text!(row.try_as_mysql_row(), try_get, index.as_sqlx_mysql_index())
    }

    /// By the servers' error numbers: the SQLSTATE of most is HY000.
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
        match error.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number) {
            // ER_LOCK_DEADLOCK, ER_LOCK_WAIT_TIMEOUT, ER_CHECKREAD (MariaDB's snapshot isolation)
            1213 | 1205 | 1020 => BackendErrorKind::Contention,
            // ER_CON_COUNT_ERROR, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED, ER_SERVER_SHUTDOWN,
            // ER_QUERY_INTERRUPTED, ER_CONNECTION_KILLED (MariaDB), ER_CLIENT_INTERACTION_TIMEOUT, ER_UNKNOWN_COM_ERROR (a Galera node that is
            // not ready), ER_OPTION_PREVENTS_STATEMENT and ER_READ_ONLY_MODE (a server that is no longer the primary)
            1040 | 1203 | 1226 | 1053 | 1317 | 1927 | 4031 | 1047 | 1290 | 1836 => BackendErrorKind::Unavailable,
            // ER_NO_SUCH_TABLE, ER_BAD_FIELD_ERROR
            1146 | 1054 => BackendErrorKind::Schema,
            _ => BackendErrorKind::Unexpected,
        }
    }

    fn is_refusal(error: &RuntimeErr) -> bool {
        let RuntimeErr::SqlxError(error) = error else { return false };
        let error = error.as_database_error().and_then(|error| error.try_downcast_ref::<MySqlDatabaseError>());
        // ER_SERVER_SHUTDOWN, ER_CONNECTION_KILLED (MariaDB)
        error.is_some_and(|error| !matches!(error.number(), 1053 | 1927))
    }

    fn driver_options(url: &str) -> Result<MySqlConnectOptions> {
        url.parse().map_err(|error: SqlxError| Error::Invalid { field: "url", reason: error.to_string() })
    }

    fn address(driver: &MySqlConnectOptions) -> String {
        match driver.get_socket() {
            Some(socket) => format!("MySQL at {}", socket.display()),
            None => format!("MySQL at {}:{}", driver.get_host(), driver.get_port()),
        }
    }

    async fn try_connection(driver: &MySqlConnectOptions) -> Result<(), DbErr> {
        let connected = async {
            let mut connection = MySqlConnection::connect_with(driver).await?;
            connection.execute(SESSION_SETTINGS).await?;
            connection.close().await
        };
        connected.await.map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))))
    }

    fn pool_limits(pool: &DatabaseConnection) -> PoolLimits {
        let options = pool.get_mysql_connection_pool().options();
        PoolLimits { max_connections: options.get_max_connections(), acquire_timeout: options.get_acquire_timeout() }
    }

    async fn take_connection(pool: &DatabaseConnection) -> Result<Box<dyn DriverConnection>, DbErr> {
        take_driver_connection!(Driver, pool.get_mysql_connection_pool())
    }

    fn open_pool(options: MySqlOptions) -> DatabaseConnection {
        open_driver_pool!(Driver, options, SESSION_SETTINGS)
    }
}
