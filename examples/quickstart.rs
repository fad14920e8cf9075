//! Seabed in one run, on SQLite and with nothing to install: `cargo run --example quickstart`.

use seabed::{AppName, CreateSession, Error, Event, GetSession, SessionService, SessionServiceExt, State, UserKey};
use serde_json::json;
use tokio::task::JoinSet;

const APP: &str = "travel";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("agents.db").display());
    let database = seabed::open(&url).await?;
    seabed::migrate(&database).await?;
    let sessions = seabed::from_connection(database).await?;
    println!("1. A new SQLite database with google-adk's tables (schema v1).\n");

    println!(
        "2. The race: 100 tasks create a session of one new app at the same time, each with an app key of its own."
    );
    let mut racers = JoinSet::new();
    for number in 0..100 {
        let sessions = sessions.clone();
        racers.spawn(async move {
            let state = State::new().with(format!("app:key{number}"), number);
            let user = UserKey::try_new(APP, format!("user{number}"))?;
            sessions.create_session(CreateSession::new(user).with_state(state)).await
        });
    }
    let created = racers.join_all().await.into_iter().flatten().count();
    let keys = sessions.get_app_state(&AppName::try_new(APP)?).await?.len();
    println!("   {created} of 100 sessions were created, and {keys} of 100 app keys are there.");
    println!("   (A SELECT followed by an INSERT lets one of them in: google/adk-python issue 4954.)\n");
    anyhow::ensure!(created == 100 && keys == 100, "the race was lost");

    println!("3. A conversation of alice, with state of the app, of the user and of the session.");
    let alice = UserKey::try_new(APP, "alice")?;
    let request = CreateSession::new(alice.clone())
        .with_state(State::new().with("app:currency", "EUR").with("user:home", "Bergen").with("to", "Rome"));
    let mut session = sessions.create_session(request).await?;
    let question = Event::new("user").with_content(json!({"role": "user", "parts": [{"text": "Rather Naples."}]}));
    sessions.append(&mut session, question).await?;
    let answer = Event::new("planner")
        .with_content(json!({"role": "model", "parts": [{"text": "Naples it is."}]}))
        .with_state_delta(State::new().with("to", "Naples").with("user:likes", json!(["pizza"])));
    sessions.append(&mut session, answer).await?;
    println!("   events: {}", session.events.len());
    for key in ["app:currency", "user:home", "user:likes", "to"] {
        println!("   {key:<13} = {}", session.state.get(key).map(ToString::to_string).unwrap_or_default());
    }
    let other = sessions.create_session(CreateSession::new(alice)).await?;
    println!(
        "   Another session of alice knows user:home = {}, and has no `to`: {}\n",
        other.state.decode::<String>("user:home")?.unwrap_or_default(),
        other.state.get("to").is_none()
    );

    println!("4. Two agents hold the same session; the second to write is told that it is out of date.");
    let mut first = sessions.get_session(GetSession::new(session.key.clone())).await?.expect("created above");
    let mut second = first.clone();
    sessions.append(&mut first, Event::new("planner")).await?;
    let late = Event::new("booker").with_state_delta(State::new().with("booked", true));
    match sessions.append(&mut second, late.clone()).await {
        Err(error @ Error::RevisionConflict { .. }) => println!("   refused: {error}"),
        other => anyhow::bail!("a stale append must be refused, but: {other:?}"),
    }
    sessions.refresh(&mut second).await?;
    let stored = sessions.append(&mut second, late.clone()).await?;
    println!("   after a refresh: {stored}, {} events", second.events.len());
    let again = sessions.append(&mut second, late).await?;
    println!("   the same event once more, as after a lost reply: {again}, still {} events\n", second.events.len());

    println!("Next: README.md has the guarantees, and the tests on PostgreSQL, MySQL and MariaDB.");
    Ok(())
}
