//! `seabed-migrate repair`, run twice, on pools of programs that set what they like.

use anyhow::{Context as _, ensure};
use seabed::migration::{StoredData, down, repair, verify};
use seabed::sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement};
use seabed_tests::{Family, Kind};

use crate::fixture::Fixture;
use crate::risks::pool_with;

crate::database_cases! {
    Everywhere: [
        a_second_repair_changes_nothing_whatever_a_session_sets,
    ],
}

/// What a session sets that changes how statements are read, or how the server answers. Strict mode stays: without it,
/// `verify` has something to say.
const POSTGRES: [&str; 3] = [
    "-c standard_conforming_strings=off -c quote_all_identifiers=on",
    "-c DateStyle=German -c IntervalStyle=sql_standard -c TimeZone=Asia/Kolkata",
    "-c transform_null_equals=on -c enable_seqscan=off",
];
const MYSQL: [&str; 5] = [
    "SET SESSION sql_mode = 'ANSI_QUOTES,STRICT_TRANS_TABLES'",
    "SET SESSION sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES,HIGH_NOT_PRECEDENCE,STRICT_ALL_TABLES'",
    "SET SESSION sql_mode = 'PAD_CHAR_TO_FULL_LENGTH,STRICT_ALL_TABLES'",
    "SET SESSION sql_quote_show_create = 0",
    "SET SESSION sql_safe_updates = 1",
];
/// Modes that only MariaDB has. (In its mode `ORACLE`, BEGIN begins a block, and the driver no transaction.)
const MARIADB: [&str; 1] = ["SET SESSION sql_mode = 'POSTGRESQL,STRICT_TRANS_TABLES'"];
const SQLITE: [&str; 1] = ["PRAGMA reverse_unordered_selects = ON"];

/// Returns the settings for the fixture's database, each with a pool that has it.
async fn pools(fixture: &Fixture) -> anyhow::Result<Vec<(&'static str, DatabaseConnection)>> {
    let mut pools = Vec::new();
    match fixture.kind.map(Kind::family) {
        Some(Family::Postgres) => {
            for setting in POSTGRES {
                let mut url = url::Url::parse(&fixture.admin_url)?;
                url.query_pairs_mut().append_pair("options", setting);
                pools.push((setting, seabed::open(url.as_str()).await?));
            }
        }
        Some(Family::MySql) => {
            let own: &[&str] = if fixture.kind == Some(Kind::MariaDb) { &MARIADB } else { &[] };
            for setting in MYSQL.iter().chain(own) {
                pools.push((setting, pool_with(&fixture.admin_url, setting)?));
            }
        }
        None => {
            for setting in SQLITE {
                fixture.execute(setting).await?;
                pools.push((setting, fixture.admin.clone()));
            }
        }
    }
    Ok(pools)
}

/// Creates google-adk's tables, and leaves in them whatever a repair mends: on MySQL and MariaDB also the collation of
/// the ids, and the foreign key twice.
async fn make_tables_to_repair(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.execute(fixture.adk_schema_v1().trim_end()).await?;
    let (start, later) = ("'2026-01-01 00:00:00.000000'", "'2026-01-02 00:00:00.000000'");
    fixture.execute(&format!("INSERT INTO sessions VALUES ('app', 'alice', 's', '{{}}', {start}, {start})")).await?;
    fixture.execute(&format!("INSERT INTO events VALUES ('e', 'app', 'alice', 's', '', {later}, '{{}}')")).await?;
    fixture
        .execute(match fixture.kind.map(Kind::family) {
            Some(Family::Postgres) => {
                "ALTER TABLE events DROP CONSTRAINT events_app_name_user_id_session_id_fkey;\n\
                 DROP INDEX idx_events_app_user_session_ts_id;\n\
                 ALTER TABLE sessions ALTER COLUMN update_time TYPE timestamp(3)"
            }
            Some(Family::MySql) => {
                "ALTER TABLE events ADD CONSTRAINT again FOREIGN KEY (app_name, user_id, session_id) \
                 REFERENCES sessions (app_name, user_id, id) ON DELETE CASCADE;\n\
                 ALTER TABLE events MODIFY event_data text"
            }
            None => "DROP INDEX idx_events_app_user_session_ts_id",
        })
        .await
}

/// Describes the columns, keys and indexes of all tables, a line each.
async fn described(fixture: &Fixture) -> anyhow::Result<Vec<String>> {
    let query = match fixture.kind.map(Kind::family) {
        Some(Family::Postgres) => {
            "SELECT concat_ws(' ', table_name, column_name, data_type, datetime_precision, \
             character_maximum_length, is_nullable) AS text \
             FROM information_schema.columns WHERE table_schema = 'public' \
             UNION ALL SELECT concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid)) \
             FROM pg_constraint WHERE connamespace = 'public'::regnamespace \
             UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY text"
        }
        Some(Family::MySql) => {
            "SELECT CAST(CONCAT_WS(' ', table_name, column_name, column_type, collation_name, is_nullable) AS CHAR) \
             AS text FROM information_schema.columns WHERE table_schema = DATABASE() \
             UNION ALL SELECT CAST(CONCAT_WS(' ', table_name, constraint_name, referenced_table_name, delete_rule) \
             AS CHAR) FROM information_schema.referential_constraints WHERE constraint_schema = DATABASE() \
             UNION ALL SELECT CAST(CONCAT_WS(' ', table_name, index_name, seq_in_index, column_name) AS CHAR) \
             FROM information_schema.statistics WHERE table_schema = DATABASE() ORDER BY text"
        }
        None => "SELECT sql AS text FROM sqlite_master WHERE sql IS NOT NULL ORDER BY text",
    };
    let query = Statement::from_string(fixture.admin.get_database_backend(), query);
    let rows = fixture.admin.query_all_raw(query).await?;
    Ok(rows.iter().map(|row| row.try_get("", "text")).collect::<Result<_, _>>()?)
}

async fn a_second_repair_changes_nothing_whatever_a_session_sets(fixture: &Fixture) -> anyhow::Result<()> {
    for (setting, pool) in pools(fixture).await? {
        make_tables_to_repair(fixture).await?;
        let before = described(fixture).await?;
        let mut repaired = None;
        for run in ["first", "second"] {
            let left = repair(&pool).await.with_context(|| format!("the {run} repair under {setting}"))?;
            ensure!(left.is_empty(), "the {run} repair under {setting} left {left:#?}");
            let now = described(fixture).await?;
            ensure!(now != before, "the {run} repair under {setting} changed nothing");
            ensure!(repaired.get_or_insert_with(|| now.clone()) == &now, "{setting}: {repaired:#?} became {now:#?}");
        }
        let found = verify(&fixture.admin).await?;
        ensure!(found.is_empty(), "after a repair under {setting}: {found:#?}");
        down(&fixture.admin, StoredData::Drop).await?;
    }
    Ok(())
}
