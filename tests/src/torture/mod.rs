//! Several processes make random calls while servers, workers and connections are killed. Afterwards a checker reads
//! the histories and the database, and reports whether the guarantees were kept.

mod checker;
#[cfg(test)]
mod checker_tests;
mod contents;
mod faults;
mod history;
mod outages;
mod place;
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
use seabed::{PostgresSessionService, SchemaRisk, SqlSessionService, SqliteSessionService};
use seabed_core::sql::ConnectOptions;
use seabed_mysql::MySql;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin};

pub use checker::Counts;
pub use outages::Outages;
pub use place::Target;
pub use worker::work_if_told;

use history::{History, Journal};
use place::Place;
use worker::{Orders, Store};

/// The shortest pause between two faults.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// For how long no write may be acknowledged after a kill of the server.
const LONGEST_SILENCE: Duration = Duration::from_mins(2);

/// The parameters of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The database.
    pub target: Target,
    /// The minimum duration.
    pub length: Duration,
    /// The minimum number of acknowledged writes.
    pub writes: u64,
    /// The minimum number of kills, both of workers and of the server, if that can be killed.
    pub kills: usize,
    /// A command that kills the server, and returns when it is back or another is in its place.
    pub kill_command: Option<String>,
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
    /// How often calls ended how.
    pub calls: BTreeMap<String, usize>,
    /// How often each fault was injected.
    pub faults: BTreeMap<&'static str, usize>,
    /// What the kills of the server meant for the writers.
    pub outages: Outages,
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
        let calls: Vec<String> = self.calls.iter().map(|(outcome, times)| format!("{times} {outcome}")).collect();
        writeln!(f, "calls: {}", calls.join(", "))?;
        let faults: Vec<String> = self.faults.iter().map(|(fault, times)| format!("{times} {fault}")).collect();
        writeln!(f, "faults: {}", if faults.is_empty() { "none".to_owned() } else { faults.join(", ") })?;
        if self.outages != Outages::default() {
            writeln!(f, "{}", self.outages)?;
        }
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
        _ => {
            let options: ConnectOptions<MySql> = url.parse()?;
            let options = options.with_service(|service| service.accept_risk(SchemaRisk::MultiPrimary));
            Arc::new(SqlSessionService::connect_with(options).await?.with_fast_paths(fast))
        }
    })
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

    /// Kills it, starts another in its place, and returns how many writes it had made.
    async fn replace(&mut self, folder: &Path) -> anyhow::Result<u64> {
        self.process.kill().await?;
        let done = self.done.load(Ordering::Relaxed);
        let mut orders = self.orders.clone();
        orders.generation += 1;
        orders.journal = journal_path(folder, orders.process, orders.generation);
        *self = Self::start(orders)?;
        Ok(done)
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
    let mut place = Place::make(plan).await?;
    let outcome = run_at(plan, &mut place).await;
    let removed = place.remove().await;
    let outcome = outcome?;
    removed?;
    Ok(outcome)
}

async fn run_at(plan: &Plan, place: &mut Place) -> anyhow::Result<Outcome> {
    let folder = tempfile::tempdir()?;
    let journal = Journal::create(&folder.path().join("lasting.jsonl"))?;
    let service = connect(&place.service_url, plan.fast).await?;
    worker::create_lasting(&*service, &journal).await?;
    service.close().await?;

    if plan.pause.is_some() && place.account().is_some() && !place.can_kill() {
        eprintln!("The server is not killed: it was not started here, and no command kills it.");
    }
    let started = Instant::now();
    let mut workers = start_workers(plan, place, folder.path())?;
    let mut random = Rng::with_seed(plan.seed);
    let mut faults: BTreeMap<&'static str, usize> = BTreeMap::new();
    // The number of writes that killed workers had made.
    let mut before = 0;
    let mut silence = None;
    let mut told = started;
    loop {
        let killed = |faults: &BTreeMap<_, usize>, what| faults.get(what).copied().unwrap_or_default() >= plan.kills;
        let done = before + writes(&workers);
        let enough_kills = plan.pause.is_none()
            || killed(&faults, faults::WORKER_KILLED) && (!place.can_kill() || killed(&faults, faults::SERVER_KILLED));
        silence = end_silence(silence, done)?;
        if started.elapsed() >= plan.length && done >= plan.writes && enough_kills && silence.is_none() {
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
        if fault == faults::SERVER_KILLED {
            silence = Some((before + writes(&workers), Instant::now()));
        }
        if fault == faults::WORKER_KILLED {
            let worker = random.choice(&mut workers).context("no workers")?;
            before += worker.replace(folder.path()).await?;
        }
    }
    for worker in workers {
        worker.finish().await?;
    }
    let took = started.elapsed();
    let admin = place.admin().await?;
    let contents = contents::read(&admin).await?;
    admin.close().await?;
    let history = History::read(folder.path())?;
    let (counts, objections) = checker::check(&history, &contents);
    let kept = (!objections.is_empty()).then(|| folder.keep());
    let outages = Outages::find(&place.kills, history.acknowledged);
    let (version, calls) = (place.version.clone(), history.calls);
    Ok(Outcome { version, counts, calls, faults, outages, objections, took, kept })
}

/// How many writes there were when the server was killed last, and when that was, if there were no more since.
fn end_silence(silence: Option<(u64, Instant)>, writes: u64) -> anyhow::Result<Option<(u64, Instant)>> {
    let silence = silence.filter(|(at_kill, _)| writes <= *at_kill);
    let is_long = silence.is_some_and(|(_, since)| since.elapsed() > LONGEST_SILENCE);
    ensure!(!is_long, "no write is acknowledged any more since the server was killed");
    Ok(silence)
}

/// How many writes the workers have made.
fn writes(workers: &[Worker]) -> u64 {
    workers.iter().map(|worker| worker.done.load(Ordering::Relaxed)).sum()
}

fn journal_path(folder: &Path, process: usize, generation: usize) -> PathBuf {
    folder.join(format!("worker{process}-{generation}.jsonl"))
}

fn start_workers(plan: &Plan, place: &Place, folder: &Path) -> anyhow::Result<Vec<Worker>> {
    let url = place.service_url.clone();
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
