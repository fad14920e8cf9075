//! Takes back a turn of a conversation: `cargo run --example rewind`. On SQLite in memory, with nothing to install.

use seabed::history::{AgentContext, RewindSession, live_events};
use seabed::{CreateSession, Event, SessionService, SessionServiceExt, State, UserKey};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let database = seabed::open("sqlite::memory:").await?;
    seabed::migrate(&database).await?;
    let sessions = seabed::from_connection(database).await?;

    let initial = State::new().with("currency", "EUR").with("city", "Rome");
    let request = CreateSession::new(UserKey::try_new("travel", "alice")?).with_state(initial.clone());
    let mut session = sessions.create_session(request).await?;
    for (turn, text, delta) in [
        ("first", "Two seats.", State::new().with("seats", 2)),
        ("second", "Rather Naples, and three.", State::new().with("city", "Naples").with("seats", 3)),
        ("third", "And a hotel.", State::new().with("hotel", "Opus")),
    ] {
        let event = Event::new("user").with_id(turn).with_invocation_id(turn).with_text(text).with_state_delta(delta);
        sessions.append(&mut session, event).await?;
    }
    println!("After three turns:        {}", serde_json::to_string(&session.state)?);

    let then = session.state_history()?.with_initial_state(&initial).state_at("first");
    println!("As of the first:          {}", serde_json::to_string(&then.map(|at| at.state))?);

    let request = RewindSession::new(session.key.clone(), "second").with_initial_state(initial.clone());
    let session = sessions.rewind(request).await?.session;
    println!("Back before the second:   {}", serde_json::to_string(&session.state)?);
    let effective = session.state_history()?.with_initial_state(&initial).effective_state();
    println!("Without removed keys:     {}", serde_json::to_string(&effective)?);
    anyhow::ensure!(effective == initial.with("seats", 2), "the state is not that of before");

    println!("Events in the store:      {}", session.events.len());
    println!("Live events:              {}", live_events(&session.events).len());
    let seen = sessions.effective_events(session.key, &AgentContext::new("planner")).await?;
    println!("What the model sees next: {}", serde_json::to_string(&seen[0].content)?);
    anyhow::ensure!(seen.len() == 1, "the model sees what was taken back");
    Ok(())
}
