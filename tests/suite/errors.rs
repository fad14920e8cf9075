//! What the errors of servers mean. A trigger reports each of them.

use anyhow::{Context as _, ensure};
use seabed::{
    AppendEvent, BackendErrorKind, CreateSession, DynSessionService, Error, Event, ExpectedRevision, SessionKey,
    UserKey,
};

use crate::fixture::Fixture;
use crate::risks::expect_words;

crate::database_cases! {
    Postgres: [errors_of_postgres_are_classified],
    MySql: [errors_of_mysql_are_classified],
}

async fn session(service: &DynSessionService) -> anyhow::Result<SessionKey> {
    Ok(service.create_session(CreateSession::new(UserKey::try_new("app", "alice")?)).await?.key)
}

/// What an append gets.
async fn told(service: &DynSessionService, key: &SessionKey) -> anyhow::Result<(BackendErrorKind, String)> {
    let append = AppendEvent::new(key.clone(), Event::new("user"), ExpectedRevision::Any);
    let error = service.append_event(append).await.err().context("stored")?;
    Ok((error.backend_kind().with_context(|| format!("{error:?}"))?, Error::to_string(&error)))
}

async fn errors_of_postgres_are_classified(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = session(&service).await?;
    let cases: [(&str, BackendErrorKind, &[&str]); 8] = [
        ("40001", BackendErrorKind::Contention, &[]),
        ("55P03", BackendErrorKind::Contention, &[]),
        ("57014", BackendErrorKind::Contention, &[]),
        ("25006", BackendErrorKind::Unavailable, &[]),
        ("53300", BackendErrorKind::Unavailable, &["max_connections"]),
        ("42P05", BackendErrorKind::Unexpected, &["transaction pooler", "max_prepared_statements"]),
        ("26000", BackendErrorKind::Unexpected, &["transaction pooler"]),
        ("42501", BackendErrorKind::Unexpected, &[]),
    ];
    for (code, kind, words) in cases {
        let function = format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN RAISE EXCEPTION 'on request' USING ERRCODE = '{code}'; END $$"
        );
        let trigger = "CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse()";
        fixture.execute(&format!("{function};\n{trigger}")).await?;
        let (told, message) = told(&service, &key).await?;
        ensure!(told == kind, "{code}: {told:?}");
        expect_words(&message, words)?;
    }
    Ok(())
}

async fn errors_of_mysql_are_classified(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let key = session(&service).await?;
    // What the members of a group or cluster, and limits of the server's, report about other writers.
    let contention = [1213, 1205, 1020, 1180, 3101, 3024, 1969].map(|number| (number, BackendErrorKind::Contention));
    // Of a server that ends a connection, is full, or takes no writes.
    let unavailable = [1040, 1203, 1226, 1317, 1927, 4031, 1047, 1290, 1836];
    let unavailable = unavailable.map(|number| (number, BackendErrorKind::Unavailable));
    let others =
        [(3098, BackendErrorKind::Schema), (1146, BackendErrorKind::Schema), (1142, BackendErrorKind::Unexpected)];
    for (number, kind) in contention.into_iter().chain(unavailable).chain(others) {
        let trigger = format!(
            "DROP TRIGGER IF EXISTS refuse;\nCREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW \
             SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = 'on request'"
        );
        fixture.execute(&trigger).await?;
        let (told, message) = told(&service, &key).await?;
        ensure!(told == kind, "{number}: {told:?}");
        let words: &[&str] = match number {
            3098 => &["multi-primary", "ON DELETE CASCADE"],
            1040 => &["max_connections"],
            _ => &[],
        };
        expect_words(&message, words)?;
    }
    Ok(())
}
