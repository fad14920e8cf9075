//! Titles and labels that are copied, exported and imported.

use anyhow::{Context as _, ensure};
use seabed::history::RedactEvent;
use seabed::migration::{Selection, StoredData, copy, down, export, import};
use seabed::sea_orm::ConnectionTrait as _;
use seabed::{
    AnnotateSession, AppendEvent, DirectoryService as _, DirectoryServiceExt as _, DynSessionService, Event,
    ExpectedRevision, FindSessions, FoundSession, GetSession, HistoryService as _, SessionFilter, SessionKey,
    SessionScope, State,
};

use crate::fixture::Fixture;
use crate::own_tables::{create, create_named, key};
use crate::transfer::Other;

crate::database_cases! {
    Everywhere: [
        titles_and_labels_are_copied_there_and_back,
        of_titles_and_labels_on_both_sides_the_later_ones_stay,
        titles_and_labels_are_in_files_of_lines,
        a_target_without_own_tables_leaves_titles_out_by_name,
        a_title_that_the_target_rejects_costs_its_session_nothing_else,
        a_redaction_reaches_an_earlier_copy,
    ],
    MySql: [
        titles_that_an_account_may_not_read_are_left_out_by_name,
    ],
}

/// More sessions than one query of a copy reads: some with events, a title, labels, or none of them.
async fn fill(fixture: &Fixture, service: &DynSessionService) -> anyhow::Result<()> {
    for number in 0..25 {
        let key = key(&format!("s{number:02}"))?;
        create(service, &key).await?;
        for event in 0..number % 3 {
            let event = Event::new("user").with_id(format!("e{event}"));
            service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
        }
        if number % 2 == 0 {
            service.set_title(&key, Some(&format!("{number} \"é\" \u{1F600}"))).await?;
        }
        if number % 5 == 0 {
            service.set_labels(&key, &[("a", Some("1")), ("é \"'", Some("\\ \u{1F600}"))]).await?;
        }
        if number % 10 == 0 {
            service.set_labels(&key, &[("a", None)]).await?;
        }
    }
    // What no operation writes yet.
    fixture
        .execute(
            "UPDATE seabed_sessions SET initial_state = '{\"k\": null}', parent_session_id = 'p', parent_event_id = 'e', \
             held_since = '2026-01-02 03:04:05.000006' WHERE session_id = 's02'",
        )
        .await
}

/// All sessions as they are found, and those found by each label.
async fn all(service: &DynSessionService) -> anyhow::Result<(Vec<FoundSession>, Vec<u64>)> {
    let scope = SessionScope::User(key("s")?.user());
    let found = service.find_sessions(FindSessions::new(scope.clone())).await?.try_into_items()?;
    let mut counts = Vec::new();
    for filter in [
        SessionFilter::new().with_label("a", "1"),
        SessionFilter::new().with_label("a", "2"),
        SessionFilter::new().with_any_label("é \"'"),
    ] {
        counts.push(service.count_sessions(&scope, &filter).await?);
    }
    Ok((found, counts))
}

async fn titles_and_labels_are_copied_there_and_back(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    fill(fixture, &service).await?;
    let expected = all(&service).await?;
    ensure!(expected.1 == [2, 0, 5], "{expected:?}");
    let other = Other::new().await?;
    let copied = copy(&fixture.admin, &other.pool, Selection::default(), &mut |_| {}).await?;
    ensure!(copied.is_complete() && copied.annotations == 15, "{copied:?}");
    ensure!(copied.content == copied.stored_content, "{copied:?}");
    ensure!(all(&other.service().await?).await? == expected, "the copy differs");
    down(&fixture.admin, StoredData::Drop).await?;
    seabed::migrate(&fixture.admin).await?;
    for _ in 0..2 {
        let back = copy(&other.pool, &fixture.admin, Selection::default(), &mut |_| {}).await?;
        ensure!(back.is_complete() && back.content == copied.content && back.stored_content == copied.content);
    }
    ensure!(all(&fixture.service().await?).await? == expected, "the copy of the copy differs");
    let kept = "SELECT parent_session_id AS text FROM seabed_sessions WHERE held_since IS NOT NULL";
    ensure!(fixture.query_text(kept).await? == "p");
    Ok(())
}

async fn of_titles_and_labels_on_both_sides_the_later_ones_stay(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    let (here, there) = (key("here")?, key("there")?);
    for key in [&here, &there] {
        create_named(&service, key).await?;
    }
    let other = Other::new().await?;
    copy(&fixture.admin, &other.pool, Selection::default(), &mut |_| {}).await?;
    let target = other.service().await?;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    let earlier = AnnotateSession::new(here.clone()).with_title("Bern").with_label("a", "0").with_label("c", "3");
    target.annotate_session(earlier).await?;
    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    service.set_labels(&here, &[("a", Some("2")), ("b", None)]).await?;
    let later =
        target.annotate_session(AnnotateSession::new(there.clone()).with_title("Oslo").without_label("a")).await?;
    let again = copy(&fixture.admin, &other.pool, Selection::default(), &mut |_| {}).await?;
    ensure!(again.is_complete(), "{again:?}");
    let (found, counts) = all(&target).await?;
    let of = |key: &SessionKey| found.iter().find(|found| found.key == *key).map(|found| &found.annotations);
    let won = of(&here).context("a session")?;
    ensure!(won.title.as_deref() == Some("Rome") && won.labels.len() == 1, "{won:?}");
    ensure!(of(&there) == Some(&later), "{found:?}");
    ensure!(counts == [0, 1, 0], "{counts:?}");
    Ok(())
}

async fn titles_and_labels_are_in_files_of_lines(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    fill(fixture, &service).await?;
    let expected = all(&service).await?;
    let mut file = Vec::new();
    let exported = export(&fixture.admin, Selection::default(), &mut file, &mut |_| {}).await?;
    ensure!(exported.annotations == 15, "{exported:?}");
    let other = Other::new().await?;
    let imported = import(std::io::Cursor::new(file), &other.pool, &mut |_| {}).await?;
    ensure!(imported.is_complete() && imported.stored_content == exported.content, "{imported:?}");
    ensure!(all(&other.service().await?).await? == expected, "the import differs");
    Ok(())
}

async fn a_target_without_own_tables_leaves_titles_out_by_name(fixture: &Fixture) -> anyhow::Result<()> {
    let service = fixture.migrated().await?;
    create_named(&service, &key("named")?).await?;
    create(&service, &key("plain")?).await?;
    let other = Other::new().await?;
    other.execute("DROP TABLE seabed_labels;\nDROP TABLE seabed_sessions").await?;
    let copied = copy(&fixture.admin, &other.pool, Selection::default(), &mut |_| {}).await?;
    ensure!(copied.new_sessions == 2 && copied.annotations == 0 && copied.refused.len() == 1, "{copied:?}");
    let refused = copied.refused[0].to_string();
    ensure!(refused.contains("named") && refused.contains("`seabed-migrate up`"), "{refused}");
    seabed::migrate(&other.pool).await?;
    let again = copy(&fixture.admin, &other.pool, Selection::default(), &mut |_| {}).await?;
    ensure!(again.is_complete() && again.new_sessions == 0, "{again:?}");
    ensure!(all(&other.service().await?).await? == all(&service).await?);
    // And from such a source.
    other.execute("DROP TABLE seabed_labels;\nDROP TABLE seabed_sessions").await?;
    let back = copy(&other.pool, &fixture.admin, Selection::default(), &mut |_| {}).await?;
    ensure!(back.is_complete() && back.annotations == 0, "{back:?}");
    Ok(())
}

/// A constraint that others added to the target, or a trigger.
async fn a_title_that_the_target_rejects_costs_its_session_nothing_else(fixture: &Fixture) -> anyhow::Result<()> {
    let (target, source) = (fixture.migrated().await?, Other::new().await?);
    let service = source.service().await?;
    for id in ["s", "t"] {
        create_named(&service, &key(id)?).await?;
        let event = Event::new("user").with_state_delta(State::new().with("k", id));
        service.append_event(AppendEvent::new(key(id)?, event, ExpectedRevision::Any)).await?;
    }
    service.set_title(&key("t")?, Some("secret")).await?;
    let constraint = if fixture.kind.is_some() {
        "ALTER TABLE seabed_sessions ADD CONSTRAINT no_secrets CHECK (title <> 'secret')"
    } else {
        "CREATE TRIGGER no_secrets BEFORE INSERT ON seabed_sessions WHEN NEW.title = 'secret' \
         BEGIN SELECT RAISE(ABORT, 'secret'); END"
    };
    fixture.admin.execute_unprepared(constraint).await?;
    let copied = copy(&source.pool, &fixture.admin, Selection::default(), &mut |_| {}).await?;
    ensure!(copied.new_sessions == 2 && copied.new_events == 2 && copied.annotations == 1, "{copied:?}");
    ensure!(copied.refused.len() == 1 && copied.different.is_empty(), "{copied:?}");
    let refused = copied.refused[0].to_string();
    ensure!(refused.contains("\"t\"") && !refused.contains("secret"), "{refused}");
    ensure!(copied.content == copied.stored_content, "{copied:?}");
    for id in ["s", "t"] {
        let session = target.get_session(GetSession::new(key(id)?)).await?.context("a session")?;
        ensure!(session.state.decode::<String>("k")?.as_deref() == Some(id), "{session:?}");
    }
    Ok(())
}

/// And the other way round, a copy of the original stores it nowhere again.
async fn a_redaction_reaches_an_earlier_copy(fixture: &Fixture) -> anyhow::Result<()> {
    let (service, other) = (fixture.migrated().await?, Other::new().await?);
    let key = key("s")?;
    create(&service, &key).await?;
    for id in ["e1", "e2"] {
        let event = Event::new("user").with_id(id).with_text(format!("secret of {id}"));
        service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
    }
    let pools = [&fixture.admin, &other.pool];
    ensure!(copy(pools[0], pools[1], Selection::default(), &mut |_| {}).await?.is_complete());
    service.redact_event(RedactEvent::new(key.clone(), "e1")).await?;
    let again = copy(pools[0], pools[1], Selection::default(), &mut |_| {}).await?;
    ensure!(again.is_complete() && again.content == again.stored_content, "{again:?}");
    let target = other.service().await?;
    let read = target.get_session(GetSession::new(key.clone())).await?.context("a session")?;
    ensure!(read == service.get_session(GetSession::new(key.clone())).await?.context("a session")?);
    ensure!(read.events[0].text().is_none() && read.events[1].text().is_some(), "{read:?}");

    target.redact_event(RedactEvent::new(key.clone(), "e2")).await?;
    let stale = copy(pools[0], pools[1], Selection::default(), &mut |_| {}).await?;
    ensure!(!stale.different.is_empty(), "{stale:?}");
    let kept = target.get_session(GetSession::new(key)).await?.context("a session")?;
    ensure!(kept.events[1].text().is_none(), "{kept:?}");
    Ok(())
}

/// MySQL does not even list them for such an account.
async fn titles_that_an_account_may_not_read_are_left_out_by_name(fixture: &Fixture) -> anyhow::Result<()> {
    create_named(&fixture.migrated().await?, &key("s")?).await?;
    let name = fixture.query_text("SELECT DATABASE() AS text").await?;
    let tables = ["adk_internal_metadata", "app_states", "events", "sessions", "user_states"];
    let grants = tables.map(|table| format!("GRANT SELECT ON {name}.{table} TO '{name}'@'%'"));
    fixture.execute(&format!("REVOKE ALL ON {name}.* FROM '{name}'@'%';\n{}", grants.join(";\n"))).await?;
    let account = seabed::open(&fixture.service_url).await?;
    let mut file = Vec::new();
    let exported = export(&account, Selection::default(), &mut file, &mut |_| {}).await?;
    ensure!(exported.sessions == 1 && exported.refused.len() == 1, "{exported:?}");
    ensure!(exported.refused[0].to_string().contains("may not read"), "{exported:?}");
    account.close().await?;
    Ok(())
}
