//! The seam to a database's schema: types, names, casts, and how the database describes its columns.

use std::fmt;

use sea_orm::sea_query::Expr;
use sea_orm::{DbBackend, FromQueryResult, Value};

use crate::Timestamp;

/// How one database describes and spells google-adk's schema. Pure: it builds SQL and runs none.
pub trait SchemaDialect: fmt::Debug + Send + Sync {
    /// sea-orm's name of the database.
    fn backend(&self) -> DbBackend;

    /// An identifier as SQL spells it.
    fn quote(&self, name: &str) -> String {
        let doubled = name.replace('"', "\"\"");
        format!("\"{doubled}\"")
    }

    /// A column of names, for a comparison with text. On a database that lets others add operators, the types of both
    /// sides must be exactly those of the built-in operator: a better match of a stranger's would be called instead.
    fn read_name(&self, column: Expr) -> Expr {
        column
    }

    /// A JSON column as text.
    fn read_json(&self, column: Expr) -> Expr {
        column
    }

    /// JSON text as the value of a JSON column.
    fn write_json(&self, text: Expr) -> Expr {
        text
    }

    /// The function that finds a text in another: with these two arguments in reverse order, it returns the place of
    /// the first character, from 1, or 0.
    fn position_function(&self) -> &'static str {
        "INSTR"
    }

    /// A moment as a `timestamp` column stores and compares it.
    fn timestamp(&self, timestamp: Timestamp) -> Value {
        timestamp.to_naive_utc().into()
    }

    /// What the database's clock shows when the statement begins, as a `timestamp` column would store it.
    fn current_time(&self) -> Expr;

    /// The type of a column for JSON.
    fn json_type(&self) -> &'static str;

    /// The type of a column for moments.
    fn timestamp_type(&self) -> &'static str;

    /// The query for the server's version, where [`id_collation`](Self::id_collation) depends on it: one column
    /// `version`.
    fn version_query(&self) -> Option<&'static str> {
        None
    }

    /// The collation of ids on a server of `version`; `None` where the database compares ids byte for byte anyway.
    fn id_collation(&self, _version: &str) -> Option<&'static str> {
        None
    }

    /// The query for the columns of tables of these names, in `schema` or where unqualified names are looked up. Its
    /// columns are those of [`Column`].
    fn columns_query(&self, schema: Option<&str>, names: &[String]) -> String;

    /// What is wrong with a column in its role.
    fn column_problem(&self, found: &Column, role: ColumnRole) -> Option<ColumnProblem>;

    /// For risks that no column shows, the query that finds them, in the tables that
    /// [`columns_query`](Self::columns_query) describes and in the session. Its columns are two texts: `subject` (a
    /// table, or what else has the risk) and `found` (what it is). No rows, no risk.
    fn risk_queries(&self, _schema: Option<&str>, _names: &[String]) -> Vec<(SchemaRisk, String)> {
        Vec::new()
    }

    /// Whether a value that [`risk_queries`](Self::risk_queries) `found` really is the risk. Some values, such as a
    /// version, cannot be judged in SQL.
    fn confirms_risk(&self, risk: SchemaRisk, found: &str) -> bool {
        risk != SchemaRisk::OtherServer || is_other_server(found)
    }
}

/// What the versions of other products contain that speak the protocol of PostgreSQL or MySQL.
const OTHER_SERVERS: [&str; 13] = [
    "tidb",
    "vitess",
    "planetscale",
    "oceanbase",
    "polardb-x",
    "singlestore",
    "cockroachdb",
    "-yb-",
    "yugabyte",
    "spanner",
    "aurora dsql",
    "redshift",
    "materialize",
];

/// Whether a server of `version` is another product than the one whose protocol it speaks.
fn is_other_server(version: &str) -> bool {
    let version = version.to_lowercase();
    OTHER_SERVERS.iter().any(|name| version.contains(name))
}

/// A property of the tables, the database, the server or the connections that endangers a guarantee, and that a user
/// may accept. A service starts despite [`OpenSchema`](Self::OpenSchema) and
/// [`ReducedDurability`](Self::ReducedDurability), after a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SchemaRisk {
    /// The database compares ids without case, accents or trailing blanks: `alice` can read and change `Alice`'s data.
    InexactIds,
    /// The database rounds times to coarser steps than a microsecond. Events within one step lose their order, and the
    /// revision that an append returns is not the stored one.
    CoarseTimes,
    /// The database refuses events and states beyond some size, 64 KB for MySQL's `text`.
    ShortText,
    /// The character set lacks characters, as latin1 does. The database refuses text that has them, or stores question
    /// marks in their place (MySQL outside of strict mode).
    LossyText,
    /// The storage engine has no transactions: a part of a write that fails, or is rolled back, stays.
    NoTransactions,
    /// The table is empty after a crash of the server (PostgreSQL's UNLOGGED).
    Unlogged,
    /// Policies may hide rows from the account (PostgreSQL's row level security).
    RowSecurity,
    /// A setting of the connections keeps writes from being stored as they were sent: read-only transactions, or on
    /// MySQL and MariaDB `autocommit = 0`, no strict mode, `EMPTY_STRING_IS_NULL`, `ORACLE`, or a character set other
    /// than utf8mb4.
    SessionSettings,
    /// Every account may create functions, operators and tables where the connections look names up. A service starts
    /// nevertheless, with a warning: its own statements call nothing there.
    OpenSchema,
    /// A commit is acknowledged before it is on disk: on PostgreSQL `fsync = off` without a synchronous standby, and
    /// `synchronous_commit = off`; on MySQL and MariaDB `innodb_flush_log_at_trx_commit` of 0 or 2; on SQLite
    /// `synchronous = OFF`, and a journal that is kept in memory or not at all.
    UnsafeCommits,
    /// A second failure, or one of the machine rather than the server, may take acknowledged commits with it: on
    /// PostgreSQL `full_page_writes = off`, and with a synchronous standby `fsync = off` and `synchronous_commit =
    /// local`; on MySQL and MariaDB `sync_binlog` other than 1 with a binary log, and no doublewrite buffer; on SQLite
    /// `synchronous = NORMAL`. A service starts nevertheless, with a warning.
    ReducedDurability,
    /// The server accepts no writes: a hot standby of PostgreSQL, or `read_only` on MySQL and MariaDB, which is how
    /// replicas are set up. Accounts that `read_only` exempts are refused as well: what they write to a replica is in no
    /// other server.
    ReadOnlyServer,
    /// The server belongs to a cluster in which every node takes writes: a Galera cluster, or MySQL's group replication
    /// in multi-primary mode. Lost updates are known of Galera clusters in which more than one node is written to.
    /// Accept it where all writers, Python's included, use the same node.
    MultiPrimary,
    /// The server is another product that speaks the protocol: `TiDB`, Vitess, `CockroachDB`, `YugabyteDB`, Spanner and the
    /// like. Nothing of it was tested, and some parse `SKIP LOCKED` without locking. A service that accepts it runs
    /// without fast paths: every write is a transaction of its own that waits for its locks.
    OtherServer,
    /// The version of SQLite (before 3.51.3, except for 3.50.7 and 3.44.6) has a bug: two connections that write or
    /// checkpoint at the same time may corrupt a database in WAL mode. A service is not at risk if its pool has one
    /// connection, and no other connection uses the file.
    WalResetBug,
}

impl SchemaRisk {
    /// What happens to a user who accepts the risk.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::InexactIds => {
                "the database treats ids as equal that differ only in case, accents or trailing blanks: users see and \
                 change each other's sessions and state"
            }
            Self::CoarseTimes => {
                "events that are stored within one step of the clock lose their order, and the revisions that appends \
                 return are not the stored ones"
            }
            Self::ShortText => "events and states that do not fit are refused",
            Self::LossyText => {
                "text with other characters is refused, or stored with question marks in their place where MySQL has no \
                 strict mode"
            }
            Self::NoTransactions => "a part of a write that fails, or is rolled back, stays",
            Self::Unlogged => "a crash of the server empties the table, and standby servers do not have its rows",
            Self::RowSecurity => {
                "sessions, events and state that a policy hides look as if they did not exist, and writes that a policy \
                 forbids fail"
            }
            Self::SessionSettings => "writes fail, are not committed, or store something else than what was sent",
            Self::OpenSchema => {
                "functions, operators and tables that somebody makes there can be used in place of those that a statement means, \
                 with the rights of who runs it"
            }
            Self::UnsafeCommits => "a crash of the server or its machine can lose acknowledged writes",
            Self::ReducedDurability => {
                "a crash of the server's machine, alone or together with a standby's, may lose acknowledged writes"
            }
            Self::ReadOnlyServer => "writes fail, or reach only a replica if the server exempts the account",
            Self::MultiPrimary => {
                "where more than one node is written to, updates of state and acknowledged writes may be lost"
            }
            Self::OtherServer => {
                "Seabed was not tested there; where a lock does not lock, updates of state and events are lost"
            }
            Self::WalResetBug => {
                "connections that write or checkpoint at the same time may corrupt the database, or lose commits"
            }
        }
    }

    /// Whether a service refuses to start unless the risk is accepted. For other risks it logs a warning.
    pub fn is_refused(self) -> bool {
        !matches!(self, Self::OpenSchema | Self::ReducedDurability)
    }
}

/// What is wrong with a column.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ColumnProblem {
    /// It does not exist.
    Missing,
    /// It has a type that Seabed's statements cannot use.
    WrongType {
        /// The type that google-adk's schema v1 has there.
        wanted: &'static str,
    },
    /// Rows need a value for it, and Seabed does not know it.
    Required,
    /// It breaks a guarantee.
    Risk(SchemaRisk),
}

/// A column, as the database describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, FromQueryResult)]
pub struct Column {
    /// Its table, without the prefix of [`Tables`](crate::sql::Tables).
    pub table_name: String,
    /// Its name.
    pub column_name: String,
    /// Its type in the database's words, in lower case.
    pub data_type: String,
    /// The collation, where the database reports one that matters: on PostgreSQL only one under which different texts
    /// may be equal.
    pub collation: Option<String>,
    /// Whether a row must be given a value for it: it is not null, and the database fills nothing in.
    pub is_required: bool,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnRole {
    /// An id, or another short text.
    Name {
        /// How many characters it must hold.
        length: u32,
    },
    /// JSON.
    Json,
    /// A moment.
    Time,
}

impl ColumnRole {
    /// The problem of a column that should be of type `wanted` in this role.
    pub fn wrong_type(wanted: &'static str) -> Option<ColumnProblem> {
        Some(ColumnProblem::WrongType { wanted })
    }
}

/// The type of google-adk's column for a name of up to `length` characters.
pub fn name_type(length: u32) -> &'static str {
    if length > 128 { "varchar(256)" } else { "varchar(128)" }
}

/// Whether `limit`, which is empty or a number in parentheses, admits `length` characters.
pub fn is_at_least(limit: &str, length: u32) -> bool {
    let number = limit.trim_start_matches('(').trim_end_matches(')');
    limit.is_empty() || number.parse::<u32>().is_ok_and(|limit| limit >= length)
}

#[cfg(test)]
mod tests {
    use super::is_other_server;

    #[test]
    fn other_servers_are_known_by_their_versions() {
        for other in [
            "8.0.11-TiDB-v7.5.0",
            "8.0.30-Vitess",
            "5.7.25-OceanBase_CE-v4.2.1.0",
            "CockroachDB CCL v23.1.11 (x86_64-pc-linux-gnu, built 2023/09/27, go1.19.10)",
            "PostgreSQL 11.2-YB-2.18.0.0-b0 on x86_64-pc-linux-gnu, compiled by clang version 15.0.3, 64-bit",
            "PostgreSQL 8.0.2 on i686-pc-linux-gnu, compiled by GCC gcc (GCC) 3.4.2, Redshift 1.0.12103",
        ] {
            assert!(is_other_server(other), "{other}");
        }
        for sound in [
            "9.7.4",
            "8.0.36-28.1 (Percona)",
            "8.0.mysql_aurora.3.05.2",
            "10.11.18-MariaDB-0+deb12u1",
            "PostgreSQL 18.6 (Debian 18.6-1.pgdg13+1) on x86_64-pc-linux-gnu, compiled by gcc, 64-bit",
        ] {
            assert!(!is_other_server(sound), "{sound}");
        }
    }
}
