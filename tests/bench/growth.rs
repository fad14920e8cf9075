//! How operations slow down as data grows.

use std::time::Duration;

use seabed::{
    AppendEvent, DirectoryService as _, DynSessionService, ExpectedRevision, FindSessions, ListSessions, SessionScope,
    UserKey,
};

use crate::Options;
use crate::measure::{Client, Load, median};
use crate::tables::{APP, Store, event, key};
use crate::work::recent;

/// Returns the name of the session with so many events, on which streams are measured.
pub(crate) fn grown(events: usize) -> String {
    format!("grown-{events}")
}

/// Returns the name of the user with so many sessions.
fn owner(sessions: usize) -> String {
    format!("owner-{sessions}")
}

/// A client of a session or user of a given size.
struct Grown {
    service: DynSessionService,
    work: &'static str,
    size: usize,
}

const APPEND: &str = "append into a session of";
const RECENT: &str = "get recent 10 of";
const PAGE: &str = "list a page of 10 sessions of";
const FIND: &str = "find a page of 10 sessions, without their states, of";

impl Client for Grown {
    async fn call(&mut self) -> anyhow::Result<()> {
        match self.work {
            APPEND => {
                let append = AppendEvent::new(key(&grown(self.size))?, event(), ExpectedRevision::Any);
                self.service.append_event(append).await?;
            }
            RECENT => drop(self.service.get_session(recent(key(&grown(self.size))?, 10)).await?),
            work => {
                let scope = SessionScope::User(UserKey::try_new(APP, owner(self.size))?);
                if work == FIND {
                    self.service.find_sessions(FindSessions::new(scope).with_limit(10)).await?;
                } else {
                    self.service.list_sessions(ListSessions::new(scope).with_limit(10)).await?;
                }
            }
        }
        Ok(())
    }
}

/// Measures one client on little and on much data, in turn, and prints the ratios of the times.
pub(crate) async fn measure(options: &Options, store: &Store) -> anyhow::Result<()> {
    let (rounds, many) = if options.quick { (1, 10_000) } else { (options.rounds, 100_000) };
    let few = 10;
    println!("\n| growth | time on much ÷ on little | lowest to highest | goal |");
    println!("|---|--:|--:|--:|");
    for count in [few, many] {
        store.fill(&grown(count), count).await?;
        store.fill_sessions(&owner(count), count).await?;
    }
    let load = Load { clients: 1, length: Duration::from_secs(1) };
    for (work, goal) in [(APPEND, Some(1.1)), (RECENT, Some(1.3)), (PAGE, None), (FIND, None)] {
        let mut ratios = Vec::new();
        for _ in 0..rounds {
            let mut rates = Vec::new();
            for size in [few, many] {
                let client = Grown { work, size, service: store.service.clone() };
                rates.push(load.run([client]).await?.each_second);
            }
            ratios.push(rates[0] / rates[1]);
        }
        let (lowest, highest) = ratios.iter().fold((f64::MAX, 0.0_f64), |(l, h), r| (l.min(*r), h.max(*r)));
        let ratio = median(ratios);
        let goal = goal.map_or_else(String::new, |goal| format!("≤ {goal} {}", if ratio <= goal { "✓" } else { "✗" }));
        println!("| {work} {many} ÷ {few} | {ratio:.2} | {lowest:.2} to {highest:.2} | {goal} |");
    }
    crate::stream::report(store, &grown(many)).await
}
