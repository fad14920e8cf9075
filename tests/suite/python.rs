//! The Python package beside google-adk's own service.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use seabed::{Error, Event, Json, SessionServiceExt as _};
use seabed_tests::{BINDING, Binding, sqlalchemy_url};
use tokio::process::Command;

use crate::fixture::Fixture;
use crate::interop::{event, expect_equal, expect_same, get, key, state};

crate::database_cases! {
    InPython: [
        the_tests_of_the_python_package_pass,
        a_session_goes_from_python_to_rust_to_google_adk_and_back,
    ],
}

async fn the_tests_of_the_python_package_pass(fixture: &Fixture) -> anyhow::Result<()> {
    let python = BINDING.python().await.map_err(|unavailable| anyhow::anyhow!(unavailable.reason))?;
    let tests = Command::new(python)
        .args(["-X", "faulthandler", "-m", "pytest", "--quiet", "--show-capture=no", "-p", "no:cacheprovider"])
        .current_dir(Binding::folder())
        // It creates the tables, which takes an account that may do so.
        .env("SEABED_ADK_TEST_URL", sqlalchemy_url(&fixture.admin_url))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let told = |output| String::from_utf8_lossy(output).into_owned();
    ensure!(tests.status.success(), "{}{}", told(&tests.stdout), told(&tests.stderr));
    Ok(())
}

/// One session, in which the package, Seabed in Rust, and google-adk's own service take turns.
async fn a_session_goes_from_python_to_rust_to_google_adk_and_back(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let (python, adk) = BINDING.start_both(&fixture.service_url).await?;
    let key = key("shared")?;
    python.create(&key, &state("python")).await?;
    let mut handle = get(&service, &key).await?;
    let start = handle.create_time.as_seconds().trunc();
    // google-adk stores an event at its own time, which must be later than all before it.
    let timed = |event: Json, written: &[Json]| -> anyhow::Result<Json> {
        let seconds = u32::try_from(written.len())? + 10;
        Ok(Json::from_serialize(&event.decode::<Event>()?.with_timestamp(start + f64::from(seconds)))?)
    };
    let mut written: Vec<Json> = Vec::new();
    for sample in python.sample_events().await? {
        let next = timed(sample, &written)?;
        match written.len() % 3 {
            0 => python.reload_and_append(&key, &next).await?,
            1 => {
                service.refresh(&mut handle).await?;
                service.append(&mut handle, next.decode()?).await?;
            }
            _ => adk.reload_and_append(&key, &next).await?,
        }
        written.push(next);
    }
    for peer in [&python, &adk] {
        expect_equal(&written, &expect_same(&service, peer, &key).await?)?;
    }
    service.refresh(&mut handle).await?;
    for (writer, stale) in [(&python, &adk), (&adk, &python)] {
        let next = timed(event(&format!("{} more", written.len()))?, &written)?;
        writer.append(&key, &next).await?;
        let lost = timed(event("lost")?, &written)?;
        let refused = stale.append(&key, &lost).await.err().context("a stale append succeeded")?;
        ensure!(refused.is_stale(), "{refused}");
        let refused = service.append(&mut handle, lost.decode()?).await;
        ensure!(matches!(refused, Err(Error::RevisionConflict { .. })), "{refused:?}");
        written.push(next);
        expect_equal(&written, &expect_same(&service, stale, &key).await?)?;
        service.refresh(&mut handle).await?;
    }
    let events = handle.events.iter().map(Json::from_serialize).collect::<Result<Vec<_>, _>>()?;
    expect_equal(&written, &events)?;
    python.stop().await?;
    adk.stop().await
}
