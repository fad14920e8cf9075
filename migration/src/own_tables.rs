//! Seabed's own tables as DDL: `seabed_sessions` and `seabed_labels`. They stand beside google-adk's, which does not
//! notice them, and a row of theirs is deleted with its session.

use sea_orm::sea_query::{ColumnDef, ForeignKey, ForeignKeyAction, Index, IndexOrder, IntoIden, TableCreateStatement};
use sea_orm::{ConnectionTrait, DbErr};
use sea_orm_migration::{MigrationName, MigrationTrait, SchemaManager};
use seabed_core::entity::{seabed_labels, seabed_sessions, sessions};
use seabed_core::sql::{Tables, own_table_names};

use crate::location::located;
use crate::schema::{IndexSpec, create_index, id, json, sessions_collation, table, timestamp};
use crate::spec::{Database, SchemaSpec};
#[cfg(feature = "transfer")]
use crate::spec::{is_denied, is_unknown_table};
use crate::{execute, layout};

const LABELS: &str = "seabed_labels";

/// Finds sessions by a label. The primary key finds the labels of a session.
pub(crate) const LABELS_INDEX: IndexSpec = IndexSpec {
    name: "seabed_labels_by_value",
    table: LABELS,
    columns: &[
        ("app_name", IndexOrder::Asc),
        ("name", IndexOrder::Asc),
        ("value", IndexOrder::Asc),
        ("user_id", IndexOrder::Asc),
        ("session_id", IndexOrder::Asc),
    ],
};

/// The second migration.
pub(crate) struct Migration {
    pub(crate) tables: Tables,
}

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0002_seabed_sessions"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        let spec = located(connection, &SchemaSpec::of(connection, &self.tables).await?).await?;
        layout::check(connection, &spec).await?;
        execute(connection, create_sql(connection, &spec).await?).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        let spec = located(connection, &SchemaSpec::of(connection, &self.tables).await?).await?;
        execute(connection, drop(&spec)).await
    }
}

/// Which of the tables exist.
///
/// # Errors
/// Those of the database.
pub(crate) async fn existing(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Vec<&'static str>, DbErr> {
    let columns = spec.columns_of_tables(connection, &own_table_names()).await?;
    let exists = |table: &&'static str| columns.iter().any(|column| column.table_name == **table);
    Ok(own_table_names().into_iter().filter(exists).collect())
}

/// Which of the tables do not exist.
///
/// # Errors
/// Those of the database.
pub(crate) async fn missing(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Vec<&'static str>, DbErr> {
    let existing = existing(connection, spec).await?;
    Ok(own_table_names().into_iter().filter(|table| !existing.contains(table)).collect())
}

pub(crate) async fn is_missing(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<bool, DbErr> {
    Ok(!missing(connection, spec).await?.is_empty())
}

/// What an account can say of the titles that a database has.
#[cfg(feature = "transfer")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Titles {
    Readable,
    /// There is no table of them.
    Absent,
    /// The account may not read their table, if there is one: MySQL does not say to an account with rights on single
    /// tables which others exist.
    Hidden,
}

/// Whether titles can be read.
///
/// # Errors
/// Those of the database.
#[cfg(feature = "transfer")]
pub(crate) async fn titles(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Titles, DbErr> {
    const TABLE: &str = "seabed_sessions";
    let is_listed = existing(connection, spec).await?.contains(&TABLE);
    match spec.database {
        Database::Sqlite => Ok(if is_listed { Titles::Readable } else { Titles::Absent }),
        Database::Postgres if !is_listed => Ok(Titles::Absent),
        // A statement that fails would end the transaction.
        Database::Postgres => {
            let name = spec.full_name(TABLE).replace('\'', "''");
            let query = format!("SELECT pg_catalog.has_table_privilege('{name}', 'SELECT') AS is_readable");
            let row = connection.query_one_raw(spec.query(query)).await?;
            let is_readable = row.map(|row| row.try_get("", "is_readable")).transpose()?.unwrap_or_default();
            Ok(if is_readable { Titles::Readable } else { Titles::Hidden })
        }
        Database::MySql => {
            let select = format!("SELECT 1 FROM {} LIMIT 0", spec.full_name(TABLE));
            match connection.execute_unprepared(&select).await {
                Ok(_) => Ok(Titles::Readable),
                Err(error) if is_unknown_table(&error) => Ok(Titles::Absent),
                Err(error) if is_denied(&error) => Ok(Titles::Hidden),
                Err(error) => Err(error),
            }
        }
    }
}

/// Returns the statements that create the tables beside a table `sessions`, if it exists with its collation. A table of
/// labels that alone is missing gets the labels that `seabed_sessions` has.
///
/// # Errors
/// Those of the database.
pub(crate) async fn create_sql(connection: &impl ConnectionTrait, spec: &SchemaSpec) -> Result<Vec<String>, DbErr> {
    let statements = create(spec, sessions_collation(connection, spec).await?.as_deref());
    let labels = spec.full_name(LABELS);
    if missing(connection, spec).await? != [LABELS] {
        return Ok(statements);
    }
    if spec.database != Database::MySql {
        return Ok([statements, vec![fill_labels(spec, &labels)]].concat());
    }
    // Each statement commits, so the table gets its name when it is full.
    let draft = spec.full_name("seabed_labels_draft");
    let create = statements.into_iter().map(|statement| statement.replacen(&labels, &draft, 1));
    let drop = [format!("DROP TABLE IF EXISTS {draft}")];
    let finish = [fill_labels(spec, &draft), format!("RENAME TABLE {draft} TO {labels}")];
    Ok(drop.into_iter().chain(create).chain(finish).collect())
}

/// Returns the statement that inserts the labels of all sessions. Labels that cannot be decoded are left out: `verify`
/// names them.
fn fill_labels(spec: &SchemaSpec, labels: &str) -> String {
    let [annotations, sessions] = ["seabed_sessions", "sessions"].map(|table| spec.full_name(table));
    let (name, value, each) = match spec.database {
        Database::Postgres => (
            "l.key",
            "l.value",
            "pg_catalog.jsonb_each_text(CASE pg_catalog.jsonb_typeof(s.labels) WHEN 'object' THEN s.labels END)",
        ),
        Database::MySql => (
            "l.name",
            "JSON_UNQUOTE(JSON_EXTRACT(s.labels, CONCAT('$.', JSON_QUOTE(l.name))))",
            "JSON_TABLE(CASE WHEN JSON_VALID(s.labels) THEN JSON_KEYS(s.labels) END, \
             '$[*]' COLUMNS (name VARCHAR(64) PATH '$'))",
        ),
        Database::Sqlite => (
            "l.key",
            "l.value",
            "json_each(CASE WHEN json_valid(s.labels) THEN CASE json_type(s.labels) WHEN 'object' THEN s.labels END END)",
        ),
    };
    let length = if spec.database == Database::MySql { "CHAR_LENGTH" } else { "length" };
    format!(
        "INSERT INTO {labels} (app_name, user_id, session_id, name, value) \
         SELECT s.app_name, s.user_id, s.session_id, {name}, {value} FROM {annotations} AS s CROSS JOIN {each} AS l \
         WHERE {length}({name}) <= {MAX_NAME} AND {length}({value}) <= {MAX_VALUE} AND EXISTS (SELECT 1 FROM {sessions} AS t \
         WHERE t.app_name = s.app_name AND t.user_id = s.user_id AND t.id = s.session_id)"
    )
}

/// The lengths of a label's name and value, in characters.
const MAX_NAME: u32 = 64;
const MAX_VALUE: u32 = 128;

/// Returns the statements that create the tables, with the collation of the ids in `sessions`.
pub(crate) fn create(spec: &SchemaSpec, sessions_collation: Option<&str>) -> Vec<String> {
    let collation = spec.id_collation.map(|exact| sessions_collation.unwrap_or(exact));
    let (annotations, mut labels) = (annotations(spec, collation), labels(spec, collation));
    match spec.database {
        // MySQL has no CREATE INDEX IF NOT EXISTS, but can create an index together with its table.
        Database::MySql => {
            let mut index = Index::create();
            index.name(spec.name(LABELS_INDEX.name));
            for (column, _) in LABELS_INDEX.columns {
                index.col(*column);
            }
            vec![spec.build(&annotations), spec.build(labels.index(&mut index))]
        }
        Database::Postgres | Database::Sqlite => vec![
            spec.build(&annotations),
            spec.build(&labels),
            create_index(spec, "INDEX IF NOT EXISTS", &LABELS_INDEX),
        ],
    }
}

fn annotations(spec: &SchemaSpec, collation: Option<&str>) -> TableCreateStatement {
    use seabed_sessions::Column;
    table(spec, seabed_sessions::Entity, collation)
        .col(id(Column::AppName))
        .col(id(Column::UserId))
        .col(id(Column::SessionId))
        .col(text(spec, Column::Title, 256))
        .col(json(spec, Column::Labels))
        .col(json(spec, Column::InitialState))
        .col(text(spec, Column::ParentSessionId, 128))
        .col(text(spec, Column::ParentEventId, 128))
        .col(ColumnDef::new(Column::HeldSince).custom(spec.dialect.timestamp_type()))
        .col(timestamp(spec, Column::UpdateTime))
        .primary_key(Index::create().col(Column::AppName).col(Column::UserId).col(Column::SessionId))
        .foreign_key(&mut of_session(spec, "seabed_sessions"))
        .take()
}

fn labels(spec: &SchemaSpec, collation: Option<&str>) -> TableCreateStatement {
    use seabed_labels::Column;
    table(spec, seabed_labels::Entity, collation)
        .col(id(Column::AppName))
        .col(id(Column::UserId))
        .col(id(Column::SessionId))
        .col(text(spec, Column::Name, MAX_NAME).not_null())
        .col(text(spec, Column::Value, MAX_VALUE).not_null())
        .primary_key(Index::create().col(Column::AppName).col(Column::UserId).col(Column::SessionId).col(Column::Name))
        .foreign_key(&mut of_session(spec, "seabed_labels"))
        .take()
}

/// Text that is compared exactly, also beside ids of google-adk's that are not.
fn text(spec: &SchemaSpec, column: impl IntoIden, length: u32) -> ColumnDef {
    let mut text = ColumnDef::new(column).string_len(length).take();
    if let Some(exact) = spec.id_collation {
        text.extra(format!("COLLATE {exact}"));
    }
    text
}

/// The foreign key by which the rows of a session are deleted with it. Both tables name its columns alike.
fn of_session(spec: &SchemaSpec, table: &str) -> sea_orm::sea_query::ForeignKeyCreateStatement {
    use {seabed_sessions::Column, sessions::Column as Session};
    ForeignKey::create()
        .from(spec.sibling_ref(table), (Column::AppName, Column::UserId, Column::SessionId))
        .to(spec.sibling_ref("sessions"), (Session::AppName, Session::UserId, Session::Id))
        .on_delete(ForeignKeyAction::Cascade)
        .take()
}

/// Returns the statements that drop the tables.
pub(crate) fn drop(spec: &SchemaSpec) -> Vec<String> {
    own_table_names().map(|table| format!("DROP TABLE IF EXISTS {}", spec.full_name(table))).into()
}
