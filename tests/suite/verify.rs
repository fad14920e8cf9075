//! `seabed-migrate verify`, `repair` and `grants`, and what a service rejects when it connects.

use anyhow::{Context as _, ensure};
use seabed::migration::{Finding, Repair, Selection, Severity, copy, grants, repair, verify};
use seabed::sea_orm::{ConnectionTrait as _, DatabaseConnection};
use seabed::{
    AppName, AppendEvent, BackendErrorKind, CreateSession, DeleteSession, DirectoryService as _,
    DirectoryServiceExt as _, DynSessionService, Event, ExpectedRevision, GetSession, SessionFilter, SessionId,
    SessionKey, SessionScope, State, UserKey,
};
use seabed::{SchemaRisk, ServiceOptions};
use seabed_tests::{Family, Kind};
use url::Url;

use crate::fixture::Fixture;
use crate::transfer::Other;

crate::database_cases! {
    Everywhere: [
        nothing_is_wrong_with_tables_of_ours,
        missing_tables_and_columns_are_found,
        columns_that_break_a_law_are_refused_found_and_mended,
        rows_that_others_left_out_are_found_and_mended,
        events_without_a_session_are_found_and_left,
    ],
    Servers: [
        the_printed_grants_suffice_and_allow_no_more,
        missing_rights_are_found,
        ids_that_collide_are_named_and_left,
        a_weakness_that_is_accepted_is_lived_with,
    ],
}

async fn exercise(service: &DynSessionService, session: &str) -> anyhow::Result<SessionKey> {
    let key = SessionKey::try_new("app", "alice", session)?;
    let create = CreateSession::new(key.user()).with_session_id(key.session_id.clone());
    service.create_session(create.with_state(State::new().with("app:a", 1).with("user:u", 2).with("s", 3))).await?;
    for number in 0..3 {
        let event = Event::new("user").with_state_delta(State::new().with("app:a", number).with("n", number));
        let append = AppendEvent::new(key.clone(), event, ExpectedRevision::Any);
        service.append_event(append.clone()).await?;
        ensure!(service.append_event(append).await?.is_replayed(), "a replay was stored twice");
    }
    let read = service.get_session(GetSession::new(key.clone())).await?.context("the session is gone")?;
    ensure!(read.events.len() == 3 && read.state.decode::<u32>("n")? == Some(2), "{read:?}");
    Ok(key)
}

/// Returns the findings of `verify`.
async fn found(fixture: &Fixture) -> anyhow::Result<Vec<Finding>> {
    Ok(verify(&fixture.admin).await?)
}

async fn expect_nothing(fixture: &Fixture) -> anyhow::Result<()> {
    let found = found(fixture).await?;
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

async fn nothing_is_wrong_with_tables_of_ours(fixture: &Fixture) -> anyhow::Result<()> {
    let before = found(fixture).await?;
    ensure!(before.len() == 1 && before[0].problem.contains("no session tables"), "{before:?}");
    let service = fixture.migrated().await?;
    let key = exercise(&service, "s").await?;
    expect_nothing(fixture).await?;
    ensure!(repair(&fixture.admin).await?.is_empty());
    service.delete_session(DeleteSession::new(key.clone())).await?;
    expect_nothing(fixture).await
}

async fn missing_tables_and_columns_are_found(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    fixture.execute("DROP TABLE user_states").await?;
    let findings = found(fixture).await?;
    ensure!(findings.len() == 1 && findings[0].subject == "user_states", "{findings:?}");
    ensure!(fixture.service().await.is_err(), "connected without a table");
    seabed::migrate(&fixture.admin).await?;
    fixture.execute("ALTER TABLE app_states DROP COLUMN update_time").await?;
    let findings = found(fixture).await?;
    ensure!(findings[0].problem.contains("app_states has no column update_time"), "{findings:?}");
    let refused = fixture.service().await.err().context("connected without a column")?;
    ensure!(format!("{refused:#}").contains("app_states has no column update_time"), "{refused:#}");
    Ok(())
}

/// A change to the tables, the finding that `verify` reports, and whether a service rejects the tables. `repair`
/// repairs all of them.
struct Change {
    statement: &'static str,
    subject: &'static str,
    word: &'static str,
    is_refused: bool,
}

const fn change(statement: &'static str, subject: &'static str, word: &'static str) -> Change {
    Change { statement, subject, word, is_refused: true }
}

const POSTGRES: &[Change] = &[
    change("ALTER TABLE events ALTER COLUMN timestamp TYPE timestamptz", "events.timestamp", "with time zone"),
    change("ALTER TABLE sessions ALTER COLUMN update_time TYPE timestamp(3)", "sessions.update_time", "microseconds"),
    change("ALTER TABLE sessions ALTER COLUMN state TYPE text", "sessions.state", "jsonb is needed"),
    change("ALTER TABLE app_states ALTER COLUMN app_name TYPE varchar(64)", "app_states.app_name", "varchar(128)"),
    Change { is_refused: false, ..change("DROP INDEX idx_events_app_user_session_ts_id", "events", "no index") },
    Change {
        is_refused: false,
        ..change("ALTER TABLE events DROP CONSTRAINT events_app_name_user_id_session_id_fkey", "events", "foreign key")
    },
];

const MYSQL: &[Change] = &[
    change("ALTER TABLE events MODIFY timestamp datetime NOT NULL", "events.timestamp", "microseconds"),
    change("ALTER TABLE events MODIFY event_data text", "events.event_data", "long text"),
    change("ALTER TABLE sessions MODIFY state text NOT NULL", "sessions.state", "long text"),
    change(
        "ALTER TABLE user_states CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        "user_states.app_name",
        "treats different ids as equal",
    ),
];

const SQLITE: &[Change] =
    &[Change { is_refused: false, ..change("DROP INDEX idx_events_app_user_session_ts_id", "events", "no index") }];

async fn columns_that_break_a_law_are_refused_found_and_mended(fixture: &Fixture) -> anyhow::Result<()> {
    let changes = match fixture.kind.map(Kind::family) {
        Some(Family::Postgres) => POSTGRES,
        Some(Family::MySql) => MYSQL,
        None => SQLITE,
    };
    seabed::migrate(&fixture.admin).await?;
    for (number, change) in changes.iter().enumerate() {
        let Change { statement, subject, word, is_refused } = change;
        exercise(&fixture.service().await?, &format!("before {number}")).await?;
        fixture.execute(statement).await?;
        let findings = found(fixture).await?;
        let finding = findings.iter().find(|finding| finding.subject.contains(subject));
        let finding = finding.with_context(|| format!("{statement} was not found: {findings:#?}"))?;
        ensure!(finding.problem.contains(word), "{finding:#?}");
        let refused = fixture.service().await.err().map(|error| format!("{error:#}"));
        ensure!(refused.is_some() == *is_refused, "{statement}: {refused:?}");
        ensure!(refused.as_ref().is_none_or(|told| told.contains("seabed-migrate verify")), "{refused:?}");
        let left = repair(&fixture.admin).await?;
        ensure!(left.is_empty(), "{statement}: {left:#?}");
        exercise(&fixture.service().await?, &format!("after {number}")).await?;
    }
    Ok(())
}

async fn rows_that_others_left_out_are_found_and_mended(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = exercise(&service, "s").await?;
    fixture.execute("DELETE FROM app_states;\nDELETE FROM user_states").await?;
    fixture.execute("UPDATE sessions SET update_time = '2020-01-01 00:00:00.000000'").await?;
    let findings = found(fixture).await?;
    let subjects: Vec<&str> = findings.iter().map(|finding| finding.subject.as_str()).collect();
    ensure!(subjects == ["app_states", "user_states", "sessions.update_time"], "{findings:#?}");
    ensure!(findings[0].severity == Severity::Error && findings[2].severity == Severity::Warning);
    ensure!(repair(&fixture.admin).await?.is_empty());
    let read = service.get_session(GetSession::new(key.clone())).await?.context("the session is gone")?;
    ensure!(service.get_app_state(&key.app_name).await?.is_empty());
    // The next event sorts after the existing ones.
    let append =
        AppendEvent::new(key.clone(), Event::new("user").with_id("last"), ExpectedRevision::Exact(read.revision));
    service.append_event(append).await?;
    let read = service.get_session(GetSession::new(key)).await?.context("the session is gone")?;
    ensure!(read.events.last().is_some_and(|event| event.id == "last"), "{read:?}");
    Ok(())
}

async fn events_without_a_session_are_found_and_left(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    exercise(&service, "s").await?;
    match fixture.kind.map(Kind::family) {
        Some(Family::Postgres) => {
            let drop = "ALTER TABLE events DROP CONSTRAINT events_app_name_user_id_session_id_fkey";
            fixture.execute(drop).await?;
            fixture.execute("DELETE FROM sessions").await?;
        }
        // In one call, and thus on one connection.
        Some(Family::MySql) => {
            fixture.execute("SET FOREIGN_KEY_CHECKS = 0; DELETE FROM sessions; SET FOREIGN_KEY_CHECKS = 1").await?;
        }
        None => fixture.execute("PRAGMA foreign_keys = OFF; DELETE FROM sessions; PRAGMA foreign_keys = ON").await?,
    }
    let left = repair(&fixture.admin).await?;
    let orphans = left.iter().find(|finding| finding.problem.contains("3 events have no session"));
    ensure!(orphans.is_some_and(|finding| matches!(finding.repair, Repair::Unsafe(_))), "{left:#?}");
    Ok(())
}

/// Creates an account without privileges, and returns its name and the URL of a pool for it.
async fn account(fixture: &Fixture) -> anyhow::Result<(String, String)> {
    let name = format!("agent{:08x}", fastrand::u32(..));
    let password = "grants-test";
    fixture
        .execute(&match fixture.kind.map(Kind::family) {
            Some(Family::Postgres) => format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'"),
            _ => format!("CREATE USER '{name}'@'%' IDENTIFIED BY '{password}'"),
        })
        .await?;
    let mut url = Url::parse(&fixture.admin_url)?;
    let set = url.set_username(&name).and_then(|()| url.set_password(Some(password)));
    set.map_err(|()| anyhow::anyhow!("a URL without host"))?;
    Ok((name, url.into()))
}

async fn remove_account(fixture: &Fixture, name: &str) -> anyhow::Result<()> {
    match fixture.kind.map(Kind::family) {
        Some(Family::Postgres) => fixture.execute(&format!("DROP OWNED BY {name};\nDROP ROLE {name}")).await,
        _ => fixture.execute(&format!("DROP USER '{name}'@'%'")).await,
    }
}

async fn the_printed_grants_suffice_and_allow_no_more(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let (name, url) = account(fixture).await?;
    for statement in grants(&fixture.admin, &name).await? {
        fixture.execute(&statement).await?;
    }
    let pool = seabed::open(&url).await?;
    let findings = verify(&pool).await?;
    ensure!(findings.is_empty(), "{findings:#?}");
    for fast in [true, false] {
        let service: DynSessionService = match fixture.kind.map(Kind::family) {
            Some(Family::Postgres) => std::sync::Arc::new(
                seabed::PostgresSessionService::from_connection(pool.clone()).await?.with_fast_paths(fast),
            ),
            _ => std::sync::Arc::new(
                seabed::MySqlSessionService::from_connection(pool.clone()).await?.with_fast_paths(fast),
            ),
        };
        let key = exercise(&service, "s").await?;
        ensure!(service.get_app_state(&key.app_name).await?.len() == 1);
        service.set_labels(&key, &[("a", Some("1")), ("b", Some("2"))]).await?;
        service.set_labels(&key, &[("a", Some("2")), ("b", None)]).await?;
        let scope = SessionScope::User(key.user());
        ensure!(service.count_sessions(&scope, &SessionFilter::new().with_label("a", "2")).await? == 1);
        service.delete_session(DeleteSession::new(key.clone())).await?;
        ensure!(service.get_session(GetSession::new(key)).await?.is_none());
    }
    for statement in [
        "DROP TABLE events",
        "CREATE TABLE mine (id int)",
        "DELETE FROM adk_internal_metadata",
        "UPDATE events SET invocation_id = ''",
        "UPDATE adk_internal_metadata SET value = '2'",
    ] {
        ensure!(pool.execute_unprepared(statement).await.is_err(), "{statement} was allowed");
    }
    pool.close().await?;
    remove_account(fixture, &name).await
}

async fn missing_rights_are_found(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let (name, url) = account(fixture).await?;
    let statements = grants(&fixture.admin, &name).await?;
    for statement in statements {
        fixture.execute(&statement.replace("INSERT, DELETE", "INSERT")).await?;
    }
    let pool = seabed::open(&url).await?;
    let findings = verify(&pool).await?;
    let is_delete = |finding: &Finding| finding.problem.contains("may not DELETE");
    ensure!(findings.len() == 2 && findings.iter().all(is_delete), "{findings:#?}");
    pool.close().await?;
    remove_account(fixture, &name).await
}

const FOREIGN_KEY: &str =
    "FOREIGN KEY (app_name, user_id, session_id) REFERENCES sessions (app_name, user_id, id) ON DELETE CASCADE";

/// Sets a collation that folds case.
pub(crate) async fn fold_ids(fixture: &Fixture) -> anyhow::Result<()> {
    if fixture.kind.map(Kind::family) == Some(Family::Postgres) {
        let collation = "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
        fixture.execute(collation).await?;
        for table in OF_SESSIONS {
            let drop = format!("ALTER TABLE {table} DROP CONSTRAINT {table}_app_name_user_id_session_id_fkey");
            fixture.execute(&drop).await?;
        }
        let of_sessions = ["sessions"].into_iter().chain(OF_SESSIONS).map(|table| (table, "user_id"));
        for (table, column) in of_sessions.chain([("app_states", "app_name")]) {
            let change = format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE varchar(128) COLLATE folding");
            fixture.execute(&change).await?;
        }
        return add_foreign_keys(fixture).await;
    }
    for table in OF_SESSIONS {
        fixture.execute(&format!("ALTER TABLE {table} DROP FOREIGN KEY {table}_ibfk_1")).await?;
    }
    for table in ["adk_internal_metadata", "app_states", "user_states", "sessions"].into_iter().chain(OF_SESSIONS) {
        let convert = format!("ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci");
        fixture.execute(&convert).await?;
    }
    add_foreign_keys(fixture).await
}

/// The tables whose rows belong to sessions.
const OF_SESSIONS: [&str; 3] = ["events", "seabed_sessions", "seabed_labels"];

async fn add_foreign_keys(fixture: &Fixture) -> anyhow::Result<()> {
    for table in OF_SESSIONS {
        fixture.execute(&format!("ALTER TABLE {table} ADD {FOREIGN_KEY}")).await?;
    }
    Ok(())
}

async fn ids_that_collide_are_named_and_left(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    fold_ids(fixture).await?;
    let row = |user: &str, id: &str| {
        format!("INSERT INTO sessions VALUES ('app', '{user}', '{id}', '{{}}', '2026-01-01', '2026-01-01')")
    };
    fixture.execute(&format!("{};\n{}", row("Alice", "s1"), row("alice", "s2"))).await?;
    let findings = found(fixture).await?;
    let finding = findings.iter().find(|finding| finding.problem.contains("treats different ids as equal"));
    let finding = finding.with_context(|| format!("{findings:#?}"))?;
    if fixture.kind.map(Kind::family) == Some(Family::MySql) {
        ensure!(finding.problem.contains("alice, Alice") || finding.problem.contains("Alice, alice"), "{finding:#?}");
        ensure!(matches!(finding.repair, Repair::Unsafe(_)), "{finding:#?}");
    }
    let left = repair(&fixture.admin).await?;
    ensure!(left.iter().any(|finding| finding.problem.contains("treats different ids as equal")), "{left:#?}");
    // A copy reports these ids too, and refuses to copy into such tables.
    let other = Other::new().await?;
    let summary = copy(&fixture.admin, &other.pool, Selection::default(), &mut |_| {}).await?;
    let is_told = summary.refused.iter().any(|refused| refused.row.to_lowercase().contains("alice, alice"));
    ensure!(is_told == (fixture.kind.map(Kind::family) == Some(Family::MySql)), "{summary:?}");
    let refused = copy(&other.pool, &fixture.admin, Selection::default(), &mut |_| {}).await.err();
    ensure!(refused.is_some_and(|error| error.to_string().contains("treats different ids as equal")));
    Ok(())
}

async fn a_weakness_that_is_accepted_is_lived_with(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    fold_ids(fixture).await?;
    let refused = fixture.service().await.err().context("connected to columns that fold case")?;
    let told = format!("{refused:#}");
    ensure!(told.contains("SchemaRisk::InexactIds") && told.contains("verify"), "{told}");
    let refused = seabed::from_connection(fixture.admin.clone()).await.err().context("connected")?;
    ensure!(refused.backend_kind() == Some(BackendErrorKind::Schema), "{refused:?}");
    let accept: DatabaseConnection = fixture.admin.clone();
    let other =
        seabed::from_connection_with(accept.clone(), ServiceOptions::new().accept_risk(SchemaRisk::CoarseTimes)).await;
    ensure!(other.is_err(), "accepting one weakness accepted another");
    let service =
        seabed::from_connection_with(accept, ServiceOptions::new().accept_risk(SchemaRisk::InexactIds)).await?;
    exercise(&service, "s").await?;
    ensure!(service.get_app_state(&AppName::try_new("APP")?).await?.len() == 1, "the collation does not fold case");
    let user = UserKey::try_new("app", "alice")?;
    let create = CreateSession::new(user).with_session_id(SessionId::try_new("second")?);
    service.create_session(create).await?;
    Ok(())
}
