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

use sea_orm::sea_query::extension::mysql::{IndexHintScope, MySqlSelectStatementExt as _};
use sea_orm::sea_query::{DynIden, InsertStatement, OnConflict, SelectStatement};
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlQueryResult, MySqlRow};
use sea_orm::sqlx::{self, Pool};
use sea_orm::{DatabaseConnection, DatabaseConnectionType, DbBackend, EntityName as _, QueryResult};
use seabed_core::entity::sessions;
use seabed_core::sql::{Address, ConnectOptions, Dialect, SchemaDialect, SqlSessionService, Tables};
use seabed_core::{BackendErrorKind, Error, Result};
use seabed_sqlx::{CREATE_DATABASE, Sqlx, SqlxBackend, bare_host, parse_server_url};

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
                                SET SESSION sql_safe_updates = 0; SET SESSION foreign_key_checks = 1; \
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
    const ENFORCES_FOREIGN_KEYS: bool = true;
    /// Replicas are set up with `read_only`; readers of Amazon Aurora have `innodb_read_only`.
    const ROLE_QUERY: Option<&'static str> = Some(
        "SELECT CAST(IF(CAST(@@global.read_only AS CHAR) IN ('0', 'OFF') \
         AND CAST(@@global.innodb_read_only AS CHAR) IN ('0', 'OFF'), 'primary', 'standby') AS CHAR)",
    );
    const GROUPS_STATEMENTS: bool = true;
    const UPDATE_BY_PRIMARY_KEY: Option<&'static str> = Some(" FORCE INDEX (PRIMARY)");
    const DELETE_HAS_LIMIT: bool = true;

    /// A number is no text for variables that are numbers.
    fn session_setting(name: &str, value: &str) -> Option<String> {
        let is_number = value.parse::<f64>().is_ok_and(f64::is_finite);
        let value = if is_number { value.to_owned() } else { format!("'{}'", value.replace('\'', "''")) };
        Some(format!("SET SESSION {name} = {value}"))
    }

    fn look_up_by_primary_key(select: &mut SelectStatement) {
        select.force_index("PRIMARY", IndexHintScope::All);
    }

    /// `ON DUPLICATE KEY UPDATE key = key`, because `INSERT IGNORE` would swallow truncation as well. Without the
    /// columns sea-query writes `ON DUPLICATE KEY IGNORE`, which no server understands.
    fn insert_or_ignore(insert: &mut InsertStatement, key: Vec<DynIden>) {
        insert.on_conflict(OnConflict::new().do_nothing_on(key).to_owned());
    }

    fn database_query(tables: &Tables) -> Option<String> {
        Some(on_server(tables, &server(tables)))
    }

    /// A Galera cluster and a replication group have a name, which their nodes share.
    fn cluster_query(tables: &Tables) -> Option<String> {
        let galera = |schema: &str| variable(&format!("{schema}.global_status"), "wsrep_cluster_state_uuid");
        let group = variable("performance_schema.global_variables", "group_replication_group_name");
        let cluster = format!(
            "/*M! {} */ /*!80000 COALESCE({group}, {}) */",
            galera("information_schema"),
            galera("performance_schema")
        );
        Some(on_server(tables, &format!("COALESCE({cluster}, {})", server(tables))))
    }
}

/// A variable or a status of the server; null where it is empty, or there is none.
fn variable(list: &str, name: &str) -> String {
    format!("NULLIF((SELECT variable_value FROM {list} WHERE variable_name = '{name}'), '')")
}

/// The database that holds the tables.
fn database(tables: &Tables) -> String {
    tables.schema().map_or_else(|| "DATABASE()".to_owned(), |schema| format!("'{schema}'"))
}

/// The server's name. MariaDB gives it none, and hosts of the same name have created the table at different times.
fn server(tables: &Tables) -> String {
    let (database, table) = (database(tables), tables.name(sessions::Entity.table_name()));
    let created = format!(
        "SELECT create_time FROM information_schema.tables WHERE table_schema = {database} AND table_name = '{table}'"
    );
    format!("/*M! CONCAT_WS(':', @@hostname, @@port, ({created})) */ /*!80000 @@server_uuid */")
}

/// The query for a server's name and the database. Some servers ignore the case of databases.
fn on_server(tables: &Tables, server: &str) -> String {
    let database = database(tables);
    format!(
        "SELECT CAST(CONCAT_WS(' ', {server}, IF(@@lower_case_table_names = 0, {database}, LOWER({database}))) AS CHAR)"
    )
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

    fn place(options: &MySqlConnectOptions) -> Option<Address> {
        let is_socket = options.get_socket().is_some();
        (!is_socket).then(|| Address { host: options.get_host().to_owned(), port: options.get_port() })
    }

    fn at(options: MySqlConnectOptions, address: &Address) -> MySqlConnectOptions {
        options.host(&address.host).port(address.port)
    }

    fn address(options: &MySqlConnectOptions) -> String {
        match options.get_socket() {
            Some(socket) => format!("MySQL at {}", socket.display()),
            None => format!("MySQL at {}:{}", options.get_host(), options.get_port()),
        }
    }

    fn connect_problem(
        _: &MySqlConnectOptions,
        error: Option<&dyn DatabaseError>,
    ) -> Option<(BackendErrorKind, String)> {
        // ER_BAD_DB_ERROR, and ER_DBACCESS_DENIED_ERROR, which hides whether there is one.
        match number(error?)? {
            1049 => Some((BackendErrorKind::Schema, CREATE_DATABASE.to_owned())),
            1044 => {
                let advice = format!("the account has no rights in the database, or {CREATE_DATABASE}");
                Some((BackendErrorKind::Unexpected, advice))
            }
            _ => None,
        }
    }

    /// `ER_CON_COUNT_ERROR`, `ER_TOO_MANY_USER_CONNECTIONS`, `ER_USER_LIMIT_REACHED`.
    fn has_too_many_clients(error: &dyn DatabaseError) -> bool {
        matches!(number(error), Some(1040 | 1203 | 1226))
    }

    fn classify(error: &dyn DatabaseError) -> BackendErrorKind {
        match number(error).unwrap_or_default() {
            // ER_LOCK_DEADLOCK, ER_LOCK_WAIT_TIMEOUT, ER_CHECKREAD (MariaDB's snapshot isolation), ER_QUERY_TIMEOUT and
            // ER_STATEMENT_TIMEOUT (a limit of the server's, which a wait for a lock may reach),
            // ER_TRANSACTION_ROLLBACK_DURING_COMMIT and ER_ERROR_DURING_COMMIT (other members of a group or cluster)
            1213 | 1205 | 1020 | 3024 | 3572 | 1969 | 3101 | 1180 => BackendErrorKind::Contention,
            // ER_CON_COUNT_ERROR, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED, ER_SERVER_SHUTDOWN,
            // ER_QUERY_INTERRUPTED, ER_CONNECTION_KILLED (MariaDB), ER_CLIENT_INTERACTION_TIMEOUT, ER_UNKNOWN_COM_ERROR
            // (a Galera node that is not ready), ER_OPTION_PREVENTS_STATEMENT and ER_READ_ONLY_MODE (a server that is
            // no longer the primary), ER_MAX_PREPARED_STMT_COUNT_REACHED (closing a connection frees its statements)
            1040 | 1203 | 1226 | 1053 | 1317 | 1927 | 4031 | 1047 | 1290 | 1836 | 1461 => BackendErrorKind::Unavailable,
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
            1461 => Some(
                "the server keeps no more prepared statements; raise its max_prepared_stmt_count to 100 for each \
                 connection of all pools together",
            ),
            _ => None,
        }
    }

    /// `ER_SERVER_SHUTDOWN` and `ER_CONNECTION_KILLED` (MariaDB) are no such errors: the statement may have run.
    fn was_rejected(error: &dyn DatabaseError) -> bool {
        number(error).is_some_and(|number| !matches!(number, 1053 | 1927))
    }

    /// The SQLSTATE classes of data exceptions and of constraint violations. Errors that have no such class:
    /// `ER_SIGNAL_EXCEPTION` (a trigger's own), `ER_CHECK_CONSTRAINT_VIOLATED`, `ER_CONSTRAINT_FAILED` (MariaDB),
    /// `ER_NO_DEFAULT_FOR_FIELD`, `ER_TRUNCATED_WRONG_VALUE_FOR_FIELD`, `ER_TABLEACCESS_DENIED_ERROR`,
    /// `ER_COLUMNACCESS_DENIED_ERROR`
    fn refuses_content(error: &dyn DatabaseError) -> bool {
        error.code().is_some_and(|state| state.starts_with("22") || state.starts_with("23"))
            || matches!(number(error), Some(1644 | 3819 | 4025 | 1364 | 1366 | 1142 | 1143))
    }
}
