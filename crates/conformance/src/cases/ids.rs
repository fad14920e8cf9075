//! Law 6: ids are exact bytes.

use anyhow::ensure;
use seabed_core::{AppName, Error, Event, SessionId, SessionKey, State, UserId};

use crate::Context;
use crate::context::{event_ids, session_id};

super::case_list![
    session_ids_that_look_alike_are_different,
    user_ids_that_look_alike_are_different,
    app_names_that_look_alike_are_different,
    event_ids_that_look_alike_are_different,
    odd_ids_are_taken_literally,
    the_longest_ids_fit,
    ids_that_do_not_fit_are_refused_before_any_io,
];

/// Ids that some collation treats as equal: by case, accent, trailing blank, Unicode form, width, ligature.
const LOOK_ALIKES: [&str; 16] = [
    "Alice",
    "alice",
    "ALICE",
    "bob",
    "bob ",
    "bob  ",
    " bob",
    "é",
    "e",
    "e\u{301}",
    "É",
    "ß",
    "ss",
    "ﬁ",
    "fi",
    "\u{ff41}lice",
];

async fn session_ids_that_look_alike_are_different(context: Context) -> anyhow::Result<()> {
    let keys = LOOK_ALIKES.map(|id| context.key("user", id));
    expect_separate(&context, keys.into_iter().collect::<Result<_, _>>()?).await
}

async fn user_ids_that_look_alike_are_different(context: Context) -> anyhow::Result<()> {
    let keys = LOOK_ALIKES.map(|id| context.key(id, "session"));
    expect_separate(&context, keys.into_iter().collect::<Result<_, _>>()?).await?;
    for id in LOOK_ALIKES {
        let state = context.service.get_user_state(&context.user(id)?).await?;
        ensure!(state.decode::<String>("of")?.as_deref() == Some(id), "user state of {id:?} is {state:?}");
    }
    Ok(())
}

async fn app_names_that_look_alike_are_different(context: Context) -> anyhow::Result<()> {
    let name = |id: &str| format!("{}{id}", context.app);
    let keys = LOOK_ALIKES.map(|id| SessionKey::try_new(name(id), id, "session"));
    expect_separate(&context, keys.into_iter().collect::<Result<_, _>>()?).await?;
    for id in LOOK_ALIKES {
        let state = context.service.get_app_state(&AppName::try_new(name(id))?).await?;
        ensure!(state.decode::<String>("of")?.as_deref() == Some(id), "app state of {id:?} is {state:?}");
    }
    Ok(())
}

/// Checks that each key has its own session with its own state.
async fn expect_separate(context: &Context, keys: Vec<SessionKey>) -> anyhow::Result<()> {
    for (key, id) in keys.iter().zip(LOOK_ALIKES) {
        let state = State::new().with("of", id).with("user:of", id).with("app:of", id);
        context.create(key, state).await?;
    }
    for (key, id) in keys.iter().zip(LOOK_ALIKES) {
        let session = context.get(key).await?;
        ensure!(session.key == *key);
        ensure!(session.state.decode::<String>("of")?.as_deref() == Some(id), "{id:?} is another's session");
    }
    Ok(())
}

async fn event_ids_that_look_alike_are_different(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    for id in LOOK_ALIKES {
        ensure!(
            !context.append(&key, Event::new("user").with_id(id)).await?.is_replayed(),
            "{id:?} is another's event"
        );
    }
    ensure!(event_ids(&context.get(&key).await?) == LOOK_ALIKES);
    Ok(())
}

async fn odd_ids_are_taken_literally(context: Context) -> anyhow::Result<()> {
    for id in
        ["%", "_", "'; DROP TABLE events; --", "a\\b", "a/b", "\"", "`", "\n", "\u{feff}", "🤖", "NULL", "?", "$1"]
    {
        let key = context.key(id, id)?;
        context.create(&key, State::new()).await?;
        context.append(&key, Event::new("user").with_id(id)).await?;
        let session = context.get(&key).await?;
        ensure!(session.key == key && event_ids(&session) == [id]);
    }
    Ok(())
}

async fn the_longest_ids_fit(context: Context) -> anyhow::Result<()> {
    let longest = "🤖".repeat(128);
    let app = format!("{}{}", context.app, "🤖".repeat(128 - context.app.chars().count()));
    let key = SessionKey::try_new(app, &longest, &longest)?;
    context.create(&key, State::new().with("user:k", 1).with("app:k", 1)).await?;
    let event = Event::new("user").with_id(&longest).with_invocation_id("é".repeat(256));
    context.append(&key, event.clone()).await?;
    ensure!(context.get(&key).await?.events == [event]);
    Ok(())
}

async fn ids_that_do_not_fit_are_refused_before_any_io(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let before = context.get(&key).await?;
    let too_long = "x".repeat(129);
    for bad in ["", "a\0b", &too_long] {
        ensure!(matches!(AppName::try_new(bad), Err(Error::Invalid { field: "app_name", .. })));
        ensure!(matches!(UserId::try_new(bad), Err(Error::Invalid { field: "user_id", .. })));
        ensure!(matches!(SessionId::try_new(bad), Err(Error::Invalid { field: "session_id", .. })));
        ensure!(session_id(bad).is_err());
        let refused = context.append(&key, Event::new("user").with_id(bad)).await;
        ensure!(matches!(refused, Err(Error::Invalid { field: "event.id", .. })), "{bad:?}: {refused:?}");
    }
    for bad in ["\0", &"x".repeat(257)] {
        let refused = context.append(&key, Event::new("user").with_invocation_id(bad)).await;
        ensure!(matches!(refused, Err(Error::Invalid { field: "event.invocation_id", .. })), "{bad:?}: {refused:?}");
    }
    ensure!(context.get(&key).await? == before);
    Ok(())
}
