//! The files of a SQLite database that are lost under a running service: nothing is acknowledged from then on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use seabed::sea_orm::ConnectionTrait as _;
use seabed::{BackendErrorKind, CreateSession, DynSessionService, GetSession, SessionKey, UserKey};

use crate::fixture::Fixture;
use crate::risks::{expect_words, saying, session};

crate::database_cases! {
    Sqlite: [
        nothing_is_acknowledged_after_the_file_was_deleted,
        nothing_is_acknowledged_after_the_file_was_replaced,
        nothing_is_acknowledged_after_the_log_was_deleted,
        a_log_that_sqlite_itself_removes_is_not_missed,
        a_file_in_a_folder_that_cannot_be_searched_is_not_lost,
    ],
}

fn file(fixture: &Fixture) -> anyhow::Result<PathBuf> {
    let url = fixture.service_url.strip_prefix("sqlite://").context("a URL of SQLite")?;
    Ok(url.split('?').next().unwrap_or_default().into())
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// Expects each kind of write to be refused, with a message that has `words`.
async fn expect_no_acknowledgement(
    service: &DynSessionService,
    key: &SessionKey,
    words: &[&str],
) -> anyhow::Result<()> {
    let user = UserKey::try_new("app", "alice")?;
    let refused = [
        service.append_event(saying(key.clone(), "lost")).await.err(),
        service.create_session(CreateSession::new(user)).await.err(),
        service.check_health().await.err(),
    ];
    for refused in refused {
        let refused = refused.context("acknowledged")?;
        ensure!(refused.backend_kind() == Some(BackendErrorKind::Unexpected), "{refused:?}");
        ensure!(!refused.is_retryable());
        expect_words(&refused.to_string(), words)?;
    }
    Ok(())
}

async fn nothing_is_acknowledged_after_the_file_was_deleted(fixture: &Fixture) -> anyhow::Result<()> {
    let (service, file) = (fixture.migrated().await?, file(fixture)?);
    let key = session(&service).await?;
    service.append_event(saying(key.clone(), "kept")).await?;
    fs::remove_file(&file)?;
    expect_no_acknowledgement(&service, &key, &["seabed.db was deleted", "connect again"]).await
}

async fn nothing_is_acknowledged_after_the_file_was_replaced(fixture: &Fixture) -> anyhow::Result<()> {
    let (service, file) = (fixture.migrated().await?, file(fixture)?);
    let key = session(&service).await?;
    service.append_event(saying(key.clone(), "kept")).await?;
    let (copy, away) = (beside(&file, "-copy"), beside(&file, "-away"));
    fixture.admin.execute_unprepared(&format!("VACUUM INTO '{}'", copy.display())).await?;
    fs::rename(&file, &away)?;
    fs::rename(&copy, &file)?;
    expect_no_acknowledgement(&service, &key, &["seabed.db was replaced"]).await?;
    // Its connections may be to either file by now.
    fs::rename(&away, &file)?;
    expect_no_acknowledgement(&service, &key, &["seabed.db was replaced"]).await
}

async fn nothing_is_acknowledged_after_the_log_was_deleted(fixture: &Fixture) -> anyhow::Result<()> {
    for ending in ["-wal", "-shm"] {
        let (service, file) = (fixture.migrated().await?, file(fixture)?);
        let key = session(&service).await?;
        service.append_event(saying(key.clone(), "kept")).await?;
        let (log, away) = (beside(&file, ending), beside(&file, "-away"));
        fs::rename(&log, &away)?;
        expect_no_acknowledgement(&service, &key, &[&format!("seabed.db{ending} was deleted")]).await?;
        fs::rename(&away, &log)?;
        service.close().await?;
    }
    Ok(())
}

/// The last connection that closes removes the log.
async fn a_log_that_sqlite_itself_removes_is_not_missed(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    fixture.admin.close_by_ref().await?;
    let options: seabed::SqliteOptions = fixture.service_url.parse()?;
    let mut options = options.with_max_connections(1);
    options.pool.idle_timeout(Duration::from_millis(1)).max_lifetime(Duration::from_millis(1));
    let service = seabed::SqliteSessionService::connect_with(options).await?;
    let service: DynSessionService = Arc::new(service);
    let log = beside(&file(fixture)?, "-wal");
    for _ in 0..5 {
        let key = session(&service).await?;
        service.append_event(saying(key, "kept")).await?;
        service.check_health().await?;
        let mut waited = 0;
        while log.exists() && waited < 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            waited += 1;
        }
        ensure!(!log.exists(), "the log is still there");
    }
    Ok(())
}

/// Such a folder says nothing of the files in it. Here its name is a link to itself for a while.
async fn a_file_in_a_folder_that_cannot_be_searched_is_not_lost(fixture: &Fixture) -> anyhow::Result<()> {
    seabed::migrate(&fixture.admin).await?;
    let options: seabed::SqliteOptions = fixture.service_url.parse()?;
    let service = seabed::SqliteSessionService::connect_with(options.with_max_connections(1)).await?;
    let service: DynSessionService = Arc::new(service);
    let key = session(&service).await?;
    service.append_event(saying(key.clone(), "before")).await?;
    let file = file(fixture)?;
    let folder = file.parent().context("a folder")?;
    let away = beside(folder, "-away");
    fs::rename(folder, &away)?;
    std::os::unix::fs::symlink(folder, folder)?;
    let appended = service.append_event(saying(key.clone(), "meanwhile")).await;
    let health = service.check_health().await;
    fs::remove_file(folder)?;
    fs::rename(&away, folder)?;
    appended?;
    health?;
    service.append_event(saying(key.clone(), "after")).await?;
    let read = service.get_session(GetSession::new(key)).await?.context("a session")?;
    ensure!(read.events.len() == 3, "{read:?}");
    Ok(())
}
