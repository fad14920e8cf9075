//! Sessions that were read, and what google-adk writes afterwards.

use anyhow::{Context as _, ensure};
use seabed::{Error, Event, Json, SessionServiceExt as _};
use seabed_tests::ADK_2_13;

use super::{append, create, event, expect_same, get, ids, key, state};
use crate::fixture::Fixture;

pub(super) async fn stale_writers_are_told_on_both_sides(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    let key = key("shared")?;
    adk.create(&key, &state("google-adk")).await?;
    append(&service, &key, "1 ours").await?;
    let refused = adk.append(&key, &event("stale theirs")?).await.err().context("a stale append succeeded")?;
    ensure!(refused.is_stale(), "{refused}");
    adk.reload_and_append(&key, &event("2 theirs")?).await?;

    let mut session = get(&service, &key).await?;
    adk.append(&key, &event("3 theirs")?).await?;
    let expected = session.revision;
    let actual = get(&service, &key).await?.revision;
    match service.append(&mut session, event("stale ours")?.decode()?).await {
        Err(Error::RevisionConflict { expected: told, actual: found, .. }) => {
            ensure!(told == expected && found == actual && found > told, "{told} and {found}");
        }
        other => anyhow::bail!("a stale append: {other:?}"),
    }
    service.refresh(&mut session).await?;
    service.append(&mut session, event("4 ours")?.decode()?).await?;
    ensure!(ids(&expect_same(&service, &adk, &key).await?)? == ["1 ours", "2 theirs", "3 theirs", "4 ours"]);
    adk.stop().await
}

/// google-adk stores an event at its own time, also before events that are there already.
pub(super) async fn a_session_is_refreshed_beside_writers_whose_clocks_disagree(
    fixture: &Fixture,
) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let adk = ADK_2_13.start(&fixture.service_url).await?;
    let key = key("shared")?;
    let start = create(&service, &key).await?.create_time.as_seconds().trunc();
    for (read_at, times) in [(2, [10, 20, 12, 21]), (3, [40, 50, 42, 43])] {
        let mut session = None;
        for (number, after) in times.into_iter().enumerate() {
            if number == read_at {
                session = Some(get(&service, &key).await?);
            }
            let event = Event::new("agent").with_id(format!("at {after}")).with_timestamp(start + f64::from(after));
            adk.reload_and_append(&key, &Json::from_serialize(&event)?).await?;
        }
        let mut session = session.context("read midway")?;
        service.refresh(&mut session).await?;
        ensure!(session == get(&service, &key).await?, "{session:?}");
    }
    adk.stop().await
}
