//! The columns that a database has, and which of them cannot keep the laws.
//!
//! A service asks when it connects, the migrator to explain a database.

use std::fmt;

use sea_orm::sea_query::{ColumnType, StringLen};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityName, EntityTrait, FromQueryResult, IdenStatic, Iterable, Statement,
};

use super::SchemaDialect;
use crate::entity::{adk_internal_metadata, app_states, events, sessions, user_states};
use crate::sql::statement::Tables;

/// A law that a column breaks, and that a user may choose to do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SchemaRisk {
    /// The database compares ids without case, accents or trailing blanks: `alice` reads and changes what is `Alice`'s.
    InexactIds,
    /// The database rounds times to coarser steps than a microsecond. Events within one step lose their order, and the
    /// revision that an append returns is not the stored one.
    CoarseTimes,
    /// The database refuses events and states beyond some size, 64 KB for MySQL's `text`.
    ShortText,
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
        }
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
    /// It breaks a law.
    Risk(SchemaRisk),
}

/// A column, as the database describes it.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Column {
    /// Its table, without the prefix of [`Tables`].
    pub table_name: String,
    /// Its name.
    pub column_name: String,
    /// Its type in the database's words, in lower case.
    pub data_type: String,
    /// The collation, where the database reports one that matters: on PostgreSQL only one under which different texts
    /// may be equal.
    pub collation: Option<String>,
}

/// A column that cannot keep the laws.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsuitableColumn {
    /// Its table.
    pub table: &'static str,
    /// Its name.
    pub column: &'static str,
    /// How the database describes it, if it exists.
    pub found: Option<Column>,
    /// What is wrong with it.
    pub problem: ColumnProblem,
}

impl fmt::Display for UnsuitableColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, column, .. } = self;
        let (data_type, collation) = self
            .found
            .as_ref()
            .map_or(("", ""), |found| (found.data_type.as_str(), found.collation.as_deref().unwrap_or_default()));
        match self.problem {
            ColumnProblem::Missing => write!(f, "table {table} has no column {column}"),
            ColumnProblem::WrongType { wanted } => {
                write!(f, "column {table}.{column} is of type {data_type}, where {wanted} is needed")
            }
            ColumnProblem::Risk(SchemaRisk::InexactIds) => {
                write!(f, "column {table}.{column} has the collation {collation}, which treats different ids as equal")
            }
            ColumnProblem::Risk(SchemaRisk::CoarseTimes) => {
                write!(f, "column {table}.{column} is of type {data_type}, which does not keep microseconds")
            }
            ColumnProblem::Risk(SchemaRisk::ShortText) => {
                write!(f, "column {table}.{column} is of type {data_type}, which does not hold long text")
            }
        }
    }
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

/// A column that must exist.
struct WantedColumn {
    table: &'static str,
    column: &'static str,
    role: ColumnRole,
}

fn wanted() -> impl Iterator<Item = WantedColumn> {
    columns_of(adk_internal_metadata::Entity)
        .chain(columns_of(app_states::Entity))
        .chain(columns_of(user_states::Entity))
        .chain(columns_of(sessions::Entity))
        .chain(columns_of(events::Entity))
}

fn columns_of<E: EntityTrait>(entity: E) -> impl Iterator<Item = WantedColumn> {
    E::Column::iter().map(move |column| WantedColumn {
        table: entity.table_name(),
        column: column.as_str(),
        role: match column.def().get_column_type() {
            ColumnType::String(StringLen::N(length)) => ColumnRole::Name { length: *length },
            ColumnType::Text => ColumnRole::Json,
            _ => ColumnRole::Time,
        },
    })
}

/// The columns of those of Seabed's tables that exist. Needs no privileges but those on the tables.
///
/// # Errors
/// Those of the database.
pub async fn columns(
    connection: &impl ConnectionTrait,
    dialect: &dyn SchemaDialect,
    tables: &Tables,
) -> Result<Vec<Column>, DbErr> {
    let names = [
        adk_internal_metadata::Entity.table_name(),
        app_states::Entity.table_name(),
        user_states::Entity.table_name(),
        sessions::Entity.table_name(),
        events::Entity.table_name(),
    ];
    columns_of_tables(connection, dialect, tables, &names).await
}

/// Like [`columns`], for other tables of the same schema and prefix. Their names must need no escaping.
///
/// # Errors
/// Those of the database.
pub async fn columns_of_tables(
    connection: &impl ConnectionTrait,
    dialect: &dyn SchemaDialect,
    tables: &Tables,
    names: &[&str],
) -> Result<Vec<Column>, DbErr> {
    let names: Vec<String> = names.iter().map(|name| tables.name(name)).collect();
    let query = dialect.columns_query(tables.schema(), &names);
    let rows = connection.query_all_raw(Statement::from_string(connection.get_database_backend(), query)).await?;
    let base_name = |mut column: Column| {
        column.table_name = column.table_name.strip_prefix(tables.prefix()).unwrap_or_default().to_owned();
        column
    };
    rows.iter().map(|row| Column::from_query_result(row, "").map(base_name)).collect()
}

/// Those of the columns Seabed needs that are missing from `columns`, or cannot keep the laws.
pub fn unsuitable_columns(dialect: &dyn SchemaDialect, columns: &[Column]) -> Vec<UnsuitableColumn> {
    let unsuitable = |wanted: WantedColumn| {
        let WantedColumn { table, column, role } = wanted;
        let found = columns.iter().find(|found| found.table_name == table && found.column_name == column);
        let problem = match found {
            None => ColumnProblem::Missing,
            Some(found) => dialect.column_problem(found, role)?,
        };
        Some(UnsuitableColumn { table, column, found: found.cloned(), problem })
    };
    wanted().filter_map(unsuitable).collect()
}
