//! Telling what tables are there before anything is made beside them: they are adopted, or refused by name.

use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityName, EntityTrait, IdenStatic, Iterable, QueryFilter,
    Statement,
};
use sea_orm_migration::SchemaManager;
use seabed_core::entity::adk_internal_metadata::{self, SCHEMA_VERSION, SCHEMA_VERSION_KEY};
use seabed_core::entity::{app_states, events, sessions, user_states};

/// The column of `events` that only google-adk's schema v0 has: actions pickled by Python.
const V0_COLUMN: &str = "actions";

/// Refuses tables that are not google-adk's v1, so that none of them is taken for what it is not.
pub(crate) async fn check(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    if manager.has_table(adk_internal_metadata::Entity.table_name()).await? {
        return check_version(manager.get_connection()).await;
    }
    let events = events::Entity.table_name();
    if manager.has_table(events).await? {
        if manager.has_column(events, V0_COLUMN).await? {
            return Err(refusal("the tables are of google-adk's schema v0; upgrade them to v1 first"));
        }
        if keeps_times_as_numbers(manager.get_connection()).await? {
            return Err(refusal("the tables are those of google-adk's SqliteSessionService, whose times are numbers"));
        }
    }
    check_columns(manager, sessions::Entity).await?;
    check_columns(manager, events::Entity).await?;
    check_columns(manager, app_states::Entity).await?;
    check_columns(manager, user_states::Entity).await
}

async fn check_version(connection: &impl ConnectionTrait) -> Result<(), DbErr> {
    let row = adk_internal_metadata::Entity::find()
        .filter(adk_internal_metadata::Column::Key.eq(SCHEMA_VERSION_KEY))
        .one(connection)
        .await?;
    match row {
        Some(row) if row.value == SCHEMA_VERSION => Ok(()),
        Some(row) => Err(refusal(format!(
            "the tables are of schema version {:?}, this release knows version {SCHEMA_VERSION:?} only",
            row.value
        ))),
        None => {
            Err(refusal(format!("adk_internal_metadata has no {SCHEMA_VERSION_KEY}, so the tables cannot be told")))
        }
    }
}

/// google-adk has two stores on SQLite. Their columns bear the same names; only the types tell them apart.
async fn keeps_times_as_numbers(connection: &impl ConnectionTrait) -> Result<bool, DbErr> {
    if connection.get_database_backend() != DbBackend::Sqlite {
        return Ok(false);
    }
    let column_type = Statement::from_sql_and_values(
        DbBackend::Sqlite,
        "SELECT type FROM pragma_table_info(?) WHERE name = ?",
        [events::Entity.table_name().into(), events::Column::Timestamp.as_str().into()],
    );
    let row = connection.query_one_raw(column_type).await?;
    let column_type: Option<String> = row.map(|row| row.try_get("", "type")).transpose()?;
    Ok(column_type.is_some_and(|name| name.eq_ignore_ascii_case("REAL")))
}

/// A table that is there must have every column of the entity.
async fn check_columns<E: EntityTrait>(manager: &SchemaManager<'_>, table: E) -> Result<(), DbErr> {
    let table = table.table_name();
    if !manager.has_table(table).await? {
        return Ok(());
    }
    for column in E::Column::iter() {
        if !manager.has_column(table, column.as_str()).await? {
            let column = column.as_str();
            return Err(refusal(format!("table {table} has no column {column}: it is not google-adk's schema v1")));
        }
    }
    Ok(())
}

fn refusal(reason: impl Into<String>) -> DbErr {
    DbErr::Migration(format!("{}; nothing was changed", reason.into()))
}
