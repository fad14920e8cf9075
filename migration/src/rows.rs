//! Reads rows that any program may have written, in the order of their keys.

use sea_orm::prelude::DateTime;
use sea_orm::sea_query::{Alias, Condition, Expr, ExprTrait as _};
use sea_orm::{DbErr, QueryResult};
use seabed_core::{Timestamp, sql};

use crate::spec::SchemaSpec;

/// Selects a JSON column as text.
pub(crate) fn json_text(spec: &SchemaSpec, column: &str) -> Expr {
    spec.dialect.read_json(Expr::col(Alias::new(column)))
}

/// The condition that a row comes after the one with the key `last`, where rows are sorted by `columns`.
pub(crate) fn after(columns: &[Expr], last: &[String]) -> Condition {
    let less_significant = columns.iter().zip(last).rev();
    let beyond = less_significant.fold(None, |rest: Option<Expr>, (column, part)| {
        let later = column.clone().gt(part.as_str());
        Some(match rest {
            Some(rest) => later.or(column.clone().eq(part.as_str()).and(rest)),
            None => later,
        })
    });
    // Follows from the other condition, and lets the database search an index.
    let first = columns.iter().zip(last).next().map(|(column, part)| column.clone().gte(part.as_str()));
    Condition::all().add_option(first).add_option(beyond)
}

/// Reads a time, as the service does (on PostgreSQL also a time with a zone, in UTC).
pub(crate) fn time_of(row: &QueryResult, column: &str) -> Result<DateTime, DbErr> {
    let moment = match () {
        #[cfg(feature = "postgres")]
        () if row.try_as_pg_row().is_some() => moment::<seabed_postgres::Postgres>(row, column),
        #[cfg(feature = "sqlite")]
        () if row.try_as_sqlite_row().is_some() => moment::<seabed_sqlite::Sqlite>(row, column),
        () => sql::in_range(row.try_get("", column)?),
    };
    moment.map(Timestamp::to_naive_utc)
}

#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn moment<D: sql::Dialect>(row: &QueryResult, column: &str) -> Result<Timestamp, DbErr> {
    <D::Driver as sql::Driver>::moment(row, column)
}
