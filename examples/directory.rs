//! Titles, labels and finding sessions, on SQLite and with nothing to install: `cargo run --example directory`.

use seabed::{
    AnnotateSession, CreateSession, DirectoryService, DirectoryServiceExt, Error, Event, FindSessions, SessionFilter,
    SessionScope, SessionService, SessionServiceExt, State, UserKey,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("agents.db").display());
    let database = seabed::open(&url).await?;
    seabed::migrate(&database).await?;
    let sessions = seabed::from_connection(database).await?;

    let alice = UserKey::try_new("travel", "alice")?;
    for (city, stage) in [("Rome", "booked"), ("Oslo", "planned"), ("Naples", "booked"), ("Bergen", "planned")] {
        let request = CreateSession::new(alice.clone()).with_state(State::new().with("to", city));
        let mut session = sessions.create_session(request).await?;
        let annotate = AnnotateSession::new(session.key.clone()).with_title(format!("A week in {city}"));
        sessions.annotate_session(annotate.with_label("stage", stage)).await?;
        // Neither a title nor a label makes the session that we hold out of date.
        sessions.append(&mut session, Event::new("user").with_text("Find me a hotel.")).await?;
    }

    let all = SessionScope::User(alice);
    println!("1. The trips, newest first, two on a page:");
    let mut request = FindSessions::new(all.clone()).with_limit(2);
    loop {
        let page = sessions.find_sessions(request.clone()).await?;
        for found in page.items {
            let found = found?;
            println!("   {:<18} {:?}", found.annotations.title.unwrap_or_default(), found.annotations.labels);
        }
        let Some(next) = page.next else { break };
        println!("   -- a cursor for the URL of the next page: {:.20}...", next.to_string());
        request = request.with_cursor(next);
    }

    println!("2. What is booked, and what has `Oslo` in its title:");
    for filter in [
        SessionFilter::new().with_label("stage", "booked"),
        SessionFilter::new().with_title_containing("Oslo"),
        SessionFilter::new().with_state("to", "Naples"),
    ] {
        let count = sessions.count_sessions(&all, &filter).await?;
        let found = sessions.find_sessions(FindSessions::new(all.clone()).with_filter(filter)).await?;
        let titles: Vec<_> = found.try_into_items()?.into_iter().filter_map(|found| found.annotations.title).collect();
        println!("   {count}: {}", titles.join(", "));
        anyhow::ensure!(count == titles.len() as u64, "the count is another");
    }

    println!("3. Oslo is booked, too, and its title goes:");
    let oslo = FindSessions::new(all).with_filter(SessionFilter::new().with_title_containing("Oslo"));
    let oslo = sessions.find_sessions(oslo).await?.try_into_items()?.remove(0);
    sessions.set_labels(&oslo.key, &[("stage", Some("booked")), ("paid", Some("no"))]).await?;
    let left = sessions.set_title(&oslo.key, None).await?;
    println!("   {:?} {:?}", left.title, left.labels);

    match sessions.set_title(&oslo.key, Some(&"x".repeat(10 << 20))).await {
        Err(Error::Invalid { field, reason }) => println!("   a title of 10 MB is refused: {field}: {reason}"),
        other => anyhow::bail!("a title of 10 MB must be refused, but: {other:?}"),
    }
    Ok(())
}
