//! Branches a conversation, and takes back what was said: `cargo run --example branch`. On SQLite in memory, with
//! nothing to install.

use seabed::history::{ForkSession, RedactEvent};
use seabed::{
    CreateSession, Event, HistoryService, HistoryServiceExt, SessionService, SessionServiceExt, State, UserKey,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let database = seabed::open("sqlite::memory:").await?;
    seabed::migrate(&database).await?;
    let sessions = seabed::from_connection(database).await?;

    // With its history: the initial state is kept.
    let request = CreateSession::new(UserKey::try_new("travel", "alice")?).with_history();
    let mut rome = sessions.create_session(request.with_state(State::new().with("city", "Rome"))).await?;
    for (turn, text, delta) in [
        ("seats", "Two seats.", State::new().with("seats", 2)),
        ("card", "My card is 4111 1111 1111 1111.", State::new().with("paid", true)),
        ("city", "Rather Naples.", State::new().with("city", "Naples")),
    ] {
        sessions.append(&mut rome, Event::new("user").with_id(turn).with_text(text).with_state_delta(delta)).await?;
    }

    let then = sessions.state_at(&rome.key, "seats").await?;
    println!("As of the first event: {}", serde_json::to_string(&then.state)?);

    // What if it had been Oslo? Both conversations go on by themselves.
    let forked = sessions.fork_session(ForkSession::new(rome.key.clone(), "seats")).await?;
    let mut oslo = forked.session;
    let event = Event::new("user").with_text("Oslo!").with_state_delta(State::new().with("city", "Oslo"));
    sessions.append(&mut oslo, event).await?;
    println!("The fork:              {}", serde_json::to_string(&oslo.state)?);
    println!("It comes from:         {:?}", sessions.get_origin(&oslo.key).await?.parent);

    // The number of a card does not belong in there.
    let request = RedactEvent::new(rome.key.clone(), "card").with_replacement("(removed)");
    sessions.redact_event(request).await?;
    sessions.refresh(&mut rome).await?;
    println!("Redacted:              {}", serde_json::to_string(&rome.events[1].content)?);
    println!("The state stays:       {}", serde_json::to_string(&rome.state)?);
    anyhow::ensure!(!serde_json::to_string(&rome.events)?.contains("4111"), "the card is still there");
    Ok(())
}
