//! The measured operations, on Seabed's side.

use seabed::{
    AppName, AppendEvent, CreateSession, DynSessionService, Event, ExpectedRevision, GetSession, ListSessions,
    Revision, SessionKey, SessionScope, SessionService, State, UserId, UserKey,
};
use seabed_tests::Family;

use crate::measure::{Client, Load, Rate};
use crate::tables::{APP, MAX_CLIENTS, Store, USER, event, key, own_session};

/// One operation on one kind of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    /// Create sessions of one user.
    CreateInOneApp,
    /// Create sessions, each client in its own app.
    CreateInManyApps,
    /// Append with two session keys, each client to its own session at its revision.
    AppendToOwn,
    /// Like `AppendToOwn`, without state.
    AppendStateless,
    /// Like `AppendToOwn`, with two app keys.
    AppendHotApp,
    /// Append with two session keys to one session, at any revision.
    AppendHotSession,
    /// Get a session with `events` events, and the newest `recent` of them.
    Get { events: usize, recent: Option<u32> },
    /// List 1000 sessions.
    List,
}

impl Work {
    pub(crate) fn all() -> Vec<Self> {
        let get = |events, recent| Self::Get { events, recent };
        vec![
            Self::CreateInOneApp,
            Self::CreateInManyApps,
            Self::AppendToOwn,
            Self::AppendStateless,
            Self::AppendHotApp,
            Self::AppendHotSession,
            get(10, None),
            get(100, None),
            get(1000, None),
            get(10_000, None),
            get(10_000, Some(10)),
            Self::List,
        ]
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::CreateInOneApp => "create, one app".to_owned(),
            Self::CreateInManyApps => "create, many apps".to_owned(),
            Self::AppendToOwn => "append, own sessions".to_owned(),
            Self::AppendStateless => "append without state".to_owned(),
            Self::AppendHotApp => "append, hot app keys".to_owned(),
            Self::AppendHotSession => "append, hot session, any revision".to_owned(),
            Self::Get { events, recent: None } => format!("get, {events} events"),
            Self::Get { events, recent: Some(recent) } => format!("get, recent {recent} of {events}"),
            Self::List => "list 1000 sessions".to_owned(),
        }
    }

    /// Returns the event to append.
    pub(crate) fn event(&self) -> Event {
        let mut event = event();
        match self {
            Self::AppendStateless => event.actions.state_delta = State::new(),
            Self::AppendHotApp => {
                event.actions.state_delta = State::new().with("app:k1", "value one").with("app:k2", 2);
            }
            _ => {}
        }
        event
    }

    pub(crate) fn clients(&self) -> Vec<usize> {
        match self {
            Self::CreateInOneApp | Self::AppendToOwn => vec![1, 8, 32, MAX_CLIENTS],
            Self::Get { events: 10_000, recent: None } | Self::List => vec![1, 8],
            _ => vec![1, 8, 32],
        }
    }

    /// Returns the ratio to reach, one of the goals set when this was built.
    pub(crate) fn goal(&self, store: &Store, clients: usize) -> Option<f64> {
        match (store.family(), self) {
            (Some(Family::Postgres), Self::CreateInOneApp | Self::AppendToOwn) => match clients {
                1 | 8 => Some(0.95),
                32 => Some(1.5),
                _ => Some(2.0),
            },
            (Some(Family::Postgres), Self::AppendHotApp) if clients == 32 => Some(3.0),
            (Some(Family::Postgres), Self::Get { events: 100 | 1000, .. } | Self::Get { recent: Some(_), .. }) => {
                Some(0.8)
            }
            (Some(Family::MySql), Self::AppendToOwn) => Some(0.9),
            (None, Self::AppendToOwn) => match clients {
                1 => Some(0.9),
                32 => Some(3.0),
                _ => None,
            },
            _ => None,
        }
    }

    /// Creates the data that the work reads, if it does not exist.
    pub(crate) async fn prepare(&self, store: &Store) -> anyhow::Result<()> {
        match self {
            Self::Get { events, .. }
                if store.service.get_session(recent(key(&filled(*events))?, 1)).await?.is_none() =>
            {
                store.fill(&filled(*events), *events).await?;
            }
            Self::List if store.service.list_sessions(page_of(LISTED)?).await?.items.is_empty() => {
                store.fill_sessions(LISTED, 1000).await?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) async fn run(&self, store: &Store, load: Load) -> anyhow::Result<Rate> {
        let mut clients = Vec::new();
        for number in 0..load.clients {
            let service = store.service.clone();
            clients.push(Caller::new(service, self.clone(), number).await?);
        }
        load.run(clients).await
    }
}

/// The user whose 1000 sessions are listed.
pub(crate) const LISTED: &str = "lister";

/// Returns the name of the session with so many events.
pub(crate) fn filled(events: usize) -> String {
    format!("filled-{events}")
}

pub(crate) fn recent(key: SessionKey, count: u32) -> GetSession {
    GetSession::new(key).with_num_recent_events(count)
}

pub(crate) fn page_of(user: &str) -> anyhow::Result<ListSessions> {
    Ok(ListSessions::new(SessionScope::User(UserKey::try_new(APP, user)?)).with_limit(1000))
}

/// Returns the name of a client's own app.
pub(crate) fn own_app(client: usize) -> String {
    format!("app-{client}")
}

/// A client of Seabed.
pub(crate) struct Caller {
    service: DynSessionService,
    work: Work,
    client: usize,
    key: SessionKey,
    revision: Option<Revision>,
}

impl Caller {
    pub(crate) async fn new(service: DynSessionService, work: Work, client: usize) -> anyhow::Result<Self> {
        let key = match &work {
            Work::AppendHotSession => key("hot")?,
            Work::Get { events, .. } => key(&filled(*events))?,
            _ => own_session(client)?,
        };
        let revision = match work {
            Work::AppendToOwn | Work::AppendStateless | Work::AppendHotApp => {
                service.get_session(recent(key.clone(), 1)).await?.map(|session| session.revision)
            }
            _ => None,
        };
        Ok(Self { service, work, client, key, revision })
    }

    async fn append(&mut self, event: Event) -> anyhow::Result<()> {
        let expected = self.revision.map_or(ExpectedRevision::Any, ExpectedRevision::Exact);
        let appended = self.service.append_event(AppendEvent::new(self.key.clone(), event, expected)).await?;
        self.revision = self.revision.and(appended.revision());
        Ok(())
    }
}

impl Client for Caller {
    async fn call(&mut self) -> anyhow::Result<()> {
        match &self.work {
            Work::CreateInOneApp | Work::CreateInManyApps => {
                let app = if self.work == Work::CreateInOneApp { APP.to_owned() } else { own_app(self.client) };
                let user = UserKey { app_name: AppName::try_new(app)?, user_id: UserId::try_new(USER)? };
                self.service.create_session(CreateSession::new(user)).await?;
            }
            Work::AppendToOwn | Work::AppendStateless | Work::AppendHotApp | Work::AppendHotSession => {
                self.append(self.work.event()).await?;
            }
            Work::Get { events, recent: None } => {
                let session = self.service.get_session(GetSession::new(self.key.clone())).await?;
                anyhow::ensure!(session.is_some_and(|session| session.events.len() == *events));
            }
            Work::Get { recent: Some(count), .. } => {
                anyhow::ensure!(self.service.get_session(recent(self.key.clone(), *count)).await?.is_some());
            }
            Work::List => {
                anyhow::ensure!(self.service.list_sessions(page_of(LISTED)?).await?.items.len() == 1000);
            }
        }
        Ok(())
    }
}
