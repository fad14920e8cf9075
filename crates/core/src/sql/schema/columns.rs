//! The columns that a database has, and which of them cannot keep the guarantees.
//!
//! A service checks them when it connects; the migrator explains them.

use std::fmt;

use sea_orm::sea_query::{ColumnType, StringLen};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, IdenStatic, Iterable, QueryResult, Statement,
};

use super::dialect::{Column, ColumnProblem, ColumnRole, SchemaDialect, SchemaRisk};
use crate::entity::{adk_internal_metadata, app_states, events, seabed_labels, seabed_sessions, sessions, user_states};
use crate::sql::tables::{Tables, own_table_names, table_names};

/// A column that cannot keep the guarantees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsuitableColumn {
    /// Its table.
    pub table: &'static str,
    /// Its name.
    pub column: String,
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
            ColumnProblem::Required => {
                write!(f, "column {table}.{column} needs a value in each row, and Seabed does not know it")
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
            ColumnProblem::Risk(SchemaRisk::LossyText) => {
                write!(f, "column {table}.{column} has the collation {collation}, whose character set lacks characters")
            }
            // Not a risk of one column.
            ColumnProblem::Risk(risk) => write!(f, "column {table}.{column}: {}", risk.consequence()),
        }
    }
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
        .chain(columns_of(seabed_sessions::Entity))
        .chain(columns_of(seabed_labels::Entity))
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

/// The query for the columns of Seabed's tables.
pub(crate) fn columns_query(dialect: &dyn SchemaDialect, tables: &Tables) -> String {
    dialect.columns_query(tables.schema(), &table_names().map(|name| tables.name(name)))
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
    columns_of_tables(connection, dialect, tables, &table_names()).await
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
    read_columns(&rows, tables)
}

/// The answer to [`columns_query`].
pub(crate) fn read_columns(rows: &[QueryResult], tables: &Tables) -> Result<Vec<Column>, DbErr> {
    let base_name = |mut column: Column| {
        column.table_name = column.table_name.strip_prefix(tables.prefix()).unwrap_or_default().to_owned();
        column
    };
    rows.iter().map(|row| Column::from_query_result(row, "").map(base_name)).collect()
}

/// Those of the columns Seabed needs that are missing from `columns`, or cannot keep the guarantees, and those it does
/// not know but would have to fill. Its own tables may be missing.
pub fn unsuitable_columns(dialect: &dyn SchemaDialect, columns: &[Column]) -> Vec<UnsuitableColumn> {
    let exists = |table: &str| columns.iter().any(|column| column.table_name == table);
    let wanted = || wanted().filter(|wanted| !own_table_names().contains(&wanted.table) || exists(wanted.table));
    let unsuitable = |wanted: WantedColumn| {
        let WantedColumn { table, column, role } = wanted;
        let found = columns.iter().find(|found| found.table_name == table && found.column_name == column);
        let problem = match found {
            None => ColumnProblem::Missing,
            Some(found) => dialect.column_problem(found, role)?,
        };
        Some(UnsuitableColumn { table, column: column.to_owned(), found: found.cloned(), problem })
    };
    let is_unknown =
        |found: &Column| !wanted().any(|wanted| wanted.table == found.table_name && wanted.column == found.column_name);
    let required = |found: &Column| {
        let table = table_names().into_iter().find(|table| *table == found.table_name)?;
        let column = found.column_name.clone();
        Some(UnsuitableColumn { table, column, found: Some(found.clone()), problem: ColumnProblem::Required })
    };
    let unknown = columns.iter().filter(|found| found.is_required && is_unknown(found));
    wanted().filter_map(unsuitable).chain(unknown.filter_map(required)).collect()
}
