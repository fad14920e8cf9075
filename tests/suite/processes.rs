//! Races between processes: this test program starts itself again, with a job in its environment.

use std::process::{ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use seabed::migration::{StoredData, UpOptions, down, up_sql, verify};
use seabed::{AppName, CreateSession, Error, GetSession, SessionId, SessionKey, State, UserKey};
use tokio::process::{Child, Command};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::fixture::Fixture;

crate::database_cases! {
    Everywhere: [
        four_processes_create_sessions_of_one_new_app,
        four_processes_create_sessions_of_one_new_user,
        of_four_processes_that_create_one_id_one_succeeds,
        ten_processes_migrate_at_once,
        ten_processes_complete_a_half_migrated_database_at_once,
        a_migrator_that_is_killed_leaves_a_database_that_migrates,
    ],
}

const JOB: &str = "SEABED_TEST_CHILD_JOB";
const URL: &str = "SEABED_TEST_CHILD_URL";
const NUMBER: &str = "SEABED_TEST_CHILD_NUMBER";

const APP: &str = "app";
const TASKS: usize = 50;
const PROCESSES: usize = 4;

/// Runs this process's job, if another test process started it.
pub(crate) fn run_as_child(runtime: &Runtime) -> Option<ExitCode> {
    let job = std::env::var(JOB).ok()?;
    Some(match runtime.block_on(do_job(&job)) {
        Ok(created) => {
            println!("{created}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    })
}

async fn do_job(job: &str) -> anyhow::Result<usize> {
    let url = std::env::var(URL)?;
    if job == "migrate" {
        let database = seabed::open(&url).await?;
        seabed::migrate(&database).await?;
        return Ok(0);
    }
    let process: usize = std::env::var(NUMBER)?.parse()?;
    let service = seabed::connect(&url).await?;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let number = process * TASKS + task;
        let state = State::new().with(format!("app:k{number}"), 1).with(format!("user:k{number}"), 1);
        let request = match job {
            "users" => CreateSession::new(UserKey::try_new(APP, format!("user{number}"))?),
            "one user" => CreateSession::new(UserKey::try_new(APP, "user")?),
            _ => CreateSession::new(UserKey::try_new(APP, "user")?).with_session_id(SessionId::try_new("the-one")?),
        };
        let service = service.clone();
        tasks.spawn(async move { service.create_session(request.with_state(state)).await });
    }
    let mut created = 0;
    for outcome in tasks.join_all().await {
        match outcome {
            Ok(_) => created += 1,
            Err(Error::AlreadyExists { .. }) if job == "one id" => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(created)
}

/// Starts this program in another process, which ends when the handle is dropped.
fn start(job: &str, url: &str, number: usize) -> anyhow::Result<Child> {
    let child = Command::new(std::env::current_exe()?)
        .env(JOB, job)
        .env(URL, url)
        .env(NUMBER, number.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

/// Runs `count` processes concurrently, and returns the number of sessions that they created in total.
async fn processes(count: usize, job: &str, url: &str) -> anyhow::Result<usize> {
    let children: Vec<Child> = (0..count).map(|number| start(job, url, number)).collect::<anyhow::Result<_>>()?;
    let mut created = 0;
    for child in children {
        let output = child.wait_with_output().await?;
        ensure!(output.status.success(), "a process failed: {}", String::from_utf8_lossy(&output.stderr));
        created += String::from_utf8(output.stdout)?.trim().parse::<usize>()?;
    }
    Ok(created)
}

async fn four_processes_create_sessions_of_one_new_app(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    ensure!(processes(PROCESSES, "users", &fixture.service_url).await? == PROCESSES * TASKS);
    ensure!(service.get_app_state(&AppName::try_new(APP)?).await?.len() == PROCESSES * TASKS);
    Ok(())
}

async fn four_processes_create_sessions_of_one_new_user(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    ensure!(processes(PROCESSES, "one user", &fixture.service_url).await? == PROCESSES * TASKS);
    ensure!(service.get_user_state(&UserKey::try_new(APP, "user")?).await?.len() == PROCESSES * TASKS);
    Ok(())
}

async fn of_four_processes_that_create_one_id_one_succeeds(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let created = processes(PROCESSES, "one id", &fixture.service_url).await?;
    ensure!(created == 1, "{created} calls created the one session");
    let key = SessionKey::try_new(APP, "user", "the-one")?;
    let session = service.get_session(GetSession::new(key)).await?.context("the session is gone")?;
    ensure!(session.state.len() == 2, "a loser's state was written: {:?}", session.state);
    Ok(())
}

async fn ten_processes_migrate_at_once(fixture: &Fixture) -> anyhow::Result<()> {
    processes(10, "migrate", &fixture.admin_url).await?;
    fixture.service().await?;
    Ok(())
}

async fn ten_processes_complete_a_half_migrated_database_at_once(fixture: &Fixture) -> anyhow::Result<()> {
    for statement in up_sql(&fixture.admin, UpOptions::default()).await?.iter().take(2) {
        fixture.execute(statement).await?;
    }
    processes(10, "migrate", &fixture.admin_url).await?;
    fixture.service().await?;
    ensure!(verify(&fixture.admin).await?.is_empty());
    Ok(())
}

/// The migrator is killed at ten moments between its start and its end. On MySQL, where DDL commits implicitly, only
/// some tables exist then.
async fn a_migrator_that_is_killed_leaves_a_database_that_migrates(fixture: &Fixture) -> anyhow::Result<()> {
    let started = Instant::now();
    processes(1, "migrate", &fixture.admin_url).await?;
    let whole = started.elapsed();
    for tenth in 1..=10 {
        down(&fixture.admin, StoredData::Keep).await?;
        let mut child = start("migrate", &fixture.admin_url, 0)?;
        tokio::time::sleep(whole * tenth / 10).await;
        child.kill().await?;
        // The server may take a moment to notice, and keeps the dead process's lock until then.
        seabed::migrate(&fixture.admin).await?;
        fixture.service().await?;
        ensure!(verify(&fixture.admin).await?.is_empty());
    }
    Ok(())
}
