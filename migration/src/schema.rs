//! google-adk's schema v1 as DDL. Pure: the statements that run are also the ones printed for running by hand.

use sea_orm::sea_query::{
    Alias, ColumnDef, ForeignKey, ForeignKeyAction, Index, IndexCreateStatement, IndexOrder, IntoIden, OnConflict,
    Query, Table, TableCreateStatement,
};
use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, EntityName, EntityTrait, IdenStatic, Iterable, PrimaryKeyToColumn, Statement,
};
use sea_orm_migration::SchemaManager;
use seabed_core::entity::adk_internal_metadata::{SCHEMA_VERSION, SCHEMA_VERSION_KEY};
use seabed_core::entity::{adk_internal_metadata, app_states, events, sessions, user_states};
use seabed_core::sql::{self, Column, SchemaDialect, Tables};

const EVENTS_INDEX: &str = "idx_events_app_user_session_ts_id";
const UPDATE_TIME_INDEX: &str = "seabed_sessions_update_time";

/// Databases whose DDL differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavor {
    Postgres,
    MySql,
    MariaDb,
    Sqlite,
}

/// How the database of `connection` describes and spells its schema.
///
/// # Errors
/// For a database whose feature is not enabled.
pub(crate) fn dialect_of(connection: &impl ConnectionTrait) -> Result<&'static dyn SchemaDialect, DbErr> {
    match connection.get_database_backend() {
        #[cfg(feature = "postgres")]
        DbBackend::Postgres => Ok(<seabed_postgres::Postgres as seabed_core::sql::Dialect>::SCHEMA),
        #[cfg(feature = "mysql")]
        DbBackend::MySql => Ok(<seabed_mysql::MySql as seabed_core::sql::Dialect>::SCHEMA),
        #[cfg(feature = "sqlite")]
        DbBackend::Sqlite => Ok(<seabed_sqlite::Sqlite as seabed_core::sql::Dialect>::SCHEMA),
        other => {
            let message = format!("{other:?} is not among the databases that this build of seabed-migration supports");
            Err(DbErr::Migration(message))
        }
    }
}

/// The columns of those of the tables that exist.
///
/// # Errors
/// Those of the database.
pub(crate) async fn columns(connection: &impl ConnectionTrait) -> Result<Vec<Column>, DbErr> {
    sql::columns(connection, dialect_of(connection)?, &Tables::new()).await
}

/// Like [`columns`], for tables of other names.
///
/// # Errors
/// Those of the database.
#[cfg(feature = "transfer")]
pub(crate) async fn columns_of_tables(connection: &impl ConnectionTrait, names: &[&str]) -> Result<Vec<Column>, DbErr> {
    sql::columns_of_tables(connection, dialect_of(connection)?, &Tables::new(), names).await
}

impl Flavor {
    pub(crate) async fn of(connection: &impl ConnectionTrait) -> Result<Self, DbErr> {
        let backend = connection.get_database_backend();
        match backend {
            DbBackend::Postgres => Ok(Self::Postgres),
            DbBackend::Sqlite => Ok(Self::Sqlite),
            DbBackend::MySql => {
                let version = Statement::from_string(backend, "SELECT VERSION() AS version");
                let row = connection.query_one_raw(version).await?;
                let version: Option<String> = row.map(|row| row.try_get("", "version")).transpose()?;
                let maria_db = version.is_some_and(|version| version.contains("MariaDB"));
                Ok(if maria_db { Self::MariaDb } else { Self::MySql })
            }
            other => Err(DbErr::Migration(format!("{other:?} is not a database that Seabed knows"))),
        }
    }

    fn backend(self) -> DbBackend {
        match self {
            Self::Postgres => DbBackend::Postgres,
            Self::MySql | Self::MariaDb => DbBackend::MySql,
            Self::Sqlite => DbBackend::Sqlite,
        }
    }

    /// Quotes an identifier for SQL.
    pub(crate) fn quote(self, name: &str) -> String {
        let quote = if self.backend() == DbBackend::MySql { '`' } else { '"' };
        let doubled = name.replace(quote, &format!("{quote}{quote}"));
        format!("{quote}{doubled}{quote}")
    }

    /// A binary collation without padding: `utf8mb4_bin` would still treat `bob` and `bob␠` as equal. `None` where ids
    /// are compared byte for byte anyway.
    pub(crate) fn collation(self) -> Option<&'static str> {
        match self {
            Self::MySql => Some("utf8mb4_0900_bin"),
            Self::MariaDb => Some("utf8mb4_nopad_bin"),
            Self::Postgres | Self::Sqlite => None,
        }
    }

    pub(crate) fn json_type(self) -> &'static str {
        match self {
            Self::Postgres => "jsonb",
            Self::MySql | Self::MariaDb => "longtext",
            Self::Sqlite => "TEXT",
        }
    }

    pub(crate) fn timestamp_type(self) -> &'static str {
        match self {
            Self::Postgres => "timestamp without time zone",
            Self::MySql | Self::MariaDb => "datetime(6)",
            Self::Sqlite => "DATETIME",
        }
    }
}

/// Returns the statements that create the missing tables.
pub(crate) fn create(flavor: Flavor) -> Vec<String> {
    use {app_states::Column as App, user_states::Column as User};
    let backend = flavor.backend();
    let app_states = table(flavor, app_states::Entity)
        .col(id(App::AppName))
        .col(json(flavor, App::State).not_null())
        .col(timestamp(flavor, App::UpdateTime))
        .primary_key(Index::create().col(App::AppName))
        .take();
    let user_states = table(flavor, user_states::Entity)
        .col(id(User::AppName))
        .col(id(User::UserId))
        .col(json(flavor, User::State).not_null())
        .col(timestamp(flavor, User::UpdateTime))
        .primary_key(Index::create().col(User::AppName).col(User::UserId))
        .take();
    let mut statements: Vec<String> =
        [sessions(flavor), app_states, user_states].iter().map(|table| backend.build(table).to_string()).collect();
    let mut events = events(flavor);
    let mut index = events_index();
    if backend == DbBackend::MySql {
        // MySQL has no CREATE INDEX IF NOT EXISTS, but can create an index together with its table.
        events.index(&mut index);
        statements.push(backend.build(&events).to_string());
    } else {
        statements.push(backend.build(&events).to_string());
        statements.push(backend.build(index.table(events::Entity).if_not_exists()).to_string());
    }
    statements.extend(metadata(flavor));
    statements
}

fn sessions(flavor: Flavor) -> TableCreateStatement {
    use sessions::Column;
    table(flavor, sessions::Entity)
        .col(id(Column::AppName))
        .col(id(Column::UserId))
        .col(id(Column::Id))
        .col(json(flavor, Column::State).not_null())
        .col(timestamp(flavor, Column::CreateTime))
        .col(timestamp(flavor, Column::UpdateTime))
        .primary_key(Index::create().col(Column::AppName).col(Column::UserId).col(Column::Id))
        .take()
}

fn events(flavor: Flavor) -> TableCreateStatement {
    use {events::Column, sessions::Column as Session};
    table(flavor, events::Entity)
        .col(id(Column::Id))
        .col(id(Column::AppName))
        .col(id(Column::UserId))
        .col(id(Column::SessionId))
        .col(ColumnDef::new(Column::InvocationId).string_len(256).not_null())
        .col(timestamp(flavor, Column::Timestamp))
        .col(json(flavor, Column::EventData))
        .primary_key(Index::create().col(Column::Id).col(Column::AppName).col(Column::UserId).col(Column::SessionId))
        .foreign_key(
            ForeignKey::create()
                .from(events::Entity, (Column::AppName, Column::UserId, Column::SessionId))
                .to(sessions::Entity, (Session::AppName, Session::UserId, Session::Id))
                .on_delete(ForeignKeyAction::Cascade),
        )
        .take()
}

fn events_index() -> IndexCreateStatement {
    use events::Column;
    Index::create()
        .name(EVENTS_INDEX)
        .col(Column::AppName)
        .col(Column::UserId)
        .col(Column::SessionId)
        .col((Column::Timestamp, IndexOrder::Desc))
        .col((Column::Id, IndexOrder::Desc))
        .take()
}

/// Creates the metadata table last, and together with its row: google-adk treats a database with the table but without
/// the version as broken. Where DDL commits implicitly, one statement creates both.
fn metadata(flavor: Flavor) -> Vec<String> {
    use adk_internal_metadata::Column;
    let backend = flavor.backend();
    let table = table(flavor, adk_internal_metadata::Entity)
        .col(id(Column::Key))
        .col(ColumnDef::new(Column::Value).string_len(256).not_null())
        .primary_key(Index::create().col(Column::Key))
        .take();
    let table = backend.build(&table).to_string();
    if backend == DbBackend::MySql {
        let row = Query::select()
            .expr_as(SCHEMA_VERSION_KEY, Column::Key.into_iden())
            .expr_as(SCHEMA_VERSION, Column::Value.into_iden())
            .take();
        return vec![format!("{table} AS {}", backend.build(&row))];
    }
    let row = Query::insert()
        .into_table(adk_internal_metadata::Entity)
        .columns([Column::Key, Column::Value])
        .values_panic([SCHEMA_VERSION_KEY.into(), SCHEMA_VERSION.into()])
        .on_conflict(OnConflict::column(Column::Key).do_nothing().to_owned())
        .take();
    vec![table, backend.build(&row).to_string()]
}

/// The tables and the columns of their primary keys.
pub(crate) fn primary_keys() -> [(&'static str, Vec<&'static str>); 5] {
    fn of<E: EntityTrait>(table: E) -> (&'static str, Vec<&'static str>) {
        (table.table_name(), E::PrimaryKey::iter().map(|key| key.into_column().as_str()).collect())
    }
    [
        of(adk_internal_metadata::Entity),
        of(app_states::Entity),
        of(user_states::Entity),
        of(sessions::Entity),
        of(events::Entity),
    ]
}

/// Returns the statement that creates google-adk's index on `events`.
pub(crate) fn create_events_index(flavor: Flavor) -> String {
    flavor.backend().build(events_index().table(events::Entity)).to_string()
}

/// Returns the statements that drop that index where index names are unique in the whole database, because a renamed
/// table would keep the name in use.
#[cfg(feature = "transfer")]
pub(crate) fn drop_events_index(flavor: Flavor) -> Vec<String> {
    match flavor {
        Flavor::Postgres | Flavor::Sqlite => vec![format!("DROP INDEX IF EXISTS {EVENTS_INDEX}")],
        Flavor::MySql | Flavor::MariaDb => Vec::new(),
    }
}

/// The tables, dependents first.
pub(crate) fn tables() -> [&'static str; 5] {
    [
        adk_internal_metadata::Entity.table_name(),
        events::Entity.table_name(),
        sessions::Entity.table_name(),
        user_states::Entity.table_name(),
        app_states::Entity.table_name(),
    ]
}

pub(crate) async fn is_table_missing(manager: &SchemaManager<'_>) -> Result<bool, DbErr> {
    for table in tables() {
        if !manager.has_table(table).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the statements that drop the tables.
pub(crate) fn drop(flavor: Flavor) -> Vec<String> {
    let backend = flavor.backend();
    tables().map(|table| backend.build(Table::drop().table(Alias::new(table)).if_exists()).to_string()).into()
}

/// Returns the statement that creates the index of [`UpOptions`](crate::UpOptions).
pub(crate) fn update_time_index(flavor: Flavor) -> String {
    use sessions::Column;
    let index = Index::create()
        .name(UPDATE_TIME_INDEX)
        .table(sessions::Entity)
        .col(Column::AppName)
        .col(Column::UpdateTime)
        .col(Column::UserId)
        .col(Column::Id)
        .take();
    flavor.backend().build(&index).to_string()
}

pub(crate) async fn has_update_time_index(manager: &SchemaManager<'_>) -> Result<bool, DbErr> {
    manager.has_index(sessions::Entity.table_name(), UPDATE_TIME_INDEX).await
}

fn table(flavor: Flavor, table: impl EntityTrait) -> TableCreateStatement {
    let mut create = Table::create();
    create.table(table).if_not_exists();
    if let Some(collation) = flavor.collation() {
        create.engine("InnoDB").character_set("utf8mb4").collate(collation);
    }
    create
}

fn id(column: impl IntoIden) -> ColumnDef {
    ColumnDef::new(column).string_len(128).not_null().take()
}

fn json(flavor: Flavor, column: impl IntoIden) -> ColumnDef {
    ColumnDef::new(column).custom(flavor.json_type()).take()
}

fn timestamp(flavor: Flavor, column: impl IntoIden) -> ColumnDef {
    ColumnDef::new(column).custom(flavor.timestamp_type()).not_null().take()
}
