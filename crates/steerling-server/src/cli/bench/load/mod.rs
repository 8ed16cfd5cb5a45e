//! `steerling bench --url`: load on a running server, and what it does with it.

mod client;
mod hold;
mod report;
mod soak;
mod stats;
mod workload;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rand::RngExt;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use tokio::task::JoinSet;

use report::Report;
use soak::{Forgiven, Metrics, Watch};
use stats::Stats;
use workload::Workload;

/// The workload if no file is given.
const MIXED: &str = include_str!("../workloads/mixed.toml");
/// That of a soak.
const SOAK: &str = include_str!("../workloads/soak.toml");
/// Clients of a closed loop, as many as there are ports.
const MOST_CLIENTS: usize = 1 << 16;
/// Connections are kept for so long: less than a server keeps them, so that none ends while it is taken up again.
const POOLED: Duration = Duration::from_secs(2);
/// Requests of an open loop that may be open at once.
const MOST_OPEN: usize = 4096;

/// Load on a running server.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// Put load on the server at this address instead, `http://host:port`.
    #[arg(long, conflicts_with_all = ["model", "preset", "explain"])]
    pub(super) url: Option<String>,
    /// Key sent to the server at `--url`, and to no other.
    // Without `requires`: whoever has it in the environment may measure without a server.
    #[arg(long, env = "STEERLING_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// TOML file with the kinds of requests; a mixture of generations if absent.
    #[arg(long, requires = "url")]
    workload: Option<PathBuf>,
    /// Closed loop: so many clients, each of which asks again as soon as it has its answer.
    #[arg(long, requires = "url", default_value_t = 8)]
    concurrency: usize,
    /// Open loop: so many requests a second at random times, however long the answers take.
    #[arg(long, requires = "url", conflicts_with = "concurrency")]
    rate: Option<f64>,
    /// Seconds during which requests are sent.
    #[arg(long, requires = "url", default_value_t = 30.0)]
    seconds: f64,
    /// Stop after so many requests.
    #[arg(long, requires = "url")]
    requests: Option<u64>,
    /// Also watch the server's metrics, judge, and fail if something is not as it must be.
    #[arg(long, requires = "url")]
    soak: bool,
    /// The address of /metrics, if not that of `--url`.
    #[arg(long, requires = "soak")]
    metrics_url: Option<String>,
    /// Steps are made to fail while the soak runs.
    #[arg(long, requires = "soak")]
    allow_faults: bool,
    /// The server is drained and started again while the soak runs.
    #[arg(long, requires = "soak")]
    allow_restart: bool,
}

/// What all clients share.
struct Load {
    client: reqwest::Client,
    url: String,
    workload: Workload,
    stats: Mutex<Vec<Stats>>,
    /// Requests begun.
    begun: AtomicU64,
    most: u64,
    until: Instant,
    bar: ProgressBar,
}

/// Runs the load and returns the report as a table and as JSON.
///
/// # Errors
/// If the arguments make no sense, the server does not answer at all, or a soak failed.
pub(crate) fn run(args: &LoadArgs, url: &str, json: Option<&PathBuf>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure(args, url.trim_end_matches('/')))?;
    super::super::output::emit(&report.table())?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    match report.soak {
        Some(verdict) if !verdict.passed => bail!("the soak found problems"),
        _ => Ok(()),
    }
}

async fn measure(args: &LoadArgs, url: &str) -> Result<Report> {
    ensure!(
        (1..=MOST_CLIENTS).contains(&args.concurrency),
        "--concurrency: {} is outside 1..={MOST_CLIENTS}",
        args.concurrency
    );
    ensure!((0.1..=1e6).contains(&args.seconds), "--seconds: {} is outside 0.1..=1000000", args.seconds);
    if let Some(rate) = args.rate {
        ensure!((1e-3..=1e5).contains(&rate), "--rate: {rate} is outside 0.001..=100000");
    }
    let workload = match &args.workload {
        Some(path) => Workload::open(path)?,
        None => Workload::parse(if args.soak { SOAK } else { MIXED })?,
    };
    let client = client_with(args.api_key.as_deref().filter(|key| !key.is_empty()))?;
    let answer = client.get(format!("{url}/info")).timeout(Duration::from_secs(10)).send().await;
    answer.and_then(reqwest::Response::error_for_status).with_context(|| format!("{url}/info does not answer"))?;
    let started = Instant::now();
    let load = Arc::new(Load {
        stats: Mutex::new(workload.kinds.iter().map(|_| Stats::default()).collect()),
        client,
        url: url.to_owned(),
        workload,
        begun: AtomicU64::new(0),
        most: args.requests.unwrap_or(u64::MAX),
        until: started + Duration::from_secs_f64(args.seconds),
        bar: bar(args),
    });
    let metrics = match &args.metrics_url {
        Some(url) => Metrics { client: client_with(None)?, url: url.clone() },
        None => Metrics { client: load.client.clone(), url: url.to_owned() },
    };
    let watching = args.soak.then(|| tokio::spawn(watch(load.clone(), metrics.clone())));
    let not_sent = match args.rate {
        Some(rate) => open_loop(&load, rate).await,
        None => closed_loop(&load, args.concurrency).await,
    };
    let seconds = started.elapsed().as_secs_f64();
    load.bar.finish_and_clear();
    let stats = std::mem::take(&mut *load.stats.lock().unwrap_or_else(PoisonError::into_inner));
    let mut all = Stats::default();
    stats.iter().for_each(|stats| all.merge(stats));
    let soak = match watching {
        Some(watching) => {
            let forgiven = Forgiven { faults: args.allow_faults, restart: args.allow_restart };
            Some(watching.await?.judge(&metrics, &all, forgiven).await)
        }
        None => None,
    };
    let total = all.summary("all");
    Ok(Report {
        url: url.to_owned(),
        mode: if args.rate.is_some() { "open" } else { "closed" },
        concurrency: args.rate.is_none().then_some(args.concurrency),
        rate: args.rate,
        not_sent,
        seconds,
        requests_per_second: total.ok as f64 / seconds,
        tokens_per_second: total.tokens as f64 / seconds,
        kinds: load.workload.kinds.iter().zip(&stats).map(|(kind, stats)| stats.summary(&kind.name)).collect(),
        total,
        without_retry_after: all.without_retry_after,
        soak,
    })
}

/// A client that sends `key` with every request.
fn client_with(key: Option<&str>) -> Result<reqwest::Client> {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        let value = HeaderValue::try_from(format!("Bearer {key}"));
        let mut value = value.context("--api-key: it has characters that no header can carry")?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(reqwest::Client::builder().default_headers(headers).pool_idle_timeout(POOLED).build()?)
}

fn bar(args: &LoadArgs) -> ProgressBar {
    let (length, template) = match args.requests {
        Some(n) => (n, "{prefix} [{bar:24}] {pos}/{len} {elapsed}, {eta} left  {msg}"),
        None => (args.seconds.ceil() as u64, "{prefix} [{bar:24}] {elapsed}/{len} s  {msg}"),
    };
    let style =
        ProgressStyle::with_template(template).expect("the template names only keys that exist").progress_chars("█▌░");
    let bar = ProgressBar::new(length).with_style(style).with_prefix(if args.soak { "soak" } else { "load" });
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

impl Load {
    /// The number of the next request, if there is one.
    fn next(&self) -> Option<u64> {
        let n = self.begun.fetch_add(1, Ordering::Relaxed);
        (n < self.most && Instant::now() < self.until).then_some(n)
    }

    async fn ask(&self, n: u64, due: Instant) {
        let index = self.workload.draw(&mut rand::rng());
        let sample = client::ask(&self.client, &self.url, index, &self.workload.kinds[index], n, due).await;
        let unreachable = sample.outcome == client::Outcome::Unreachable;
        {
            let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
            stats[sample.kind].add(&sample);
            let (done, failed) = stats.iter().fold((0, 0), |(n, m), s| (n + s.requests(), m + s.failed()));
            self.bar.set_message(format!("{done} answers, {failed} failures"));
            if self.most < u64::MAX {
                self.bar.set_position(done);
            }
        }
        if self.most == u64::MAX {
            self.bar.set_position(self.bar.elapsed().as_secs());
        }
        if unreachable || matches!(sample.outcome, client::Outcome::Status(429 | 503)) {
            // Whoever was turned away does not come back at once.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Each client asks again as soon as it has its answer.
async fn closed_loop(load: &Arc<Load>, clients: usize) -> u64 {
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let load = load.clone();
        tasks.spawn(async move {
            while let Some(n) = load.next() {
                load.ask(n, Instant::now()).await;
            }
        });
    }
    tasks.join_all().await;
    0
}

/// Requests are due at random times, whatever became of those before; how many were not sent.
async fn open_loop(load: &Arc<Load>, rate: f64) -> u64 {
    let mut tasks = JoinSet::new();
    let (mut due, mut not_sent) = (Instant::now(), 0);
    loop {
        let gap = -(1.0 - rand::rng().random::<f64>()).ln() / rate;
        due += Duration::from_secs_f64(gap);
        tokio::time::sleep_until(due.into()).await;
        let Some(n) = load.next() else { break };
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= MOST_OPEN {
            not_sent += 1;
            continue;
        }
        let load = load.clone();
        tasks.spawn(async move { load.ask(n, due).await });
    }
    tasks.join_all().await;
    not_sent
}

/// Looks at the metrics once a second while requests are sent.
async fn watch(load: Arc<Load>, metrics: Metrics) -> Watch {
    let mut watch = Watch::default();
    while Instant::now() < load.until && load.begun.load(Ordering::Relaxed) < load.most {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(text) = metrics.text().await {
            watch.note(&text);
        }
    }
    watch
}
