//! What is forgotten is gone from everywhere, and nothing else is.

use anyhow::{Context as _, ensure};
use seabed_core::{
    AppName, AppendEvent, CreateSession, Error, Event, ExpectedRevision, Forget, ListSessions, Receipt,
    RetentionServiceExt as _, SessionScope, State, UserKey,
};

use crate::Context;
use crate::context::at_once;

super::case_list![
    needs Retention:
    a_forgotten_user_is_gone_and_others_stay,
    a_forgotten_app_is_gone_with_all_its_users,
    programs_share_the_forgetting_of_an_app,
    a_writer_that_goes_on_is_refused_or_forgotten,
    a_session_that_is_created_late_is_forgotten_too,
];

/// Creates sessions of a user, each with two events and state in every scope.
async fn fill(context: &Context, user: &UserKey, sessions: usize) -> anyhow::Result<()> {
    let created = at_once(sessions, |_| {
        let (service, user) = (context.service.clone(), user.clone());
        async move {
            let state = State::new().with("k", 1).with("user:k", 1).with("app:k", 1);
            let key = service.create_session(CreateSession::new(user).with_state(state)).await?.key;
            for _ in 0..2 {
                let event = Event::new("user").with_state_delta(State::new().with("e", 1));
                service.append_event(AppendEvent::new(key.clone(), event, ExpectedRevision::Any)).await?;
            }
            Ok::<_, Error>(())
        }
    })
    .await;
    Ok(created.into_iter().collect::<Result<(), _>>()?)
}

async fn count(context: &Context, scope: SessionScope) -> anyhow::Result<usize> {
    Ok(context.service.list_sessions(ListSessions::new(scope).with_limit(1000)).await?.try_into_items()?.len())
}

fn counts(receipt: &Receipt) -> (u64, u64, u64) {
    (receipt.sessions, receipt.events, receipt.states)
}

async fn a_forgotten_user_is_gone_and_others_stay(context: Context) -> anyhow::Result<()> {
    let (retention, users) = (context.retention()?, ["alice", "Alice", "bob"]);
    let [alice, shouted, bob] = users.map(|name| context.user(name));
    let (alice, shouted, bob) = (alice?, shouted?, bob?);
    for user in [&alice, &shouted, &bob] {
        fill(&context, user, 3).await?;
    }
    let receipt = retention.delete_user(&alice).await?;
    ensure!(counts(&receipt) == (3, 6, 1), "{receipt:?}");
    ensure!(receipt.app_name == alice.app_name && receipt.user_id.as_ref() == Some(&alice.user_id), "{receipt:?}");
    ensure!(receipt.begin_time < receipt.end_time, "{receipt:?}");
    let written: Receipt = serde_json::from_str(&serde_json::to_string(&receipt)?)?;
    ensure!(written == receipt, "{written:?}");
    ensure!(count(&context, SessionScope::User(alice.clone())).await? == 0);
    ensure!(context.service.get_user_state(&alice).await?.is_empty());
    for user in [&shouted, &bob] {
        ensure!(count(&context, SessionScope::User(user.clone())).await? == 3, "sessions of {user} are gone");
        ensure!(!context.service.get_user_state(user).await?.is_empty(), "the state of {user} is gone");
    }
    ensure!(!context.service.get_app_state(&alice.app_name).await?.is_empty(), "the state of the app is gone");

    // Who comes back begins anew.
    let session = context.session("alice").await?;
    ensure!(session.state == State::new().with("app:k", 1), "{session:?}");
    context.append(&session.key, Event::new("user").with_state_delta(State::new().with("user:k", 2))).await?;
    ensure!(context.service.get_user_state(&alice).await?.len() == 1);
    Ok(())
}

async fn a_forgotten_app_is_gone_with_all_its_users(context: Context) -> anyhow::Result<()> {
    let (app_name, other) = (context.app_name()?, AppName::try_new(format!("{}-other", context.app))?);
    for number in 0..3 {
        fill(&context, &context.user(&format!("u{number}"))?, 2).await?;
    }
    let stays = UserKey::try_new(other.as_str(), "u0")?;
    fill(&context, &stays, 1).await?;
    let receipt = context.retention()?.delete_app(&app_name).await?;
    ensure!(counts(&receipt) == (6, 12, 4) && receipt.user_id.is_none(), "{receipt:?}");
    ensure!(count(&context, SessionScope::App(app_name.clone())).await? == 0);
    ensure!(context.service.get_app_state(&app_name).await?.is_empty());
    ensure!(context.service.get_user_state(&context.user("u0")?).await?.is_empty());
    ensure!(count(&context, SessionScope::App(other.clone())).await? == 1);
    ensure!(!context.service.get_app_state(&other).await?.is_empty());
    ensure!(!context.service.get_user_state(&stays).await?.is_empty());
    let again = context.retention()?.delete_app(&app_name).await?;
    ensure!(counts(&again) == (0, 0, 0), "{again:?}");
    context.retention()?.delete_app(&other).await?;
    Ok(())
}

async fn programs_share_the_forgetting_of_an_app(context: Context) -> anyhow::Result<()> {
    const SESSIONS: usize = 120;
    for _ in 0..SESSIONS / 20 {
        fill(&context, &context.user("alice")?, 20).await?;
    }
    let services = [context.retention()?.clone(), context.another_retention().await?];
    let scope = SessionScope::App(context.app_name()?);
    let receipts = at_once(services.len(), |number| {
        let (service, forget) = (services[number].clone(), Forget::new(scope.clone()));
        async move {
            let mut steps = 0;
            service.forget(forget, &mut |_| steps += 1).await.map(|receipt| (receipt, steps))
        }
    })
    .await;
    let receipts = receipts.into_iter().collect::<Result<Vec<_>, _>>()?;
    ensure!(count(&context, scope).await? == 0);
    ensure!(context.service.get_app_state(&context.app_name()?).await?.is_empty());
    let sessions: u64 = receipts.iter().map(|(receipt, _)| receipt.sessions).sum();
    ensure!((SESSIONS as u64..=2 * SESSIONS as u64).contains(&sessions), "{receipts:?}");
    ensure!(receipts.iter().map(|(_, steps)| steps).sum::<u32>() >= 2, "{receipts:?}");
    Ok(())
}

/// Agents of the user append and create until they are told that a session is gone.
async fn a_writer_that_goes_on_is_refused_or_forgotten(context: Context) -> anyhow::Result<()> {
    let user = context.user("alice")?;
    fill(&context, &user, 4).await?;
    let retention = context.another_retention().await?;
    let writers = at_once(4, |_| {
        let (service, user) = (context.service.clone(), user.clone());
        async move {
            for _ in 0..400 {
                let state = State::new().with("user:k", 1);
                let key = service.create_session(CreateSession::new(user.clone()).with_state(state)).await?.key;
                let event = || Event::new("agent").with_state_delta(State::new().with("user:e", 1));
                for _ in 0..8 {
                    let append = AppendEvent::new(key.clone(), event(), ExpectedRevision::Any);
                    match service.append_event(append).await {
                        Ok(_) => {}
                        Err(Error::NotFound { .. }) => return Ok(()),
                        Err(error) => return Err(error),
                    }
                }
            }
            Ok::<_, Error>(())
        }
    });
    let forgetting = tokio::spawn({
        let user = user.clone();
        async move { retention.delete_user(&user).await }
    });
    writers.await.into_iter().collect::<Result<(), _>>()?;
    forgetting.await.context("it panicked")??;
    ensure!(count(&context, SessionScope::User(user.clone())).await? == 0, "sessions stay");
    ensure!(context.service.get_user_state(&user).await?.is_empty(), "the state of the user stays");
    Ok(())
}

/// After the last step, and before the call looks again.
async fn a_session_that_is_created_late_is_forgotten_too(context: Context) -> anyhow::Result<()> {
    let (user, retention) = (context.user("alice")?, context.another_retention().await?);
    let forgetting = tokio::spawn({
        let user = user.clone();
        async move { retention.delete_user(&user).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    ensure!(!forgetting.is_finished(), "nobody looks again");
    context.create(&context.key("alice", "late")?, State::new().with("user:k", 1)).await?;
    let receipt = forgetting.await.context("it panicked")??;
    ensure!(counts(&receipt) == (1, 0, 1), "{receipt:?}");
    ensure!(count(&context, SessionScope::User(user.clone())).await? == 0);
    ensure!(context.service.get_user_state(&user).await?.is_empty());
    Ok(())
}
