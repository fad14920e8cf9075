//! Listings return every row once, in order, even while rows are inserted and deleted.

use std::collections::BTreeSet;

use anyhow::ensure;
use seabed_core::{
    Error, Event, EventCursor, ListEvents, ListSessions, Order, Session, SessionCursor, SessionKey, SessionScope, State,
};

use crate::Context;

super::case_list![
    sessions_of_a_user_are_listed_in_order,
    sessions_of_an_app_are_listed_across_users,
    listed_sessions_show_merged_state_and_no_events,
    an_update_moves_a_session_to_the_newest_end,
    a_listing_meets_every_session_while_others_are_inserted,
    listing_an_unknown_user_is_an_empty_page,
    events_are_listed_in_both_directions,
    a_listing_meets_events_appended_meanwhile,
    listing_events_of_no_session_is_not_found,
    listing_events_of_an_empty_session_is_an_empty_page,
    cursors_survive_serialization,
    a_cursor_that_no_event_has_is_refused,
    limits_out_of_range_are_refused,
];

const SESSIONS: usize = 25;

async fn make_sessions(context: &Context, user: &str) -> anyhow::Result<Vec<SessionKey>> {
    let mut keys = Vec::new();
    for number in 0..SESSIONS {
        let key = context.key(user, &format!("s{number:02}"))?;
        context.create(&key, State::new()).await?;
        keys.push(key);
    }
    Ok(keys)
}

/// Reads all pages of a listing; `between` runs after each.
async fn all_pages(
    context: &Context,
    mut request: ListSessions,
    mut between: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Session>> {
    let mut sessions = Vec::new();
    loop {
        let page = context.service.list_sessions(request.clone()).await?;
        let next = page.next.clone();
        sessions.extend(page.try_into_items()?);
        between().await?;
        let Some(cursor) = next else { return Ok(sessions) };
        request = request.with_cursor(cursor);
    }
}

async fn sessions_of_a_user_are_listed_in_order(context: Context) -> anyhow::Result<()> {
    let mut expected = make_sessions(&context, "alice").await?;
    context.session("bob").await?;
    for (order, limit) in
        [(Order::Ascending, 7), (Order::Descending, 5), (Order::Ascending, 1000), (Order::Descending, 25)]
    {
        let request = ListSessions::new(SessionScope::User(context.user("alice")?)).with_order(order).with_limit(limit);
        let listed = all_pages(&context, request, async || Ok(())).await?;
        let updates: Vec<_> = listed.iter().map(Session::last_update_time).collect();
        match order {
            Order::Ascending => ensure!(updates.is_sorted()),
            Order::Descending => ensure!(updates.iter().rev().is_sorted()),
        }
        let mut keys: Vec<_> = listed.into_iter().map(|session| session.key).collect();
        keys.sort();
        expected.sort();
        ensure!(keys == expected, "{} sessions, listed {}", expected.len(), keys.len());
    }
    Ok(())
}

async fn sessions_of_an_app_are_listed_across_users(context: Context) -> anyhow::Result<()> {
    let mut expected = make_sessions(&context, "alice").await?;
    expected.extend(make_sessions(&context, "bob").await?);
    let request = ListSessions::new(SessionScope::App(context.app_name()?)).with_limit(9);
    let listed = all_pages(&context, request, async || Ok(())).await?;
    let mut keys: Vec<_> = listed.into_iter().map(|session| session.key).collect();
    keys.sort();
    expected.sort();
    ensure!(keys == expected);
    Ok(())
}

async fn listed_sessions_show_merged_state_and_no_events(context: Context) -> anyhow::Result<()> {
    let state = State::new().with("k", 1).with("user:k", 2).with("app:k", 3);
    let key = context.create(&context.key("alice", "s")?, state.clone()).await?.key;
    context.append(&key, Event::new("user")).await?;
    let request = ListSessions::new(SessionScope::User(key.user()));
    let listed = context.service.list_sessions(request).await?.try_into_items()?;
    let mut expected = context.get(&key).await?;
    expected.events.clear();
    ensure!(listed == [expected], "{listed:?}");
    Ok(())
}

async fn an_update_moves_a_session_to_the_newest_end(context: Context) -> anyhow::Result<()> {
    let keys = make_sessions(&context, "alice").await?;
    context.append(&keys[3], Event::new("user").with_timestamp(Event::new("user").timestamp + 60.0)).await?;
    let newest = ListSessions::new(SessionScope::User(keys[0].user())).with_limit(1);
    let listed = context.service.list_sessions(newest).await?.try_into_items()?;
    ensure!(listed.len() == 1 && listed[0].key == keys[3]);
    Ok(())
}

async fn a_listing_meets_every_session_while_others_are_inserted(context: Context) -> anyhow::Result<()> {
    for order in [Order::Ascending, Order::Descending] {
        let user = format!("{order:?}");
        let expected: BTreeSet<_> = make_sessions(&context, &user).await?.into_iter().collect();
        let request = ListSessions::new(SessionScope::User(context.user(&user)?)).with_order(order).with_limit(4);
        let mut inserted = 0;
        let listed = all_pages(&context, request, async || {
            // Bounded, because an ascending listing returns the inserted sessions too.
            if inserted < 10 {
                inserted += 1;
                context.session(&user).await?;
            }
            Ok(())
        })
        .await?;
        let keys: BTreeSet<_> = listed.iter().map(|session| session.key.clone()).collect();
        ensure!(keys.len() == listed.len(), "a session was listed twice");
        ensure!(expected.is_subset(&keys), "a session was skipped");
    }
    Ok(())
}

async fn listing_an_unknown_user_is_an_empty_page(context: Context) -> anyhow::Result<()> {
    let page = context.service.list_sessions(ListSessions::new(SessionScope::User(context.user("nobody")?))).await?;
    ensure!(page.items.is_empty() && page.next.is_none());
    Ok(())
}

async fn append_events(context: &Context, key: &SessionKey, numbers: std::ops::Range<usize>) -> anyhow::Result<()> {
    for number in numbers {
        context.append(key, Event::new("user").with_id(number.to_string())).await?;
    }
    Ok(())
}

async fn listed_events(
    context: &Context,
    mut request: ListEvents,
    mut between: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<usize>> {
    let mut numbers = Vec::new();
    loop {
        let page = context.service.list_events(request.clone()).await?;
        let next = page.next.clone();
        for event in page.try_into_items()? {
            numbers.push(event.id.parse()?);
        }
        between().await?;
        let Some(cursor) = next else { return Ok(numbers) };
        request = request.with_cursor(cursor);
    }
}

async fn events_are_listed_in_both_directions(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    append_events(&context, &key, 0..23).await?;
    for limit in [1, 7, 23, 100] {
        let ascending = ListEvents::new(key.clone()).with_limit(limit);
        let descending = ascending.clone().with_order(Order::Descending);
        ensure!(listed_events(&context, ascending, async || Ok(())).await?.into_iter().eq(0..23));
        ensure!(listed_events(&context, descending, async || Ok(())).await?.into_iter().eq((0..23).rev()));
    }
    Ok(())
}

async fn a_listing_meets_events_appended_meanwhile(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    append_events(&context, &key, 0..10).await?;
    let mut last = 10;
    let listed = listed_events(&context, ListEvents::new(key.clone()).with_limit(3), async || {
        if last < 14 {
            append_events(&context, &key, last..last + 1).await?;
            last += 1;
        }
        Ok(())
    })
    .await?;
    ensure!(listed.into_iter().eq(0..14));
    Ok(())
}

async fn listing_events_of_no_session_is_not_found(context: Context) -> anyhow::Result<()> {
    let key = context.key("alice", "nothing")?;
    let refused = context.service.list_events(ListEvents::new(key.clone())).await;
    ensure!(matches!(&refused, Err(Error::NotFound { key: missing }) if **missing == key), "{refused:?}");
    Ok(())
}

async fn listing_events_of_an_empty_session_is_an_empty_page(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    let page = context.service.list_events(ListEvents::new(key)).await?;
    ensure!(page.items.is_empty() && page.next.is_none());
    Ok(())
}

async fn a_cursor_that_no_event_has_is_refused(context: Context) -> anyhow::Result<()> {
    let session = context.session("alice").await?;
    for id in ["", "a\0b", &"i".repeat(129)] {
        let cursor = EventCursor::new(session.create_time, id.to_owned());
        let refused = context.service.list_events(ListEvents::new(session.key.clone()).with_cursor(cursor)).await;
        ensure!(matches!(refused, Err(Error::Invalid { .. })), "{id:?}: {refused:?}");
    }
    Ok(())
}

async fn cursors_survive_serialization(context: Context) -> anyhow::Result<()> {
    make_sessions(&context, "alice").await?;
    let request = ListSessions::new(SessionScope::User(context.user("alice")?)).with_limit(10);
    let first = context.service.list_sessions(request.clone()).await?;
    let cursor = first.next.ok_or_else(|| anyhow::anyhow!("there must be more"))?;
    let text = serde_json::to_string(&cursor)?;
    ensure!(serde_json::from_str::<SessionCursor>(&text)? == cursor);
    Ok(())
}

async fn limits_out_of_range_are_refused(context: Context) -> anyhow::Result<()> {
    let key = context.session("alice").await?.key;
    for limit in [0, 1001, u32::MAX] {
        let sessions = ListSessions::new(SessionScope::User(key.user())).with_limit(limit);
        let refused = context.service.list_sessions(sessions).await;
        ensure!(matches!(refused, Err(Error::Invalid { field: "limit", .. })));
        let refused = context.service.list_events(ListEvents::new(key.clone()).with_limit(limit)).await;
        ensure!(matches!(refused, Err(Error::Invalid { field: "limit", .. })));
    }
    Ok(())
}
