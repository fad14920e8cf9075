//! Closed loops of clients, and their results.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;

/// How many clients work, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) length: Duration,
}

/// Calls per second, the latency of each, and the processor time that this process used for them.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    pub(crate) each_second: f64,
    pub(crate) latencies: Vec<Duration>,
    /// Per call; `None` if another process makes the calls.
    pub(crate) cpu: Option<Duration>,
}

/// Returns the processor time that this process has used.
fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

impl Load {
    /// Runs one task per client, which makes one call after another.
    pub(crate) async fn run<C: Client>(self, clients: impl IntoIterator<Item = C>) -> anyhow::Result<Rate> {
        let mut tasks = JoinSet::new();
        let (started, cpu_before) = (Instant::now(), cpu());
        for mut client in clients.into_iter().take(self.clients) {
            tasks.spawn(async move {
                let mut latencies = Vec::new();
                while started.elapsed() < self.length {
                    let begun = Instant::now();
                    client.call().await?;
                    latencies.push(begun.elapsed());
                }
                anyhow::Ok(latencies)
            });
        }
        let mut latencies = Vec::new();
        while let Some(client) = tasks.join_next().await {
            latencies.extend(client??);
        }
        #[allow(clippy::cast_precision_loss, reason = "fewer than 2^52 calls")]
        let each_second = latencies.len() as f64 / started.elapsed().as_secs_f64();
        let cpu = cpu().saturating_sub(cpu_before).checked_div(u32::try_from(latencies.len())?);
        Ok(Rate { each_second, latencies, cpu })
    }
}

/// A client that makes one call after another.
pub(crate) trait Client: Send + 'static {
    /// Makes a call and waits until it ends.
    fn call(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// The rounds of one work.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    limit: Vec<f64>,
    seabed: Vec<f64>,
    latencies: Vec<Duration>,
    limit_cpu: Vec<f64>,
    seabed_cpu: Vec<f64>,
}

impl Outcome {
    pub(crate) fn add(&mut self, limit: &Rate, seabed: Rate) {
        self.limit.push(limit.each_second);
        self.seabed.push(seabed.each_second);
        self.latencies.extend(seabed.latencies);
        let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6;
        self.limit_cpu.extend(limit.cpu.map(micros));
        self.seabed_cpu.extend(seabed.cpu.map(micros));
    }

    /// The rate of the limit.
    pub(crate) fn limit(&self) -> f64 {
        median(self.limit.clone())
    }

    /// Returns the table columns after the first two. `best` is the best rate of the limit, at any number of clients.
    pub(crate) fn columns(mut self, best: f64, goal: Option<f64>) -> String {
        let ratios: Vec<f64> = self.seabed.iter().zip(&self.limit).map(|(seabed, limit)| seabed / limit).collect();
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = ratios.iter().copied().fold(0.0, f64::max);
        self.latencies.sort_unstable();
        let (ratio, seabed) = (median(ratios), median(self.seabed));
        let limit_cpu = (!self.limit_cpu.is_empty()).then(|| format!(" / {:.0}", median(self.limit_cpu)));
        let cpu = format!("{:.0}{}", median(self.seabed_cpu), limit_cpu.unwrap_or_default());
        let goal = goal.map_or_else(String::new, |goal| format!("≥ {goal} {}", if ratio >= goal { "✓" } else { "✗" }));
        format!(
            "{:.0} | {seabed:.0} | {ratio:.2} | {lowest:.2} to {highest:.2} | {:.2} | {} | {} | {} | {goal}",
            median(self.limit),
            seabed / best,
            show(percentile(&self.latencies, 50)),
            show(percentile(&self.latencies, 99)),
            cpu,
        )
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let (upper, lower) = (values.len() / 2, values.len().saturating_sub(1) / 2);
    f64::midpoint(values.get(lower).copied().unwrap_or_default(), values.get(upper).copied().unwrap_or_default())
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn show(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}
