//! The seam to a database: the SQL that differs. Pure: a dialect builds SQL and runs none.

use sea_orm::sea_query::{DynIden, Expr, InsertStatement, SelectStatement, TableRef, WithQuery};
use sea_orm::{DbBackend, TransactionOptions};

use super::driver::Driver;
use super::schema::dialect::SchemaDialect;
use super::tables::Tables;

/// Statements that carry out any number of writes to different sessions at once. The database must run each as one
/// atomic statement.
///
/// Every parameter but the last two is an array with one element for each write. The last two are the deadline
/// (timestamp), and the number of writes. Once [`current_time`](SchemaDialect::current_time) has reached the deadline,
/// the statement must change nothing. It must skip a write entirely if the write's session is locked, missing or at
/// another revision, or if its event is already stored; the portable algorithm then handles that write. (Triggers that
/// skip single rows of a statement are therefore not supported on these tables.)
#[derive(Debug, Clone)]
pub struct BulkStatements {
    /// `append_event`.
    ///
    /// Parameters: number of the write (int), app, user, session, event id, invocation id, the event's own time
    /// (timestamp), event JSON, expected revision (its creation and its timestamp, as text, empty for any), session
    /// delta, app delta, user delta (JSON objects as text), time of the service's clock (timestamp).
    ///
    /// A row for each event that is stored: number of the write, creation of the session, stored timestamp.
    pub append: WithQuery,
    /// `append_event` while conflicts are frequent: the same parameters, and the same rows, with the column
    /// [`REFUSED`](Self::REFUSED) false. A row for each write whose session is at another revision as well, which is
    /// then refused without another round trip: number of the write, and the columns `create_time` and `update_time`
    /// of the session, `id`, `timestamp` and `event_data` (as text) of the event under that id, if there is one;
    /// `REFUSED` is true.
    pub append_or_refuse: WithQuery,
    /// `append_event` for writes that change app or user state: the same parameters and rows as of
    /// [`append`](Self::append), with the column [`BLOCKED`](Self::BLOCKED) false. It leaves out a write to an app's or
    /// user's row that another connection has locked, with a row of its number for which `BLOCKED` is true.
    pub append_free: WithQuery,
    /// `create_session`.
    ///
    /// Parameters: number of the write (int), app, user, session, session state, app state, user state (JSON objects as
    /// text), time of the service's clock (timestamp). Rows: number of the write, and app and user state after it as
    /// text, null where the statement could not see them.
    pub create: WithQuery,
    /// `create_session` for writes that change app or user state, as [`append_free`](Self::append_free): the rows have
    /// the column [`BLOCKED`](Self::BLOCKED) as well.
    pub create_free: WithQuery,
}

impl BulkStatements {
    /// The column that tells whether a row is about a refused write.
    pub const REFUSED: &str = "refused";
    /// The column that tells whether a row is about a write that was left out because of a locked row of shared state.
    pub const BLOCKED: &str = "blocked";
}

/// The SQL of one database where it differs from that of others.
pub trait Dialect: Send + Sync + 'static {
    /// The driver that reaches such a database.
    type Driver: Driver;

    /// sea-orm's name of the database.
    const BACKEND: DbBackend;

    /// What the database's schema looks like.
    const SCHEMA: &'static dyn SchemaDialect;

    /// How many batches of one service's writes may run at once. A write that finds fewer running starts at once. More
    /// writes wait, and share the next commit with those that arrive meanwhile.
    const MAX_CONCURRENT_BATCHES: usize;

    /// The statement that begins a write transaction.
    const BEGIN: &'static str = "BEGIN";

    /// Whether a plain insert of a row that exists already fails with a unique violation, because the database cannot
    /// count what an insert-or-ignore has inserted.
    const DUPLICATE_IS_ERROR: bool = false;

    /// Whether a foreign key always does what it says. Elsewhere a connection may turn foreign keys off, or a server
    /// may not allow them to delete rows, so that rows are also deleted by name.
    const ENFORCES_FOREIGN_KEYS: bool = false;

    /// Whether a DELETE may have a LIMIT.
    const DELETE_HAS_LIMIT: bool = false;

    /// The query for the limit on the size of a statement, in bytes, where the server may close the connection of a
    /// client that exceeds it, instead of answering.
    const STATEMENT_LIMIT: Option<&'static str> = None;

    /// A statement that changes nothing, and makes the commit of its transaction wait for standby servers as that of a
    /// change does. `None` where there is nothing to wait for, or where every commit waits.
    const AWAIT_STANDBYS: Option<&'static str> = None;

    /// The query for what a server is: one row with one text, [`PRIMARY`](super::PRIMARY), [`STANDBY`](super::STANDBY)
    /// or [`READ_ONLY`](super::READ_ONLY). `None` where a database accepts writes or is broken.
    const ROLE_QUERY: Option<&'static str> = None;

    /// Whether one server of such a database may be behind another one.
    const MAY_LAG: bool = true;

    /// Makes `insert` leave alone a row that has the same `key` already. All other errors stay errors.
    fn insert_or_ignore(insert: &mut InsertStatement, key: Vec<DynIden>);

    /// Makes `insert` leave alone a row that has the same `key` already, and report it: no row is affected, or the
    /// insert fails with a unique violation where [`DUPLICATE_IS_ERROR`](Self::DUPLICATE_IS_ERROR).
    fn insert_if_absent(insert: &mut InsertStatement, key: Vec<DynIden>) {
        if !Self::DUPLICATE_IS_ERROR {
            Self::insert_or_ignore(insert, key);
        }
    }

    /// One statement for many creates and one for many appends, where the database can change several tables in one
    /// statement. They fail, and change nothing, when the JSON text of a merged state takes more than `max_state_bytes`.
    fn bulk_statements(_tables: &Tables, _max_state_bytes: usize) -> Option<BulkStatements> {
        None
    }

    /// Whether appends of a batch share statements, each of them about many rows, where there is no bulk statement. For
    /// servers that lock rows one by one.
    const GROUPS_STATEMENTS: bool = false;

    /// The same as [`look_up_by_primary_key`](Self::look_up_by_primary_key) for an update: what stands behind the name of
    /// its table.
    const UPDATE_BY_PRIMARY_KEY: Option<&'static str> = None;

    /// Makes `select` look its rows up by the primary key, if the planner might read the whole table of a few rows
    /// instead, and so lock the rows of others.
    fn look_up_by_primary_key(_select: &mut SelectStatement) {}

    /// The predicate that the previous statement changed a row, where the driver runs several statements as one: joined
    /// by semicolons, with their parameters one after the other. `None` where each statement is sent by itself.
    fn if_previous_changed() -> Option<Expr> {
        None
    }

    /// Completes `select` to read the rows of `table` under any of many keys, where a transaction locks the whole
    /// database and may therefore read all rows that it is going to write. The one parameter is a JSON array of keys,
    /// each an array of text. `None` where rows are locked one by one.
    fn select_by_keys(
        _select: SelectStatement,
        _table: TableRef,
        _key: [(DynIden, DynIden); 3],
    ) -> Option<SelectStatement> {
        None
    }

    /// The query for a text that names the running server and the database that hold `tables`. The same text on two
    /// connections means the same database. `None` where no query can tell: transactions of callers are then not
    /// checked.
    fn database_query(_tables: &Tables) -> Option<String> {
        None
    }

    /// The same, for a text that all nodes of a cluster share. Only asked where
    /// [`database_query`](Self::database_query) gave different texts, so it may take longer.
    fn cluster_query(tables: &Tables) -> Option<String> {
        Self::database_query(tables)
    }

    /// The statement that sets a setting of a connection. The value has no backslash and no control character. `None`
    /// where there is no server.
    fn session_setting(_name: &str, _value: &str) -> Option<String> {
        None
    }

    /// How a caller begins a transaction for the operations of
    /// [`TransactionalService`](crate::TransactionalService).
    fn transaction_options() -> TransactionOptions {
        TransactionOptions::default()
    }
}
