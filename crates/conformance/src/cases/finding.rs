//! Sessions are found by whatever a filter says, once each and in order.

use anyhow::{Context as _, ensure};
use seabed_core::{
    AnnotateSession, Error, Event, FindCursor, FindSessions, FoundSession, Json, Order, SessionFilter, SessionKey,
    SessionScope, State, Timestamp,
};

use crate::Context;

super::case_list![
    needs Directory:
    a_new_filter_finds_every_session,
    sessions_are_found_by_each_condition,
    conditions_are_all_to_be_met,
    pages_of_found_sessions_meet_each_once_in_both_orders,
    states_are_shown_only_if_they_are_asked_for,
    sessions_are_found_by_their_state_page_by_page,
    ids_and_texts_are_compared_exactly,
    counts_are_of_the_sessions_that_are_found,
    a_cursor_of_another_listing_is_refused,
    filters_that_match_nothing_are_refused,
];

const SESSIONS: usize = 12;

/// Sessions of two users, with titles, labels and states that differ.
async fn make(context: &Context) -> anyhow::Result<Vec<FoundSession>> {
    for number in 0..SESSIONS {
        let user = if number % 4 == 3 { "bob" } else { "alice" };
        let key = context.key(user, &format!("{}-{number:02}", ["trip", "Trip", "talk"][number % 3]))?;
        let state = State::new().with("n", u32::from(number % 2 == 1)).with("app:shared", 1);
        context.create(&key, state).await?;
        if number % 2 == 0 {
            context.append(&key, Event::new("user")).await?;
        }
        let request = AnnotateSession::new(key).with_label("n", (number % 3).to_string());
        let request = if number % 4 == 0 { request.with_label("even", "") } else { request };
        let request = if number % 5 == 0 { request } else { request.with_title(format!("100% {number}_é of Rome")) };
        context.directory()?.annotate_session(request).await?;
    }
    let all = FindSessions::new(SessionScope::App(context.app_name()?)).with_state();
    Ok(context.directory()?.find_sessions(all).await?.try_into_items()?)
}

async fn pages(context: &Context, mut request: FindSessions) -> anyhow::Result<Vec<FoundSession>> {
    let mut found = Vec::new();
    loop {
        let page = context.directory()?.find_sessions(request.clone()).await?;
        ensure!(page.items.len() <= request.limit() as usize);
        let next: Option<FindCursor> = page.next.clone();
        found.extend(page.try_into_items()?);
        let Some(cursor) = next else { return Ok(found) };
        // As a client would that keeps it in a URL.
        request = request.with_cursor(cursor.to_string().parse()?);
    }
}

fn keys(found: &[FoundSession]) -> Vec<&SessionKey> {
    found.iter().map(|session| &session.key).collect()
}

/// Whether the filter finds those of `all` that meet `condition`, in their order, and counts as many.
async fn check(
    context: &Context,
    all: &[FoundSession],
    filter: SessionFilter,
    condition: impl Fn(&FoundSession) -> bool,
) -> anyhow::Result<()> {
    let expected: Vec<_> = all.iter().filter(|session| condition(session)).map(|session| &session.key).collect();
    let scope = SessionScope::App(context.app_name()?);
    let found = pages(context, FindSessions::new(scope.clone()).with_filter(filter.clone()).with_limit(3)).await?;
    ensure!(keys(&found) == expected, "{filter:?} finds {:?} instead of {expected:?}", keys(&found));
    let count = context.directory()?.count_sessions(&scope, &filter).await?;
    ensure!(count == expected.len() as u64, "{filter:?} counts {count} instead of {}", expected.len());
    Ok(())
}

async fn a_new_filter_finds_every_session(context: Context) -> anyhow::Result<()> {
    let all = make(&context).await?;
    ensure!(all.len() == SESSIONS);
    for found in &all {
        let session = context.get(&found.key).await?;
        let shown = (found.revision, found.create_time(), found.last_update_time(), found.state.as_ref());
        let stored = (session.revision, session.create_time, session.last_update_time(), Some(&session.state));
        ensure!(shown == stored, "{found:?} {session:?}");
        ensure!(!found.annotations.labels.is_empty());
    }
    let alice = context.directory()?.find_sessions(FindSessions::new(SessionScope::User(context.user("alice")?)));
    let of_alice = all.iter().filter(|session| session.key.user_id.as_str() == "alice");
    ensure!(keys(&alice.await?.try_into_items()?) == of_alice.map(|session| &session.key).collect::<Vec<_>>());
    let nobody = FindSessions::new(SessionScope::User(context.user("nobody")?));
    ensure!(context.directory()?.find_sessions(nobody).await?.items.is_empty());
    Ok(())
}

async fn sessions_are_found_by_each_condition(context: Context) -> anyhow::Result<()> {
    let all = make(&context).await?;
    let new = SessionFilter::new;
    let label = |found: &FoundSession, name: &str| found.annotations.labels.get(name).cloned();
    check(&context, &all, new().with_label("n", "1"), |found| label(found, "n").as_deref() == Some("1")).await?;
    check(&context, &all, new().with_any_label("even"), |found| label(found, "even").is_some()).await?;
    check(&context, &all, new().with_any_label("none"), |_| false).await?;
    for part in ["Rome", "100% ", "1_é", "%", "1%"] {
        let has = |found: &FoundSession| found.annotations.title.as_ref().is_some_and(|title| title.contains(part));
        check(&context, &all, new().with_title_containing(part), has).await?;
    }
    for prefix in ["trip", "t", "Trip-0", "trip-00", "rip", "_"] {
        let begins = |found: &FoundSession| found.key.session_id.as_str().starts_with(prefix);
        check(&context, &all, new().with_id_prefix(prefix), begins).await?;
    }
    // A time in the middle, and the steps beside it.
    let updated = all[SESSIONS / 2].last_update_time();
    let created = all[SESSIONS / 2].create_time();
    for step in [-1, 0, 1] {
        let at = Timestamp::try_from_micros(updated.as_micros() + step)?;
        check(&context, &all, new().with_updated_since(at), |found| found.last_update_time() >= at).await?;
        check(&context, &all, new().with_updated_until(at), |found| found.last_update_time() < at).await?;
        let at = Timestamp::try_from_micros(created.as_micros() + step)?;
        check(&context, &all, new().with_created_since(at), |found| found.create_time() >= at).await?;
        check(&context, &all, new().with_created_until(at), |found| found.create_time() < at).await?;
    }
    let odd = Json::from(1);
    let is_odd = |found: &FoundSession| found.state.as_ref().and_then(|state| state.get("n")) == Some(&odd);
    check(&context, &all, new().with_state("n", 1), is_odd).await?;
    check(&context, &all, new().with_state("shared", 1), |_| false).await
}

async fn conditions_are_all_to_be_met(context: Context) -> anyhow::Result<()> {
    let all = make(&context).await?;
    let new = SessionFilter::new;
    let label = |found: &FoundSession, name: &str| found.annotations.labels.get(name).cloned();
    let both = |found: &FoundSession| label(found, "n").as_deref() == Some("2") && label(found, "even").is_some();
    check(&context, &all, new().with_label("n", "2").with_any_label("even"), both).await?;
    let since = all[SESSIONS - 3].last_update_time();
    let filter = new().with_title_containing("Rome").with_id_prefix("t").with_updated_since(since).with_state("n", 0);
    check(&context, &all, filter, |found| {
        found.annotations.title.is_some()
            && found.key.session_id.as_str().starts_with('t')
            && found.last_update_time() >= since
            && found.state.as_ref().and_then(|state| state.get("n")) == Some(&Json::from(0))
    })
    .await
}

async fn pages_of_found_sessions_meet_each_once_in_both_orders(context: Context) -> anyhow::Result<()> {
    let all = make(&context).await?;
    let scope = || anyhow::Ok(SessionScope::App(context.app_name()?));
    for limit in [1, 5, 12, 1000] {
        let newest_first = pages(&context, FindSessions::new(scope()?).with_limit(limit)).await?;
        ensure!(keys(&newest_first) == keys(&all));
        let request = FindSessions::new(scope()?).with_limit(limit).with_order(Order::Ascending);
        let mut oldest_first = pages(&context, request).await?;
        oldest_first.reverse();
        ensure!(keys(&oldest_first) == keys(&all));
    }
    Ok(())
}

async fn states_are_shown_only_if_they_are_asked_for(context: Context) -> anyhow::Result<()> {
    make(&context).await?;
    let request = || anyhow::Ok(FindSessions::new(SessionScope::App(context.app_name()?)));
    let filter = SessionFilter::new().with_state("n", 1);
    for (request, has_state) in [
        (request()?, false),
        (request()?.with_filter(filter.clone()), false),
        (request()?.with_state(), true),
        (request()?.with_filter(filter).with_state(), true),
    ] {
        let found = context.directory()?.find_sessions(request).await?.try_into_items()?;
        ensure!(!found.is_empty() && found.iter().all(|session| session.state.is_some() == has_state));
    }
    Ok(())
}

/// Values of every kind are compared as JSON, and a page ends where it has looked at enough.
async fn sessions_are_found_by_their_state_page_by_page(context: Context) -> anyhow::Result<()> {
    let values = [
        "null",
        "true",
        "1",
        "\"1\"",
        "\"é\\\"\"",
        "[1,{\"a\":null}]",
        "{\"b\":1,\"a\":[]}",
        "12345678901234567890123",
    ];
    let scope = SessionScope::User(context.user("alice")?);
    for (number, value) in values.into_iter().enumerate() {
        let key = context.key("alice", &format!("s{number}"))?;
        context.create(&key, State::new().with("k - \"'é", Json::parse(value)?)).await?;
    }
    for value in values {
        let filter = SessionFilter::new().with_state("k - \"'é", Json::parse(value)?);
        let found = pages(&context, FindSessions::new(scope.clone()).with_filter(filter.clone()).with_limit(1)).await?;
        ensure!(found.len() == 1, "{value}: {found:?}");
        ensure!(context.directory()?.count_sessions(&scope, &filter).await? == 1, "{value}");
    }
    Ok(())
}

async fn ids_and_texts_are_compared_exactly(context: Context) -> anyhow::Result<()> {
    for (id, text) in [("Key", "Rome"), ("key", "rome"), ("key ", "Rome "), ("kéy", "Romé")] {
        let key = context.key("alice", id)?;
        context.create(&key, State::new()).await?;
        let request = AnnotateSession::new(key).with_title(text).with_label("city", text).with_label(text, "");
        context.directory()?.annotate_session(request).await?;
    }
    let scope = SessionScope::User(context.user("alice")?);
    for (filter, expected) in [
        (SessionFilter::new().with_label("city", "Rome"), 1),
        (SessionFilter::new().with_any_label("Rome"), 1),
        (SessionFilter::new().with_label("City", "Rome"), 0),
        (SessionFilter::new().with_title_containing("Rome"), 2),
        (SessionFilter::new().with_title_containing("é"), 1),
        (SessionFilter::new().with_id_prefix("key"), 2),
        (SessionFilter::new().with_id_prefix("K"), 1),
    ] {
        let count = context.directory()?.count_sessions(&scope, &filter).await?;
        ensure!(count == expected, "{filter:?}: {count}");
    }
    Ok(())
}

async fn counts_are_of_the_sessions_that_are_found(context: Context) -> anyhow::Result<()> {
    make(&context).await?;
    let count = async |scope: SessionScope| {
        let all = SessionFilter::new();
        anyhow::Ok(context.directory()?.count_sessions(&scope, &all).await?)
    };
    ensure!(count(SessionScope::App(context.app_name()?)).await? == 12);
    ensure!(count(SessionScope::User(context.user("bob")?)).await? == 3);
    ensure!(count(SessionScope::User(context.user("nobody")?)).await? == 0);
    Ok(())
}

async fn a_cursor_of_another_listing_is_refused(context: Context) -> anyhow::Result<()> {
    make(&context).await?;
    let of = |user: &str| anyhow::Ok(FindSessions::new(SessionScope::User(context.user(user)?)).with_limit(1));
    let page = context.directory()?.find_sessions(of("alice")?).await?;
    let cursor = page.next.context("a page of one among several is not the last")?;
    for other in [
        of("bob")?,
        of("alice")?.with_order(Order::Ascending),
        of("alice")?.with_filter(SessionFilter::new().with_label("n", "1")),
    ] {
        let refused = context.directory()?.find_sessions(other.with_cursor(cursor.clone())).await;
        ensure!(matches!(&refused, Err(Error::Invalid { field: "cursor", .. })), "{refused:?}");
    }
    context.directory()?.find_sessions(of("alice")?.with_cursor(cursor).with_state().with_limit(5)).await?;
    Ok(())
}

async fn filters_that_match_nothing_are_refused(context: Context) -> anyhow::Result<()> {
    let scope = SessionScope::User(context.user("alice")?);
    let new = SessionFilter::new;
    let many = (0..1000).fold(new(), |filter, number| filter.with_any_label(number.to_string()));
    for (field, filter) in [
        ("title", new().with_title_containing("")),
        ("title", new().with_title_containing("x".repeat(257))),
        ("id_prefix", new().with_id_prefix("")),
        ("id_prefix", new().with_id_prefix("a\0")),
        ("label.name", new().with_any_label("")),
        ("label.value", new().with_label("l", "x".repeat(129))),
        ("labels", many),
        ("state", new().with_state("app:k", 1)),
        ("state", new().with_state("temp:k", 1)),
    ] {
        let page =
            context.directory()?.find_sessions(FindSessions::new(scope.clone()).with_filter(filter.clone())).await;
        let count = context.directory()?.count_sessions(&scope, &filter).await;
        for refused in [page.err(), count.err()] {
            let is_told = matches!(&refused, Some(Error::Invalid { field: told, .. }) if *told == field);
            ensure!(is_told, "{filter:?}: {refused:?}");
        }
    }
    for limit in [0, 1001] {
        let refused = context.directory()?.find_sessions(FindSessions::new(scope.clone()).with_limit(limit)).await;
        ensure!(matches!(&refused, Err(Error::Invalid { field: "limit", .. })), "{refused:?}");
    }
    Ok(())
}
