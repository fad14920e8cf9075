//! google-adk's schema v1 as DDL. Pure: the statements that run are also the ones printed for running by hand.

use sea_orm::sea_query::{
    ColumnDef, ForeignKey, ForeignKeyAction, Index, IndexOrder, IntoIden, OnConflict, Query, Table,
    TableCreateStatement,
};
use sea_orm::{ConnectionTrait, DbErr, EntityName, EntityTrait, IdenStatic, Iterable, PrimaryKeyToColumn};
use seabed_core::entity::adk_internal_metadata::{SCHEMA_VERSION, SCHEMA_VERSION_KEY};
use seabed_core::entity::{
    adk_internal_metadata, app_states, events, seabed_labels, seabed_sessions, sessions, user_states,
};
use seabed_core::sql::own_table_names;

use crate::execute;
use crate::spec::{Database, SchemaSpec};

/// An index, as on google-adk's own tables.
pub(crate) struct IndexSpec {
    pub(crate) name: &'static str,
    pub(crate) table: &'static str,
    pub(crate) columns: &'static [(&'static str, IndexOrder)],
}

const EVENTS_INDEX: IndexSpec = IndexSpec {
    name: "idx_events_app_user_session_ts_id",
    table: "events",
    columns: &[
        ("app_name", IndexOrder::Asc),
        ("user_id", IndexOrder::Asc),
        ("session_id", IndexOrder::Asc),
        ("timestamp", IndexOrder::Desc),
        ("id", IndexOrder::Desc),
    ],
};

const UPDATE_TIME_INDEX: IndexSpec = IndexSpec {
    name: "seabed_sessions_update_time",
    table: "sessions",
    columns: &[
        ("app_name", IndexOrder::Asc),
        ("update_time", IndexOrder::Asc),
        ("user_id", IndexOrder::Asc),
        ("id", IndexOrder::Asc),
    ],
};

/// Creates the missing tables.
///
/// # Errors
/// Those of the database.
pub(crate) async fn create_missing(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<(), DbErr> {
    execute(connection, create_sessions_and_states(spec)).await?;
    let collation = sessions_collation(connection, spec).await?;
    execute(connection, create_events(spec, collation.as_deref())).await
}

/// Returns the statements of [`create_missing`].
///
/// # Errors
/// Those of the database.
pub(crate) async fn create_missing_sql(
    connection: &impl ConnectionTrait,
    spec: &SchemaSpec,
) -> Result<Vec<String>, DbErr> {
    Ok(create(spec, sessions_collation(connection, spec).await?.as_deref()))
}

/// Returns the statements that create google-adk's tables, those for `events` with the collation of the table
/// `sessions` if that exists.
pub(crate) fn create(spec: &SchemaSpec, sessions_collation: Option<&str>) -> Vec<String> {
    [create_sessions_and_states(spec), create_events(spec, sessions_collation)].concat()
}

/// The collation of the ids of sessions, if the table exists: google-adk may have created it. MySQL and MariaDB allow a
/// foreign key only between columns of one collation.
pub(crate) async fn sessions_collation(
    connection: &impl ConnectionTrait,
    spec: &SchemaSpec,
) -> Result<Option<String>, DbErr> {
    let columns = spec.columns_of_tables(connection, &[sessions::Entity.table_name()]).await?;
    Ok(columns.into_iter().find(|column| column.column_name == "id").and_then(|column| column.collation))
}

/// Creates the tables that refer to no other. On PostgreSQL this is the order of google-adk's first start: it may run
/// at the same time, and two transactions that wait for each other's tables would be a deadlock.
fn create_sessions_and_states(spec: &SchemaSpec) -> Vec<String> {
    use {app_states::Column as App, user_states::Column as User};
    let app_states = table(spec, app_states::Entity, spec.id_collation)
        .col(id(App::AppName))
        .col(json(spec, App::State).not_null())
        .col(timestamp(spec, App::UpdateTime))
        .primary_key(Index::create().col(App::AppName))
        .take();
    let user_states = table(spec, user_states::Entity, spec.id_collation)
        .col(id(User::AppName))
        .col(id(User::UserId))
        .col(json(spec, User::State).not_null())
        .col(timestamp(spec, User::UpdateTime))
        .primary_key(Index::create().col(User::AppName).col(User::UserId))
        .take();
    let tables = [app_states, sessions(spec), user_states].iter().map(|table| spec.build(table)).collect();
    match spec.database {
        Database::Postgres => [metadata(spec), tables].concat(),
        Database::MySql | Database::Sqlite => tables,
    }
}

/// Creates `events` and its index; and the table for the version, where it comes last.
fn create_events(spec: &SchemaSpec, sessions_collation: Option<&str>) -> Vec<String> {
    let mut events = events(spec, sessions_collation);
    match spec.database {
        // MySQL has no CREATE INDEX IF NOT EXISTS, but can create an index together with its table.
        Database::MySql => {
            let mut index = Index::create();
            index.name(spec.name(EVENTS_INDEX.name));
            for (column, order) in EVENTS_INDEX.columns {
                index.col((*column, order.clone()));
            }
            [vec![spec.build(events.index(&mut index))], metadata(spec)].concat()
        }
        Database::Postgres => vec![spec.build(&events), create_index(spec, "INDEX IF NOT EXISTS", &EVENTS_INDEX)],
        Database::Sqlite => {
            let create_events = vec![spec.build(&events), create_index(spec, "INDEX IF NOT EXISTS", &EVENTS_INDEX)];
            [create_events, metadata(spec)].concat()
        }
    }
}

fn sessions(spec: &SchemaSpec) -> TableCreateStatement {
    use sessions::Column;
    table(spec, sessions::Entity, spec.id_collation)
        .col(id(Column::AppName))
        .col(id(Column::UserId))
        .col(id(Column::Id))
        .col(json(spec, Column::State).not_null())
        .col(timestamp(spec, Column::CreateTime))
        .col(timestamp(spec, Column::UpdateTime))
        .primary_key(Index::create().col(Column::AppName).col(Column::UserId).col(Column::Id))
        .take()
}

fn events(spec: &SchemaSpec, sessions_collation: Option<&str>) -> TableCreateStatement {
    use {events::Column, sessions::Column as Session};
    table(spec, events::Entity, spec.id_collation.map(|exact| sessions_collation.unwrap_or(exact)))
        .col(id(Column::Id))
        .col(id(Column::AppName))
        .col(id(Column::UserId))
        .col(id(Column::SessionId))
        .col(ColumnDef::new(Column::InvocationId).string_len(256).not_null())
        .col(timestamp(spec, Column::Timestamp))
        .col(json(spec, Column::EventData))
        .primary_key(Index::create().col(Column::Id).col(Column::AppName).col(Column::UserId).col(Column::SessionId))
        .foreign_key(
            ForeignKey::create()
                .from(spec.sibling_ref("events"), (Column::AppName, Column::UserId, Column::SessionId))
                .to(spec.sibling_ref("sessions"), (Session::AppName, Session::UserId, Session::Id))
                .on_delete(ForeignKeyAction::Cascade),
        )
        .take()
}

/// Creates the metadata table together with its row: google-adk treats a database with the table but without the
/// version as broken. Where DDL commits implicitly, one statement creates both, and does so last.
fn metadata(spec: &SchemaSpec) -> Vec<String> {
    use adk_internal_metadata::Column;
    let table = table(spec, adk_internal_metadata::Entity, spec.id_collation)
        .col(id(Column::Key))
        .col(ColumnDef::new(Column::Value).string_len(256).not_null())
        .primary_key(Index::create().col(Column::Key))
        .take();
    let table = spec.build(&table);
    match spec.database {
        Database::MySql => {
            let row = Query::select()
                .expr_as(SCHEMA_VERSION_KEY, Column::Key.into_iden())
                .expr_as(SCHEMA_VERSION, Column::Value.into_iden())
                .take();
            vec![format!("{table} AS {}", spec.build(&row))]
        }
        Database::Postgres | Database::Sqlite => vec![table, insert_version(spec)],
    }
}

/// Returns the statement that stores the version, unless there is one.
pub(crate) fn insert_version(spec: &SchemaSpec) -> String {
    use adk_internal_metadata::Column;
    let row = Query::insert()
        .into_table(spec.tables.table(adk_internal_metadata::Entity))
        .columns([Column::Key, Column::Value])
        .values_panic([SCHEMA_VERSION_KEY.into(), SCHEMA_VERSION.into()])
        .on_conflict(OnConflict::column(Column::Key).do_nothing_on([Column::Key]).to_owned())
        .take();
    spec.build(&row)
}

/// The tables and the columns of their primary keys, Seabed's own last.
pub(crate) fn primary_keys() -> [(&'static str, Vec<&'static str>); 7] {
    fn of<E: EntityTrait>(table: E) -> (&'static str, Vec<&'static str>) {
        (table.table_name(), E::PrimaryKey::iter().map(|key| key.into_column().as_str()).collect())
    }
    [
        of(adk_internal_metadata::Entity),
        of(app_states::Entity),
        of(user_states::Entity),
        of(sessions::Entity),
        of(events::Entity),
        of(seabed_sessions::Entity),
        of(seabed_labels::Entity),
    ]
}

/// Whether a column may be null.
pub(crate) fn is_nullable(table: &str, column: &str) -> bool {
    const OF_ANNOTATIONS: [&str; 6] =
        ["title", "labels", "initial_state", "parent_session_id", "parent_event_id", "held_since"];
    match table {
        "events" => column == "event_data",
        "seabed_sessions" => OF_ANNOTATIONS.contains(&column),
        _ => false,
    }
}

/// SQLite takes the schema before the index's name, the others before the table's.
pub(crate) fn create_index(spec: &SchemaSpec, what: &str, index: &IndexSpec) -> String {
    let (name, table) = match spec.database {
        Database::Sqlite => (spec.full_name(index.name), spec.quote(&spec.name(index.table))),
        Database::Postgres | Database::MySql => (spec.quote(&spec.name(index.name)), spec.full_name(index.table)),
    };
    let column = |(column, order): &(&str, IndexOrder)| {
        let order = if matches!(order, IndexOrder::Desc) { " DESC" } else { "" };
        format!("{}{order}", spec.quote(column))
    };
    let columns: Vec<String> = index.columns.iter().map(column).collect();
    format!("CREATE {what} {name} ON {table} ({})", columns.join(", "))
}

/// Returns the statement that creates google-adk's index on `events`.
pub(crate) fn create_events_index(spec: &SchemaSpec) -> String {
    create_index(spec, "INDEX", &EVENTS_INDEX)
}

/// Returns the statements that drop that index where index names are unique in a schema, because a renamed table would
/// keep the name in use.
#[cfg(feature = "transfer")]
pub(crate) fn drop_events_index(spec: &SchemaSpec) -> Vec<String> {
    match spec.database {
        Database::Postgres | Database::Sqlite => {
            vec![format!("DROP INDEX IF EXISTS {}", spec.full_name(EVENTS_INDEX.name))]
        }
        Database::MySql => Vec::new(),
    }
}

/// The tables, dependents first: Seabed's own, then google-adk's.
pub(crate) fn tables() -> [&'static str; 7] {
    [
        seabed_labels::Entity.table_name(),
        seabed_sessions::Entity.table_name(),
        adk_internal_metadata::Entity.table_name(),
        events::Entity.table_name(),
        sessions::Entity.table_name(),
        user_states::Entity.table_name(),
        app_states::Entity.table_name(),
    ]
}

/// Whether one of google-adk's tables is missing.
pub(crate) async fn is_table_missing(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<bool, DbErr> {
    let columns = spec.columns(connection).await?;
    let mut tables = tables().into_iter().filter(|table| !own_table_names().contains(table));
    Ok(tables.any(|table| columns.iter().all(|column| column.table_name != table)))
}

/// Returns the statements that drop the tables.
pub(crate) fn drop(spec: &SchemaSpec) -> Vec<String> {
    tables().map(|table| format!("DROP TABLE IF EXISTS {}", spec.full_name(table))).into()
}

/// Returns the statement that creates the index of [`UpOptions`](crate::UpOptions).
pub(crate) fn update_time_index(spec: &SchemaSpec) -> String {
    create_index(spec, "INDEX", &UPDATE_TIME_INDEX)
}

pub(crate) async fn has_update_time_index(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<bool, DbErr> {
    let (table, index) = (UPDATE_TIME_INDEX.table, spec.name(UPDATE_TIME_INDEX.name));
    let query = match spec.database {
        Database::Postgres => format!(
            "SELECT 1 FROM pg_catalog.pg_index JOIN pg_catalog.pg_class ON pg_class.oid = indexrelid \
             WHERE indrelid = CAST(pg_catalog.to_regclass('{}') AS oid) AND relname = '{index}'",
            spec.full_name(table)
        ),
        Database::MySql => format!(
            "SELECT 1 FROM information_schema.statistics \
             WHERE table_schema = {} AND table_name = '{}' AND index_name = '{index}'",
            spec.catalog_schema(),
            spec.name(table)
        ),
        Database::Sqlite => format!(
            "SELECT 1 FROM pragma_index_list('{}', {}) WHERE name = '{index}'",
            spec.name(table),
            spec.catalog_schema()
        ),
    };
    Ok(connection.query_one_raw(spec.query(query)).await?.is_some())
}

pub(crate) fn table(spec: &SchemaSpec, table: impl EntityTrait, collation: Option<&str>) -> TableCreateStatement {
    let mut create = Table::create();
    create.table(spec.tables.table(table)).if_not_exists();
    if let Some(collation) = collation {
        // The name of a collation begins with its character set.
        let character_set = collation.split('_').next().unwrap_or_default();
        create.engine("InnoDB").character_set(character_set).collate(collation);
    }
    create
}

pub(crate) fn id(column: impl IntoIden) -> ColumnDef {
    ColumnDef::new(column).string_len(128).not_null().take()
}

pub(crate) fn json(spec: &SchemaSpec, column: impl IntoIden) -> ColumnDef {
    ColumnDef::new(column).custom(spec.dialect.json_type()).take()
}

pub(crate) fn timestamp(spec: &SchemaSpec, column: impl IntoIden) -> ColumnDef {
    ColumnDef::new(column).custom(spec.dialect.timestamp_type()).not_null().take()
}

#[cfg(all(test, feature = "postgres", feature = "mysql", feature = "sqlite"))]
mod tests {
    use sea_orm::DbBackend;
    use seabed_core::sql::Tables;

    use super::*;
    use crate::own_tables;

    #[test]
    fn every_statement_names_the_schema_and_the_prefix() {
        let tables = Tables::new().with_schema("agents").with_prefix("bot_");
        for backend in [DbBackend::Postgres, DbBackend::MySql, DbBackend::Sqlite] {
            let spec = SchemaSpec::new(backend, "", &tables).expect("a dialect");
            let full = format!("{}.", spec.quote("agents"));
            let created = [create(&spec, None), own_tables::create(&spec, None)].concat();
            let statements = [created, vec![update_time_index(&spec)], drop(&spec)].concat();
            assert!(statements.iter().all(|statement| statement.contains(&full)), "{statements:#?}");
            // No table and no index has its plain name.
            let plain: Vec<String> = tables_and_indexes().into_iter().map(|name| spec.quote(name)).collect();
            let is_plain = |statement: &String| plain.iter().any(|name| statement.contains(name));
            assert!(!statements.iter().any(is_plain), "{statements:#?}");
            let references: Vec<_> =
                statements.iter().filter_map(|statement| Some(statement.split_once("REFERENCES ")?.1)).collect();
            let sessions = match spec.database {
                Database::Postgres => spec.full_name("sessions"),
                Database::MySql | Database::Sqlite => spec.quote("bot_sessions"),
            };
            assert_eq!(references.len(), 3);
            assert!(references.iter().all(|after| after.starts_with(&sessions)), "{references:?}");
        }
    }

    fn tables_and_indexes() -> Vec<&'static str> {
        let indexes = [EVENTS_INDEX, UPDATE_TIME_INDEX, own_tables::LABELS_INDEX].map(|index| index.name);
        super::tables().into_iter().chain(indexes).collect()
    }
}
