//! Titles and labels belong to their session, and none is lost.

use anyhow::{Context as _, ensure};
use seabed_core::{
    AnnotateSession, Annotations, DeleteSession, DirectoryServiceExt as _, Error, Event, FindSessions, FoundSession,
    GetSession, SessionFilter, SessionKey, SessionScope, State,
};

use crate::Context;
use crate::context::at_once;

super::case_list![
    needs Directory:
    a_title_and_labels_are_set_and_removed,
    annotations_change_no_revision,
    a_session_that_does_not_exist_cannot_be_annotated,
    a_stale_annotation_is_refused,
    bad_annotations_are_refused,
    a_session_takes_no_more_labels_than_allowed,
    any_text_is_a_title_and_a_label,
    the_longest_label_fits_beside_the_longest_ids,
    concurrent_labels_lose_none,
    writers_of_one_label_leave_the_last_ones_value,
    annotations_do_not_outlive_their_session,
    annotations_and_deletes_leave_nothing_behind,
];

/// Finds one session.
async fn found(context: &Context, key: &SessionKey) -> anyhow::Result<Option<FoundSession>> {
    let filter = SessionFilter::new().with_id_prefix(key.session_id.as_str());
    let request = FindSessions::new(SessionScope::User(key.user())).with_filter(filter);
    let sessions = context.directory()?.find_sessions(request).await?.try_into_items()?;
    Ok(sessions.into_iter().find(|session| session.key == *key))
}

async fn annotations(context: &Context, key: &SessionKey) -> anyhow::Result<Annotations> {
    Ok(found(context, key).await?.context("the session is gone")?.annotations)
}

/// The number of sessions of the case's app that have a label of this name, by the rows of labels.
async fn count_labelled(context: &Context, name: &str) -> anyhow::Result<u64> {
    let scope = SessionScope::App(context.app_name()?);
    Ok(context.directory()?.count_sessions(&scope, &SessionFilter::new().with_any_label(name)).await?)
}

async fn a_title_and_labels_are_set_and_removed(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let other = context.session("alice").await?.key;
    let directory = context.directory()?;
    ensure!(annotations(&context, &key).await? == Annotations::default());
    let titled = directory.set_title(&key, Some("Rome")).await?;
    ensure!(titled.title.as_deref() == Some("Rome") && titled.labels.is_empty(), "{titled:?}");
    let both = directory.set_labels(&key, &[("a", Some("1")), ("b", Some(""))]).await?;
    ensure!(both.title.as_deref() == Some("Rome") && both.labels.len() == 2, "{both:?}");
    ensure!(annotations(&context, &key).await? == both);
    let merged = directory.set_labels(&key, &[("a", Some("2")), ("b", None), ("never", None)]).await?;
    ensure!(merged.labels.get("a").is_some_and(|value| value == "2") && merged.labels.len() == 1, "{merged:?}");
    ensure!(annotations(&context, &key).await? == merged);
    ensure!(count_labelled(&context, "a").await? == 1 && count_labelled(&context, "b").await? == 0);
    let none = directory.annotate_session(AnnotateSession::new(key.clone()).without_title().without_label("a")).await?;
    ensure!(none == Annotations::default() && annotations(&context, &key).await? == none, "{none:?}");
    ensure!(annotations(&context, &other).await? == Annotations::default(), "another session has them");
    Ok(())
}

async fn annotations_change_no_revision(context: Context) -> anyhow::Result<()> {
    let session = context.create(&context.key("alice", "s")?, State::new().with("k", 1)).await?;
    context.directory()?.set_title(&session.key, Some("Rome")).await?;
    context.directory()?.set_labels(&session.key, &[("a", Some("1"))]).await?;
    ensure!(context.get(&session.key).await? == session);
    // The holder of the session is not stale.
    context.append_at(&session.key, Event::new("user"), session.revision).await?;
    ensure!(annotations(&context, &session.key).await?.labels.len() == 1, "an append took the labels");
    Ok(())
}

async fn a_session_that_does_not_exist_cannot_be_annotated(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "s")?;
    let refused = context.directory()?.set_title(&key, Some("Rome")).await;
    ensure!(matches!(&refused, Err(Error::NotFound { key: told }) if **told == key), "{refused:?}");
    // Nothing waits for the session to be created.
    context.create(&key, State::new()).await?;
    ensure!(annotations(&context, &key).await? == Annotations::default());
    Ok(())
}

async fn a_stale_annotation_is_refused(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    let at = |revision| {
        AnnotateSession::new(session.key.clone())
            .with_title("Rome")
            .with_label("a", "1")
            .with_expected_revision(revision)
    };
    let current = context.append(&session.key, Event::new("user")).await?.revision().context("not stored")?;
    let refused = context.directory()?.annotate_session(at(session.revision)).await;
    let is_told = matches!(&refused, Err(Error::RevisionConflict { actual, .. }) if *actual == current);
    ensure!(is_told, "{refused:?}");
    ensure!(annotations(&context, &session.key).await? == Annotations::default(), "a refused change was stored");
    context.directory()?.annotate_session(at(current)).await?;
    ensure!(annotations(&context, &session.key).await?.labels.len() == 1);
    Ok(())
}

async fn bad_annotations_are_refused(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let request = || AnnotateSession::new(key.clone());
    let many = (0..1000).fold(request(), |request, number| request.with_label(format!("l{number}"), ""));
    for (field, bad) in [
        ("annotations", request()),
        ("title", request().with_title("")),
        ("title", request().with_title("x".repeat(257))),
        ("title", request().with_title("x".repeat(10 << 20))),
        ("title", request().with_title("a\0b")),
        ("label.name", request().with_label("", "x")),
        ("label.name", request().without_label("x".repeat(65))),
        ("label.name", request().with_label("a\0b", "x")),
        ("label.value", request().with_label("x", "x".repeat(129))),
        ("label.value", request().with_label("x", "a\0b")),
        ("labels", many),
    ] {
        let refused = context.directory()?.annotate_session(bad).await;
        let is_told = matches!(&refused, Err(Error::Invalid { field: told, .. }) if *told == field);
        ensure!(is_told, "{field}: {refused:?}");
    }
    ensure!(annotations(&context, &key).await? == Annotations::default());
    Ok(())
}

async fn a_session_takes_no_more_labels_than_allowed(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let request = |from: usize, to: usize| {
        (from..to).fold(AnnotateSession::new(key.clone()), |request, number| {
            request.with_label(format!("{number:02}{}", "é".repeat(62)), "\u{1F600}".repeat(128))
        })
    };
    let directory = context.directory()?;
    let full = directory.annotate_session(request(0, AnnotateSession::MAX_LABELS)).await?;
    ensure!(full.labels.len() == AnnotateSession::MAX_LABELS);
    let refused = directory.annotate_session(request(63, 66).with_title("Rome")).await;
    ensure!(matches!(&refused, Err(Error::Invalid { field: "labels", .. })), "{refused:?}");
    ensure!(annotations(&context, &key).await? == full, "a refused change was stored");
    let swapped = request(64, 65).without_label(full.labels.keys().next().context("no labels")?);
    directory.annotate_session(swapped).await?;
    Ok(())
}

async fn any_text_is_a_title_and_a_label(context: Context) -> anyhow::Result<()> {
    let texts =
        ["'", "\"", "\\", "%", "_", "{}", "null", " a ", "é\u{2028}\u{7}", "\u{1F600}", "a\r\nb", "?", "$1", ":x"];
    for (number, text) in texts.into_iter().enumerate() {
        let key = context.key("alice", &format!("s{number}"))?;
        context.create(&key, State::new()).await?;
        let request = AnnotateSession::new(key.clone()).with_title(text).with_label(text, text).with_label("n", text);
        let set = context.directory()?.annotate_session(request).await?;
        ensure!(set.title.as_deref() == Some(text) && annotations(&context, &key).await? == set, "{text:?}: {set:?}");
        let scope = SessionScope::User(key.user());
        for filter in [
            SessionFilter::new().with_label(text, text),
            SessionFilter::new().with_label("n", text),
            SessionFilter::new().with_any_label(text),
        ] {
            let count = context.directory()?.count_sessions(&scope, &filter).await?;
            ensure!(count == 1, "{count} sessions for {filter:?}");
        }
    }
    Ok(())
}

/// In characters of four bytes, in an order that does not compress.
async fn the_longest_label_fits_beside_the_longest_ids(context: Context) -> anyhow::Result<()> {
    let long = |seed: u32, length: u32| -> String {
        let spread = |number: u32| (seed * 7919 + number).wrapping_mul(2_654_435_761) % 0x1_0000;
        (0..length).filter_map(|number| char::from_u32(0x2_0000 + spread(number))).collect()
    };
    let key = context.key(&long(1, 128), &long(2, 128))?;
    context.create(&key, State::new()).await?;
    let (name, value, title) = (long(3, 64), long(4, 128), long(5, 256));
    let request = AnnotateSession::new(key.clone()).with_label(&name, &value).with_title(&title);
    let set = context.directory()?.annotate_session(request).await?;
    ensure!(annotations(&context, &key).await? == set);
    let filter = SessionFilter::new().with_label(name, value).with_title_containing(title);
    ensure!(context.directory()?.count_sessions(&SessionScope::User(key.user()), &filter).await? == 1);
    Ok(())
}

/// Writers of two services set a label each, some of them of a session that has no row of labels yet.
async fn concurrent_labels_lose_none(context: Context) -> anyhow::Result<()> {
    const WRITERS: usize = 24;
    let keys = [context.session("alice").await?.key, context.session("bob").await?.key];
    let services = [context.directory()?.clone(), context.another_directory().await?];
    let outcomes = at_once(WRITERS * 2, |number| {
        let (service, key) = (services[number % 2].clone(), keys[number / WRITERS].clone());
        async move { service.set_labels(&key, &[(format!("l{number}").as_str(), Some("x"))]).await }
    })
    .await;
    outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    for (index, key) in keys.iter().enumerate() {
        let stored = annotations(&context, key).await?;
        ensure!(stored.labels.len() == WRITERS, "{} of {WRITERS} labels are there", stored.labels.len());
        for name in stored.labels.keys() {
            ensure!(count_labelled(&context, name).await? == 1, "{name} of session {index} is not found");
        }
    }
    Ok(())
}

async fn writers_of_one_label_leave_the_last_ones_value(context: Context) -> anyhow::Result<()> {
    const WRITERS: usize = 16;
    let key = context.session("alice").await?.key;
    let services = [context.directory()?.clone(), context.another_directory().await?];
    let outcomes = at_once(WRITERS, |number| {
        let (service, key) = (services[number % 2].clone(), key.clone());
        let value = (number % 5 > 0).then(|| number.to_string());
        async move { service.set_labels(&key, &[("l", value.as_deref())]).await }
    })
    .await;
    outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
    // The rows to find it by are those that it shows.
    let stored = annotations(&context, &key).await?;
    let scope = SessionScope::User(key.user());
    let mut found = 0;
    for number in 0..WRITERS {
        let value = number.to_string();
        let count = context.directory()?.count_sessions(&scope, &SessionFilter::new().with_label("l", &value)).await?;
        ensure!(count == u64::from(stored.labels.get("l") == Some(&value)), "{stored:?} is found by {value}");
        found += count;
    }
    ensure!(found == count_labelled(&context, "l").await?);
    Ok(())
}

async fn annotations_do_not_outlive_their_session(context: Context) -> anyhow::Result<()> {
    let key = context.create(&context.key("alice", "s")?, State::new()).await?.key;
    let other = context.create(&context.key("alice", "other")?, State::new()).await?.key;
    for key in [&key, &other] {
        let request = AnnotateSession::new(key.clone()).with_title("Rome").with_label("a", "1");
        context.directory()?.annotate_session(request).await?;
    }
    context.service.delete_session(DeleteSession::new(key.clone())).await?;
    ensure!(found(&context, &key).await?.is_none() && count_labelled(&context, "a").await? == 1);
    context.create(&key, State::new()).await?;
    ensure!(annotations(&context, &key).await? == Annotations::default(), "they came back with the id");
    ensure!(count_labelled(&context, "a").await? == 1);
    ensure!(annotations(&context, &other).await?.labels.len() == 1);
    Ok(())
}

/// Some set labels of a session that others delete and create anew.
async fn annotations_and_deletes_leave_nothing_behind(context: Context) -> anyhow::Result<()> {
    let key = context.create(&context.key("alice", "s")?, State::new()).await?.key;
    let services = [context.directory()?.clone(), context.another_directory().await?];
    let outcomes = at_once(18, |number| {
        let (service, key) = (services[number % 2].clone(), key.clone());
        async move {
            for _ in 0..5 {
                let outcome = match number % 3 {
                    0 => service.delete_session(DeleteSession::new(key.clone())).await,
                    1 => service.create_session(crate::context::request(&key, State::new())).await.map(drop),
                    _ => {
                        let request = AnnotateSession::new(key.clone()).with_title("t").with_label("l", "x");
                        service.annotate_session(request).await.map(drop)
                    }
                };
                match outcome {
                    Ok(()) | Err(Error::NotFound { .. } | Error::AlreadyExists { .. }) => {}
                    Err(other) => return Err(other),
                }
            }
            Ok(())
        }
    })
    .await;
    outcomes.into_iter().collect::<Result<(), _>>()?;
    context.service.delete_session(DeleteSession::new(key.clone())).await?;
    context.create(&key, State::new()).await?;
    ensure!(context.service.get_session(GetSession::new(key.clone())).await?.is_some());
    ensure!(annotations(&context, &key).await? == Annotations::default());
    ensure!(count_labelled(&context, "l").await? == 0);
    Ok(())
}
