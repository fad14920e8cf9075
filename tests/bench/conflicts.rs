//! What conflicts cost: an append that is refused beside one that is stored, and the ways to append to a session that
//! many others append to.

use std::time::Duration;

use seabed::{
    AppendEvent, DynSessionService, Error, ExpectedRevision, Session, SessionKey, SessionService as _,
    SessionServiceExt as _,
};

use crate::Options;
use crate::measure::{Client, Load, median};
use crate::tables::{Store, event, key, own_session};
use crate::work::recent;

/// How a client appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// At the revision of a session of its own.
    Stored,
    /// At a revision that a session of its own has left.
    Refused,
    /// Reads a session that all share, as a server does for each request, then `append_latest`.
    Latest,
    /// The same with `append`, and after a conflict a refresh and another try.
    Retry,
}

struct Caller {
    service: DynSessionService,
    way: Way,
    session: Session,
}

impl Caller {
    async fn new(store: &Store, way: Way, number: usize) -> anyhow::Result<Self> {
        let key = match way {
            Way::Stored | Way::Refused => own_session(number)?,
            Way::Latest | Way::Retry => key("hot")?,
        };
        let session = read(&store.service, key).await?;
        if way == Way::Refused {
            // Moves the session past the revision that the client keeps.
            let append = AppendEvent::new(session.key.clone(), event(), ExpectedRevision::Any);
            store.service.append_event(append).await?;
        }
        Ok(Self { service: store.service.clone(), way, session })
    }

    async fn read(&self) -> anyhow::Result<Session> {
        read(&self.service, self.session.key.clone()).await
    }
}

async fn read(service: &DynSessionService, key: SessionKey) -> anyhow::Result<Session> {
    let session = service.get_session(recent(key, 10)).await?;
    session.ok_or_else(|| anyhow::anyhow!("each of these sessions was created with the tables"))
}

impl Client for Caller {
    async fn call(&mut self) -> anyhow::Result<()> {
        match self.way {
            Way::Stored => drop(self.service.append(&mut self.session, event()).await?),
            Way::Refused => {
                let refused = self.service.append(&mut self.session, event()).await;
                anyhow::ensure!(matches!(refused, Err(Error::RevisionConflict { .. })));
            }
            Way::Latest => {
                let mut session = self.read().await?;
                self.service.append_latest(&mut session, event()).await?;
            }
            Way::Retry => {
                let (mut session, event) = (self.read().await?, event());
                while let Err(error) = self.service.append(&mut session, event.clone()).await {
                    anyhow::ensure!(matches!(error, Error::RevisionConflict { .. }), error);
                    self.service.refresh(&mut session).await?;
                }
            }
        }
        Ok(())
    }
}

/// Measures each pair in turn, and prints how many times as fast the first is.
pub(crate) async fn measure(options: &Options, store: &Store) -> anyhow::Result<()> {
    println!("\n| conflicts | clients | first/s | second/s | ratio | lowest to highest |");
    println!("|---|--:|--:|--:|--:|--:|");
    let pairs = [
        ("an append that is refused ÷ one that is stored", Way::Refused, Way::Stored),
        ("`append_latest` ÷ append, refresh and retry", Way::Latest, Way::Retry),
    ];
    let length = Duration::from_secs(if options.quick { 1 } else { options.seconds });
    let rounds = if options.quick { 1 } else { options.rounds };
    for (name, first, second) in pairs {
        for clients in [1, 8, 32] {
            let (mut firsts, mut seconds, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..rounds {
                let mut rates = Vec::new();
                for way in [first, second] {
                    let mut callers = Vec::new();
                    for number in 0..clients {
                        callers.push(Caller::new(store, way, number).await?);
                    }
                    rates.push(Load { clients, length }.run(callers).await?.each_second);
                }
                firsts.push(rates[0]);
                seconds.push(rates[1]);
                ratios.push(rates[0] / rates[1]);
            }
            let (lowest, highest) = ratios.iter().fold((f64::MAX, 0.0_f64), |(l, h), r| (l.min(*r), h.max(*r)));
            let (first, second, ratio) = (median(firsts), median(seconds), median(ratios));
            println!("| {name} | {clients} | {first:.0} | {second:.0} | {ratio:.2} | {lowest:.2} to {highest:.2} |");
        }
    }
    Ok(())
}
