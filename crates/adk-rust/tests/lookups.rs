//! Lookups of a bare session id that meet other calls.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use adk_core::Result;
use adk_session::{CreateRequest, Event, GetRequest, SessionService as _};
use async_trait::async_trait;
use seabed_adk_rust::SeabedSessionService;
use seabed_adk_rust::seabed::{
    self, AppName, AppendEvent, Appended, CreateSession, DeleteSession, EventCursor, GetSession, ListEvents,
    ListSessions, MemorySessionService, Page, Session, SessionCursor, SessionService, State, UserKey,
};

/// Counts its listings, and creates a session of another user during the first of them, after it was read.
#[derive(Default)]
struct Store {
    stored: MemorySessionService,
    listings: AtomicUsize,
    service: OnceLock<Weak<SeabedSessionService>>,
}

#[async_trait]
impl SessionService for Store {
    async fn create_session(&self, request: CreateSession) -> seabed::Result<Session> {
        self.stored.create_session(request).await
    }

    async fn get_session(&self, request: GetSession) -> seabed::Result<Option<Session>> {
        self.stored.get_session(request).await
    }

    async fn list_sessions(&self, request: ListSessions) -> seabed::Result<Page<Session, SessionCursor>> {
        let page = self.stored.list_sessions(request).await;
        if self.listings.fetch_add(1, Ordering::SeqCst) == 0
            && let Some(service) = self.service.get().and_then(Weak::upgrade)
        {
            create(&service, "bob").await.expect("the id is free");
        }
        page
    }

    async fn list_events(&self, request: ListEvents) -> seabed::Result<Page<seabed::Event, EventCursor>> {
        self.stored.list_events(request).await
    }

    async fn append_event(&self, request: AppendEvent) -> seabed::Result<Appended> {
        self.stored.append_event(request).await
    }

    async fn delete_session(&self, request: DeleteSession) -> seabed::Result<()> {
        self.stored.delete_session(request).await
    }

    async fn get_user_state(&self, key: &UserKey) -> seabed::Result<State> {
        self.stored.get_user_state(key).await
    }

    async fn get_app_state(&self, app_name: &AppName) -> seabed::Result<State> {
        self.stored.get_app_state(app_name).await
    }

    async fn check_health(&self) -> seabed::Result<()> {
        self.stored.check_health().await
    }

    async fn close(&self) -> seabed::Result<()> {
        self.stored.close().await
    }
}

async fn create(service: &SeabedSessionService, user: &str) -> Result<()> {
    let [app_name, user_id, session_id] = ["app", user, "s"].map(str::to_owned);
    let request = CreateRequest { app_name, user_id, session_id: Some(session_id), state: HashMap::new() };
    service.create(request).await.map(drop)
}

async fn events(service: &SeabedSessionService, user: &str) -> Result<usize> {
    let [app_name, user_id, session_id] = ["app", user, "s"].map(str::to_owned);
    let request = GetRequest { app_name, user_id, session_id, num_recent_events: None, after: None };
    Ok(service.get(request).await?.events().len())
}

fn over(store: &Arc<Store>) -> SeabedSessionService {
    SeabedSessionService::new(store.clone()).with_app_name(AppName::try_new("app").unwrap())
}

#[tokio::test]
async fn an_id_is_looked_up_once() -> Result<()> {
    let store = Arc::new(Store::default());
    create(&over(&store), "alice").await?;
    let service = over(&store);
    for _ in 0..3 {
        service.append_event("s", Event::new("run")).await?;
    }
    assert_eq!((store.listings.load(Ordering::SeqCst), events(&service, "alice").await?), (1, 3));
    // Another service knows nothing of it.
    over(&store).append_event("s", Event::new("run")).await?;
    assert_eq!((store.listings.load(Ordering::SeqCst), events(&service, "alice").await?), (2, 4));
    Ok(())
}

/// The lookup did not list the session of the other user, so what it found is used once, and not remembered.
#[tokio::test]
async fn an_owner_that_a_create_may_have_outdated_is_not_remembered() -> Result<()> {
    let store = Arc::new(Store::default());
    create(&over(&store), "alice").await?;
    let service = Arc::new(over(&store));
    store.service.set(Arc::downgrade(&service)).unwrap();
    service.append_event("s", Event::new("run")).await?;
    let later = service.append_event("s", Event::new("run")).await.unwrap_err();
    assert_eq!(later.code, "session.ambiguous");
    assert_eq!((events(&service, "alice").await?, events(&service, "bob").await?), (1, 0));
    Ok(())
}
