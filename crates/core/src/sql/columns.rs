//! The columns that a database has, and what of the laws they cannot keep.
//!
//! A service asks this when it connects, a migrator to explain a database.

use std::fmt;

use sea_orm::sea_query::{ColumnType, StringLen};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityName, EntityTrait, FromQueryResult, IdenStatic, Iterable,
    Statement,
};

use crate::entity::{adk_internal_metadata, app_states, events, sessions, user_states};

/// A law that a column breaks, and that its user may choose to do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Weakness {
    /// Ids are compared without case, accents or trailing blanks: `alice` reads and changes what is `Alice`'s.
    InexactIds,
    /// Times are rounded to coarser steps than a microsecond. Events within one step lose their order, and the revision that
    /// an append returns is not the stored one.
    CoarseTimes,
    /// Events and states beyond some size are refused, 64 KB for MySQL's `text`.
    ShortText,
}

impl Weakness {
    /// What follows for whoever lives with it.
    pub fn consequence(self) -> &'static str {
        match self {
            Self::InexactIds => {
                "ids that differ only in case, accents or trailing blanks are taken for one: users see and change each \
                 other's sessions and state"
            }
            Self::CoarseTimes => {
                "events that are stored within one step of the clock lose their order, and revisions that are returned are \
                 not those stored"
            }
            Self::ShortText => "events and states that do not fit are refused",
        }
    }
}

/// Why a column does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Objection {
    /// It is not there.
    Missing,
    /// It has a type that Seabed's statements do not fit; one that does.
    Unusable {
        /// The type that google-adk's schema v1 has there.
        wanted: &'static str,
    },
    /// It breaks a law.
    Weak(Weakness),
}

/// A column of the tables, as the database describes it.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Column {
    /// Its table.
    pub table_name: String,
    /// Its name.
    pub column_name: String,
    /// Its type in the database's words, in lower case.
    pub data_type: String,
    /// The collation, where it is told and matters: on PostgreSQL only one under which different texts may be equal.
    pub collation: Option<String>,
}

/// A column that does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Its table.
    pub table: &'static str,
    /// Its name.
    pub column: &'static str,
    /// What the database says of it, if it is there.
    pub found: Option<Column>,
    /// What is wrong with it.
    pub objection: Objection,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, column, .. } = self;
        let (data_type, collation) = self
            .found
            .as_ref()
            .map_or(("", ""), |found| (found.data_type.as_str(), found.collation.as_deref().unwrap_or_default()));
        match self.objection {
            Objection::Missing => write!(f, "table {table} has no column {column}"),
            Objection::Unusable { wanted } => {
                write!(f, "column {table}.{column} is of type {data_type}, where {wanted} is needed")
            }
            Objection::Weak(Weakness::InexactIds) => {
                write!(f, "column {table}.{column} has the collation {collation}, which takes different ids for one")
            }
            Objection::Weak(Weakness::CoarseTimes) => {
                write!(f, "column {table}.{column} is of type {data_type}, which does not keep microseconds")
            }
            Objection::Weak(Weakness::ShortText) => {
                write!(f, "column {table}.{column} is of type {data_type}, which does not hold long text")
            }
        }
    }
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Name { length: u32 },
    Json,
    Time,
}

/// A column that must be there.
struct Wanted {
    table: &'static str,
    column: &'static str,
    role: Role,
}

fn wanted() -> impl Iterator<Item = Wanted> {
    columns_of(adk_internal_metadata::Entity)
        .chain(columns_of(app_states::Entity))
        .chain(columns_of(user_states::Entity))
        .chain(columns_of(sessions::Entity))
        .chain(columns_of(events::Entity))
}

fn columns_of<E: EntityTrait>(entity: E) -> impl Iterator<Item = Wanted> {
    E::Column::iter().map(move |column| Wanted {
        table: entity.table_name(),
        column: column.as_str(),
        role: match column.def().get_column_type() {
            ColumnType::String(StringLen::N(length)) => Role::Name { length: *length },
            ColumnType::Text => Role::Json,
            _ => Role::Time,
        },
    })
}

/// The columns of those of Seabed's tables that are there, in the schema that unqualified names mean. Needs no rights but those
/// on the tables.
///
/// # Errors
/// Those of the database.
pub async fn columns(connection: &impl ConnectionTrait) -> Result<Vec<Column>, DbErr> {
    let tables = [
        adk_internal_metadata::Entity.table_name(),
        app_states::Entity.table_name(),
        user_states::Entity.table_name(),
        sessions::Entity.table_name(),
        events::Entity.table_name(),
    ];
    columns_of_tables(connection, &tables).await
}

/// Like [`columns`], of other tables. Their names must need no escaping.
///
/// # Errors
/// Those of the database.
pub async fn columns_of_tables(connection: &impl ConnectionTrait, tables: &[&str]) -> Result<Vec<Column>, DbErr> {
    let backend = connection.get_database_backend();
    let names = tables.iter().map(|table| format!("'{table}'")).collect::<Vec<_>>().join(", ");
    let query = match backend {
        DbBackend::Postgres => format!(
            "SELECT CAST(class.relname AS text) AS table_name, CAST(attname AS text) AS column_name, \
             format_type(atttypid, atttypmod) AS data_type, CAST(collname AS text) AS \"collation\" \
             FROM unnest(ARRAY[{names}]) AS name JOIN pg_class class ON class.oid = to_regclass(name) \
             JOIN pg_attribute ON attrelid = class.oid AND attnum > 0 AND NOT attisdropped \
             LEFT JOIN pg_collation ON pg_collation.oid = attcollation AND NOT collisdeterministic"
        ),
        DbBackend::Sqlite => format!(
            "SELECT tables.name AS table_name, columns.name AS column_name, lower(columns.type) AS data_type, \
             (SELECT keys.coll FROM pragma_index_list(tables.name) AS indexes, pragma_index_xinfo(indexes.name) AS keys \
             WHERE indexes.origin = 'pk' AND keys.name = columns.name) AS collation \
             FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns \
             WHERE tables.type = 'table' AND tables.name IN ({names})"
        ),
        _ => format!(
            "SELECT CAST(table_name AS CHAR) AS table_name, CAST(column_name AS CHAR) AS column_name, \
             CAST(LOWER(column_type) AS CHAR) AS data_type, CAST(collation_name AS CHAR) AS collation \
             FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN ({names})"
        ),
    };
    let rows = connection.query_all_raw(Statement::from_string(backend, query)).await?;
    rows.iter().map(|row| Column::from_query_result(row, "")).collect()
}

/// What is wrong with `columns`, which are those of a database of `backend`.
pub fn unfit_columns(backend: DbBackend, columns: &[Column]) -> Vec<Unfit> {
    let unfit = |wanted: Wanted| {
        let Wanted { table, column, role } = wanted;
        let found = columns.iter().find(|found| found.table_name == table && found.column_name == column);
        let objection = match found {
            None => Objection::Missing,
            Some(found) => match backend {
                DbBackend::Postgres => objection_on_postgres(found, role)?,
                DbBackend::Sqlite => objection_on_sqlite(found, role)?,
                _ => objection_on_mysql(found, role)?,
            },
        };
        Some(Unfit { table, column, found: found.cloned(), objection })
    };
    wanted().filter_map(unfit).collect()
}

fn objection_on_postgres(found: &Column, role: Role) -> Option<Objection> {
    let data_type = found.data_type.as_str();
    match role {
        Role::Name { .. } if found.collation.is_some() => Some(Objection::Weak(Weakness::InexactIds)),
        Role::Name { length } => {
            let fits = data_type == "text"
                || data_type.strip_prefix("character varying").is_some_and(|limit| is_at_least(limit, length));
            (!fits).then_some(Objection::Unusable { wanted: name_type(length) })
        }
        Role::Json => (data_type != "jsonb").then_some(Objection::Unusable { wanted: "jsonb" }),
        Role::Time => match data_type {
            "timestamp without time zone" | "timestamp(6) without time zone" => None,
            _ if data_type.ends_with("without time zone") => Some(Objection::Weak(Weakness::CoarseTimes)),
            _ => Some(Objection::Unusable { wanted: "timestamp without time zone" }),
        },
    }
}

fn objection_on_mysql(found: &Column, role: Role) -> Option<Objection> {
    let data_type = found.data_type.as_str();
    let collation = found.collation.as_deref();
    match role {
        Role::Name { length } => {
            let limit = data_type.strip_prefix("varchar");
            if !limit.is_some_and(|limit| is_at_least(limit, length)) {
                return Some(Objection::Unusable { wanted: name_type(length) });
            }
            let exact = collation.is_some_and(|name| name == "utf8mb4_0900_bin" || name.ends_with("_nopad_bin"));
            (!exact).then_some(Objection::Weak(Weakness::InexactIds))
        }
        Role::Json => match data_type {
            "longtext" | "mediumtext" => None,
            "text" | "tinytext" => Some(Objection::Weak(Weakness::ShortText)),
            _ => Some(Objection::Unusable { wanted: "longtext" }),
        },
        Role::Time => match data_type {
            "datetime(6)" => None,
            _ if data_type.starts_with("datetime") => Some(Objection::Weak(Weakness::CoarseTimes)),
            _ => Some(Objection::Unusable { wanted: "datetime(6)" }),
        },
    }
}

/// SQLite stores any text in any column but a numeric one, whatever its type says.
fn objection_on_sqlite(found: &Column, role: Role) -> Option<Objection> {
    let is_number = ["real", "floa", "doub", "int"].iter().any(|name| found.data_type.contains(name));
    match role {
        Role::Name { .. } if found.collation.as_deref().is_some_and(|name| name != "BINARY") => {
            Some(Objection::Weak(Weakness::InexactIds))
        }
        Role::Name { length } => is_number.then_some(Objection::Unusable { wanted: name_type(length) }),
        Role::Json => is_number.then_some(Objection::Unusable { wanted: "text" }),
        Role::Time => is_number.then_some(Objection::Unusable { wanted: "datetime" }),
    }
}

fn name_type(length: u32) -> &'static str {
    if length > 128 { "varchar(256)" } else { "varchar(128)" }
}

/// Whether `limit`, which is empty or a number in parentheses, admits `length` characters.
fn is_at_least(limit: &str, length: u32) -> bool {
    let number = limit.trim_start_matches('(').trim_end_matches(')');
    limit.is_empty() || number.parse::<u32>().is_ok_and(|limit| limit >= length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objection(
        backend: DbBackend,
        name: (&str, &str),
        data_type: &str,
        collation: Option<&str>,
    ) -> Option<Objection> {
        let column = Column {
            table_name: name.0.to_owned(),
            column_name: name.1.to_owned(),
            data_type: data_type.to_owned(),
            collation: collation.map(str::to_owned),
        };
        let unfit = unfit_columns(backend, &[column]);
        unfit.into_iter().find(|unfit| (unfit.table, unfit.column) == name).map(|unfit| unfit.objection)
    }

    const ID: (&str, &str) = ("sessions", "user_id");
    const STATE: (&str, &str) = ("sessions", "state");
    const TIME: (&str, &str) = ("events", "timestamp");

    #[test]
    fn every_column_that_is_not_there_is_missing() {
        let unfit = unfit_columns(DbBackend::Sqlite, &[]);
        assert_eq!(unfit.len(), 2 + 3 + 4 + 6 + 7);
        assert!(unfit.iter().all(|unfit| unfit.objection == Objection::Missing));
    }

    #[test]
    fn collations_of_mysql_are_told_apart() {
        let collation = |name| objection(DbBackend::MySql, ID, "varchar(128)", Some(name));
        for exact in ["utf8mb4_0900_bin", "utf8mb4_nopad_bin"] {
            assert_eq!(collation(exact), None, "{exact}");
        }
        for inexact in ["utf8mb4_0900_ai_ci", "utf8mb4_general_ci", "utf8mb4_bin", "latin1_swedish_ci"] {
            assert_eq!(collation(inexact), Some(Objection::Weak(Weakness::InexactIds)), "{inexact}");
        }
    }

    #[test]
    fn types_of_each_database_are_told_apart() {
        let (coarse, short) = (Objection::Weak(Weakness::CoarseTimes), Objection::Weak(Weakness::ShortText));
        for (backend, name, data_type, expected) in [
            (DbBackend::MySql, TIME, "datetime(6)", None),
            (DbBackend::MySql, TIME, "datetime", Some(coarse.clone())),
            (DbBackend::MySql, TIME, "timestamp(6)", Some(Objection::Unusable { wanted: "datetime(6)" })),
            (DbBackend::MySql, STATE, "longtext", None),
            (DbBackend::MySql, STATE, "text", Some(short)),
            (DbBackend::MySql, STATE, "json", Some(Objection::Unusable { wanted: "longtext" })),
            (DbBackend::MySql, ID, "varchar(64)", Some(Objection::Unusable { wanted: "varchar(128)" })),
            (DbBackend::Postgres, TIME, "timestamp without time zone", None),
            (DbBackend::Postgres, TIME, "timestamp(3) without time zone", Some(coarse)),
            (
                DbBackend::Postgres,
                TIME,
                "timestamp with time zone",
                Some(Objection::Unusable { wanted: "timestamp without time zone" }),
            ),
            (DbBackend::Postgres, STATE, "jsonb", None),
            (DbBackend::Postgres, STATE, "json", Some(Objection::Unusable { wanted: "jsonb" })),
            (DbBackend::Postgres, ID, "character varying", None),
            (DbBackend::Postgres, ID, "character varying(128)", None),
            (DbBackend::Sqlite, TIME, "datetime", None),
            (DbBackend::Sqlite, TIME, "real", Some(Objection::Unusable { wanted: "datetime" })),
        ] {
            let collation = (backend == DbBackend::MySql).then_some("utf8mb4_0900_bin");
            assert_eq!(objection(backend, name, data_type, collation), expected, "{backend:?} {data_type}");
        }
        let folding = Some(Objection::Weak(Weakness::InexactIds));
        assert_eq!(objection(DbBackend::Sqlite, ID, "varchar(128)", Some("NOCASE")), folding);
        assert_eq!(objection(DbBackend::Postgres, ID, "character varying(128)", Some("ci")), folding);
    }
}
