//! Sessions that were read, and what google-adk writes afterwards.

use anyhow::{Context as _, ensure};
use seabed::{Error, Event, GetSession, Json, SessionServiceExt as _};
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
    // google-adk moved the clock back, so our event is stored before one that the handle has.
    for (after, own) in [(60, 0), (62, 0), (70, 0), (62, 63)] {
        let event = Event::new("agent").with_id(format!("{after} and {own}")).with_timestamp(start + f64::from(after));
        adk.reload_and_append(&key, &Json::from_serialize(&event)?).await?;
        if own > 0 {
            let whole = GetSession::new(key.clone());
            for read in [whole.clone(), whole.with_num_recent_events(1)] {
                let mut session = service.get_session(read).await?.context("no session")?;
                let ours = Event::new("user").with_timestamp(start + f64::from(own));
                service.append(&mut session, ours.clone()).await?;
                ensure!(session.events.iter().any(|event| event.id == ours.id), "{session:?}");
                let stored = get(&service, &key).await?;
                ensure!(stored.events.ends_with(&session.events) && session.revision == stored.revision, "{session:?}");
            }
        }
    }
    adk.stop().await
}
