//! Several processes make random calls while servers, workers and connections are killed. Afterwards a checker reads
//! the histories and the database, and reports whether the guarantees were kept.

mod checker;
#[cfg(test)]
mod checker_tests;
mod contents;
mod faults;
mod history;
mod worker;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use fastrand::Rng;
use seabed::{MySqlSessionService, PostgresSessionService, SqliteSessionService};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin};

pub use checker::Counts;
pub use worker::work_if_told;

use crate::{Database, Kind, Proxy, Server};
use history::{History, Journal};
use worker::{Orders, Store};

/// The shortest pause between two faults.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// The parameters of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server, or `None` for SQLite in a file.
    pub kind: Option<Kind>,
    /// The minimum duration.
    pub length: Duration,
    /// The minimum number of acknowledged writes.
    pub writes: u64,
    /// The minimum number of kills, both of the server and of workers.
    pub kills: usize,
    /// The seed of everything random.
    pub seed: u64,
    /// The number of concurrent processes.
    pub processes: usize,
    /// The number of concurrent calls per process.
    pub tasks: usize,
    /// The longest pause before the next fault; `None` for no faults.
    pub pause: Option<Duration>,
    /// Whether the services use their fast paths.
    pub fast: bool,
}

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The database's version.
    pub version: String,
    /// What the checker counted.
    pub counts: Counts,
    /// How often each fault was injected.
    pub faults: BTreeMap<&'static str, usize>,
    /// Violations of the guarantees.
    pub objections: Vec<String>,
    /// How long the workers ran.
    pub took: Duration,
    /// Where the histories are kept if there are objections.
    pub kept: Option<PathBuf>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { acknowledged, refused, unknown, unknown_and_stored, events, sessions } = self.counts;
        let seconds = self.took.as_secs();
        writeln!(f, "{acknowledged} writes acknowledged in {seconds} s, {refused} refused, {unknown} unknown")?;
        writeln!(f, "{events} events in {sessions} sessions, {unknown_and_stored} of them unknown to their writers")?;
        let faults: Vec<String> = self.faults.iter().map(|(fault, times)| format!("{times} {fault}")).collect();
        writeln!(f, "faults: {}", if faults.is_empty() { "none".to_owned() } else { faults.join(", ") })?;
        write!(f, "objections: {}", self.objections.len())?;
        for objection in self.objections.iter().take(20) {
            write!(f, "\n- {objection}")?;
        }
        match &self.kept {
            Some(path) => write!(f, "\nthe histories are in {}", path.display()),
            None => Ok(()),
        }
    }
}

/// Connects a service with or without its fast paths.
async fn connect(url: &str, fast: bool) -> seabed::Result<Arc<dyn Store>> {
    Ok(match url.split(':').next().unwrap_or_default() {
        "sqlite" => Arc::new(SqliteSessionService::connect(url).await?.with_fast_paths(fast)),
        "postgres" => Arc::new(PostgresSessionService::connect(url).await?.with_fast_paths(fast)),
        _ => Arc::new(MySqlSessionService::connect(url).await?.with_fast_paths(fast)),
    })
}

/// Where a run takes place.
enum Place {
    Server { server: Box<Server>, proxy: Proxy, service_url: String },
    File(TempDir),
}

impl Place {
    async fn make(kind: Option<Kind>) -> anyhow::Result<Self> {
        let Some(kind) = kind else {
            let folder = tempfile::tempdir()?;
            let place = Self::File(folder);
            let database = seabed::open(&place.admin_url()?).await?;
            seabed::migrate(&database).await?;
            database.close().await?;
            return Ok(place);
        };
        let server = Server::start(kind).await?;
        server.database().migrate().await?;
        let (proxy, service_url) = Proxy::tunnel(kind.family(), &server.database().service_url()?).await?;
        Ok(Self::Server { server: Box::new(server), proxy, service_url })
    }

    fn database(&self) -> Option<&Database> {
        match self {
            Self::Server { server, .. } => Some(server.database()),
            Self::File(_) => None,
        }
    }

    fn admin_url(&self) -> anyhow::Result<String> {
        match self {
            Self::Server { server, .. } => server.database().admin_url(),
            Self::File(folder) => Ok(format!("sqlite://{}?mode=rwc", folder.path().join("seabed.db").display())),
        }
    }

    fn service_url(&self) -> anyhow::Result<String> {
        match self {
            Self::Server { service_url, .. } => Ok(service_url.clone()),
            Self::File(_) => self.admin_url(),
        }
    }

    fn version(&self) -> String {
        match self {
            Self::Server { server, .. } => server.version().to_owned(),
            Self::File(_) => "in a file".to_owned(),
        }
    }

    async fn remove(self) -> anyhow::Result<()> {
        match self {
            Self::Server { server, .. } => server.stop().await,
            Self::File(folder) => Ok(folder.close()?),
        }
    }
}

/// A worker process, and the number of writes that it has reported.
struct Worker {
    orders: Orders,
    process: Child,
    /// Closing it ends the worker.
    input: Option<ChildStdin>,
    done: Arc<AtomicU64>,
}

impl Worker {
    fn start(orders: Orders) -> anyhow::Result<Self> {
        let mut process = orders
            .command()?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("a worker cannot be started")?;
        let done = Arc::new(AtomicU64::new(0));
        let mut lines = BufReader::new(process.stdout.take().context("no output")?).lines();
        let counted = done.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                counted.store(line.parse().unwrap_or_default(), Ordering::Relaxed);
            }
        });
        let input = process.stdin.take();
        Ok(Self { orders, process, input, done })
    }

    async fn finish(mut self) -> anyhow::Result<()> {
        drop(self.input.take());
        let ended = tokio::time::timeout(Duration::from_mins(2), self.process.wait()).await;
        ensure!(ended.context("a worker hangs")??.success(), "a worker failed");
        Ok(())
    }
}

/// Runs a plan.
///
/// # Errors
/// If the plan cannot be carried out. The checker's objections are part of the outcome.
pub async fn run(plan: &Plan) -> anyhow::Result<Outcome> {
    let mut place = Place::make(plan.kind).await?;
    let outcome = run_at(plan, &mut place).await;
    let removed = place.remove().await;
    let outcome = outcome?;
    removed?;
    Ok(outcome)
}

async fn run_at(plan: &Plan, place: &mut Place) -> anyhow::Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let journal = Journal::create(&folder.path().join("lasting.jsonl"))?;
    let service = connect(&place.service_url()?, plan.fast).await?;
    worker::create_lasting(&*service, &journal).await?;
    service.close().await?;

    let started = Instant::now();
    let mut workers = start_workers(plan, place, folder.path())?;
    let mut random = Rng::with_seed(plan.seed);
    let mut faults: BTreeMap<&'static str, usize> = BTreeMap::new();
    // The number of writes that killed workers had made.
    let mut before = 0;
    let mut told = started;
    loop {
        let killed = |faults: &BTreeMap<_, usize>, what| faults.get(what).copied().unwrap_or_default() >= plan.kills;
        let done = before + workers.iter().map(|worker| worker.done.load(Ordering::Relaxed)).sum::<u64>();
        let enough_kills = plan.pause.is_none()
            || killed(&faults, faults::WORKER_KILLED)
                && (plan.kind.is_none() || killed(&faults, faults::SERVER_KILLED));
        if started.elapsed() >= plan.length && done >= plan.writes && enough_kills {
            break;
        }
        if told.elapsed() >= Duration::from_mins(1) {
            told = Instant::now();
            eprintln!("{done} writes after {} minutes", started.elapsed().as_secs() / 60);
        }
        let Some(pause) = plan.pause else {
            tokio::time::sleep(SHORTEST_PAUSE).await;
            continue;
        };
        tokio::time::sleep(SHORTEST_PAUSE + pause.saturating_sub(SHORTEST_PAUSE).mul_f64(random.f64())).await;
        let fault = faults::inject(place, &mut random).await?;
        *faults.entry(fault).or_default() += 1;
        if fault == faults::WORKER_KILLED {
            let worker = random.choice(&mut workers).context("no workers")?;
            worker.process.kill().await?;
            before += worker.done.load(Ordering::Relaxed);
            let mut orders = worker.orders.clone();
            orders.generation += 1;
            orders.journal = journal_path(folder.path(), orders.process, orders.generation);
            *worker = Worker::start(orders)?;
        }
    }
    for worker in workers {
        worker.finish().await?;
    }
    let took = started.elapsed();
    let admin = seabed::open(&place.admin_url()?).await?;
    let contents = contents::read(&admin).await?;
    admin.close().await?;
    let (counts, objections) = checker::check(&History::read(folder.path())?, &contents);
    let kept = (!objections.is_empty()).then(|| folder.keep());
    Ok(Outcome { version: place.version(), counts, faults, objections, took, kept })
}

fn journal_path(folder: &Path, process: usize, generation: usize) -> PathBuf {
    folder.join(format!("worker{process}-{generation}.jsonl"))
}

fn start_workers(plan: &Plan, place: &Place, folder: &Path) -> anyhow::Result<Vec<Worker>> {
    let url = place.service_url()?;
    let start = |process| {
        Worker::start(Orders {
            url: url.clone(),
            journal: journal_path(folder, process, 0),
            process,
            generation: 0,
            tasks: plan.tasks,
            seed: plan.seed,
            fast: plan.fast,
        })
    };
    (0..plan.processes).map(start).collect()
}
