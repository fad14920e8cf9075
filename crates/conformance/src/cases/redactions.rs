//! What a redaction takes back is gone, and everything else stays.

use anyhow::{Context as _, ensure};
use seabed_core::history::RedactEvent;
use seabed_core::{
    AppendEvent, Appended, Error, Event, ExpectedRevision, Revision, Session, SessionKey, SessionServiceExt as _, State,
};
use serde_json::json;

use crate::Context;
use crate::context::{at_once, event_ids};

super::case_list![
    needs History:
    a_redacted_event_keeps_its_place_and_its_state,
    a_redaction_is_reported_in_its_session,
    a_redacted_event_is_not_stored_again,
    a_redaction_that_cannot_be_is_refused_and_writes_nothing,
    a_redaction_beside_replays_and_appends_loses_nothing,
    equal_redactions_are_one,
];

const SECRET: &str = "the secret";

fn secret(id: &str) -> Event {
    let mut event = Event::new("user").with_id(id).with_invocation_id("i").with_text(SECRET);
    event.extra.insert("custom_metadata".to_owned(), json!({"k": SECRET}).into());
    event.with_state_delta(State::new().with(id, 1).with("user:u", 1))
}

/// A session with these events.
async fn session_of(context: &Context, ids: &[&str]) -> anyhow::Result<Session> {
    let key = context.session("alice").await?.key;
    for id in ids {
        context.append(&key, secret(id)).await?;
    }
    context.get(&key).await
}

async fn append(context: &Context, key: &SessionKey, event: Event) -> Result<Appended, Error> {
    context.service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await
}

async fn a_redacted_event_keeps_its_place_and_its_state(context: Context) -> anyhow::Result<()> {
    let before = session_of(&context, &["a", "b", "c"]).await?;
    let history = context.history()?;
    for (replacement, content) in [
        (None, None),
        (Some("removed \u{1F600}'\"\\"), Some(json!({"parts": [{"text": "removed \u{1F600}'\"\\"}], "role": "user"}))),
    ] {
        let request = RedactEvent::new(before.key.clone(), "b");
        let request = replacement.iter().fold(request, |request, text| request.with_replacement(*text));
        let redacted = history.redact_event(request).await?;
        let after = context.get(&before.key).await?;
        ensure!(after.revision == redacted.revision && after.state == before.state, "{after:?}");
        ensure!(event_ids(&after)[..3] == ["a", "b", "c"], "{:?}", event_ids(&after));
        let (stored, original) = (&after.events[1], &before.events[1]);
        ensure!(*stored == redacted.event && stored.content == content.map(Into::into), "{stored:?}");
        ensure!(stored.actions == original.actions && stored.timestamp.to_bits() == original.timestamp.to_bits());
        ensure!(stored.invocation_id == original.invocation_id && stored.author == original.author);
        ensure!(!format!("{stored:?}").contains(SECRET), "{stored:?}");
        ensure!((&after.events[0], &after.events[2]) == (&before.events[0], &before.events[2]), "{after:?}");
    }
    Ok(())
}

async fn a_redaction_is_reported_in_its_session(context: Context) -> anyhow::Result<()> {
    let mut session = session_of(&context, &["a", "b"]).await?;
    let stale = session.revision;
    let redacted = context.history()?.redact_event(RedactEvent::new(session.key.clone(), "a")).await?;
    ensure!(redacted.revision != stale);
    let told = context.append_at(&session.key, Event::new("agent"), stale).await;
    let is_told = matches!(&told, Err(Error::RevisionConflict { actual, .. }) if *actual == redacted.revision);
    ensure!(is_told, "{told:?}");
    context.service.refresh(&mut session).await?;
    let notice = session.events.last().context("no event")?;
    let mark = notice.extra.get("custom_metadata").context("no mark")?;
    ensure!(*mark == json!({"seabed_redacted_event_id": "a"}).into() && notice.content.is_none(), "{notice:?}");
    ensure!(session.revision == redacted.revision);
    Ok(())
}

async fn a_redacted_event_is_not_stored_again(context: Context) -> anyhow::Result<()> {
    let session = session_of(&context, &["a", "b"]).await?;
    let redact = || RedactEvent::new(session.key.clone(), "a");
    let first = context.history()?.redact_event(redact()).await?;
    let after = context.get(&session.key).await?;
    let refused = append(&context, &session.key, secret("a")).await;
    ensure!(matches!(&refused, Err(Error::EventIdReused { event_id, .. }) if event_id == "a"), "{refused:?}");
    // The redacted event is one like others: a copy of it is a replay.
    let replay = append(&context, &session.key, first.event.clone()).await?;
    ensure!(matches!(replay, Appended::Replayed(_)), "{replay:?}");
    let again = context.history()?.redact_event(redact()).await?;
    ensure!(again == first, "{again:?} instead of {first:?}");
    ensure!(context.get(&session.key).await? == after);
    Ok(())
}

async fn a_redaction_that_cannot_be_is_refused_and_writes_nothing(context: Context) -> anyhow::Result<()> {
    let history = context.history()?;
    let gone = history.redact_event(RedactEvent::new(context.key("alice", "gone")?, "a")).await;
    ensure!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    let session = session_of(&context, &["a"]).await?;
    for bad in ["", "b", "A", "a ", "a\0", &"x".repeat(129)] {
        let refused = history.redact_event(RedactEvent::new(session.key.clone(), bad)).await;
        ensure!(matches!(refused, Err(Error::Invalid { field: "event_id", .. })), "{bad:?}: {refused:?}");
    }
    let refused = history.redact_event(RedactEvent::new(session.key.clone(), "a").with_replacement("a\0b")).await;
    ensure!(matches!(refused, Err(Error::Invalid { field: "replacement", .. })), "{refused:?}");
    // An event of that id in another session of the user.
    let other = session_of(&context, &["other"]).await?;
    let refused = history.redact_event(RedactEvent::new(session.key.clone(), "other")).await;
    ensure!(matches!(refused, Err(Error::Invalid { field: "event_id", .. })), "{refused:?}");
    ensure!(context.get(&session.key).await? == session && context.get(&other.key).await? == other);
    Ok(())
}

/// One service redacts an event that others append, and append again.
async fn a_redaction_beside_replays_and_appends_loses_nothing(context: Context) -> anyhow::Result<()> {
    const WRITERS: usize = 12;
    let session = session_of(&context, &["a"]).await?;
    let services = [context.history()?.clone(), context.another_history().await?];
    let outcomes = at_once(WRITERS, |number| {
        let (service, key) = (services[number % 2].clone(), session.key.clone());
        let event = if number % 3 == 0 { secret("a") } else { secret(&format!("n{number}")) };
        async move {
            if number == WRITERS / 2 {
                let redacted = service.redact_event(RedactEvent::new(key.clone(), "a")).await?;
                // Nobody who comes later finds the original.
                let request = AppendEvent::new(key, secret("a"), ExpectedRevision::Any);
                return match service.append_event(request).await {
                    Err(Error::EventIdReused { .. }) => Ok(Some(redacted.revision)),
                    other => panic!("{other:?} after the redaction"),
                };
            }
            match service.append_event(AppendEvent::new(key, event, ExpectedRevision::Any)).await {
                Ok(_) | Err(Error::EventIdReused { .. }) => Ok::<Option<Revision>, Error>(None),
                Err(error) => Err(error),
            }
        }
    })
    .await;
    let revisions = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure!(revisions.iter().flatten().count() == 1);
    let stored = context.get(&session.key).await?;
    let appended = (0..WRITERS).filter(|number| number % 3 != 0 && *number != WRITERS / 2);
    for id in appended.map(|number| format!("n{number}")) {
        ensure!(event_ids(&stored).contains(&&*id) && stored.state.get(&id).is_some(), "{id} is lost: {stored:?}");
    }
    ensure!(stored.events[0].id == "a" && stored.events[0].content.is_none(), "{:?}", stored.events[0]);
    ensure!(stored.state.get("a").is_some());
    Ok(())
}

async fn equal_redactions_are_one(context: Context) -> anyhow::Result<()> {
    let session = session_of(&context, &["a", "b"]).await?;
    let services = [context.history()?.clone(), context.another_history().await?];
    let outcomes = at_once(12, |number| {
        let service = services[number % 2].clone();
        let request = RedactEvent::new(session.key.clone(), "a").with_replacement("removed");
        async move { service.redact_event(request).await }
    })
    .await;
    let redacted = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    let stored = context.get(&session.key).await?;
    ensure!(stored.events.len() == 3, "{:?}", event_ids(&stored));
    ensure!(redacted.iter().all(|one| one.revision == stored.revision && one.event == stored.events[0]));
    Ok(())
}
