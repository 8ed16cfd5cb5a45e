//! What a long run must show: memory that stays, places that come back, streams that end once, no failure unasked.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::stats::Stats;

/// Growth of resident memory after the warm-up that is still flat: a share of it, and what an allocator's ups and downs
/// move the middle of a short third by, however small the process is (±4 MiB in thirds of twenty seconds).
const FLAT: f64 = 0.05;
const FLAT_MIB: f64 = 4.0;
/// Time that everything has to come back to zero after the last answer.
const SETTLE: Duration = Duration::from_secs(30);
/// Series that are zero when nobody asks for anything.
const RESTING: [&str; 5] = [
    "steerling_places_used",
    r#"steerling_jobs{state="active"}"#,
    r#"steerling_jobs{state="waiting"}"#,
    r#"steerling_kv_pages{state="active"}"#,
    "steerling_kv_pages_reserved",
];

/// Open connections, and how many may be left at the end: those that read the metrics.
const CONNECTIONS: &str = r#"steerling_connections{port="main"}"#;
const WATCHING: f64 = 4.0;

/// Where the metrics are, and who asks for them.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub(super) client: reqwest::Client,
    pub(super) url: String,
}

/// Memory of a process, over time.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// One for each process that answered, by its start.
    processes: Vec<(f64, Vec<f64>)>,
}

/// What a soak found.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    pub(super) passed: bool,
    /// Of each process that served long enough: the middle of its memory in the second and in the last third, in MiB.
    memory_mib: Vec<(f64, f64)>,
    /// Everything that was not as it must be.
    problems: Vec<String>,
}

/// What a soak forgives, because it was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forgiven {
    /// Steps fail on purpose.
    pub(super) faults: bool,
    /// The server is drained and started again.
    pub(super) restart: bool,
}

/// The value of a series in the text of the metrics.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Whether memory that was `before` MiB and is `after` has stayed.
fn is_flat(before: f64, after: f64) -> bool {
    after <= before * (1.0 + FLAT) + FLAT_MIB
}

impl Watch {
    /// Notes the memory that the metrics tell.
    pub(super) fn note(&mut self, metrics: &str) {
        let (Some(start), Some(memory)) =
            (value(metrics, "process_start_time_seconds"), value(metrics, "process_resident_memory_bytes"))
        else {
            return;
        };
        match self.processes.last_mut() {
            Some((known, samples)) if *known == start => samples.push(memory),
            _ => self.processes.push((start, vec![memory])),
        }
    }

    /// The middle of the second and of the last third of each process's samples, in MiB.
    fn thirds(&self) -> Vec<(f64, f64)> {
        let median = |samples: &[f64]| {
            let mut sorted = samples.to_vec();
            sorted.sort_by(f64::total_cmp);
            sorted[sorted.len() / 2] / f64::from(1 << 20)
        };
        let long = self.processes.iter().filter(|(_, samples)| samples.len() >= 9);
        long.map(|(_, samples)| {
            let third = samples.len() / 3;
            (median(&samples[third..2 * third]), median(&samples[2 * third..]))
        })
        .collect()
    }

    /// Judges the run, after waiting until the server has come to rest.
    pub(super) async fn judge(self, metrics: &Metrics, stats: &Stats, forgiven: Forgiven) -> Verdict {
        let mut problems: Vec<String> = Vec::new();
        let memory_mib = self.thirds();
        for (before, after) in &memory_mib {
            if !is_flat(*before, *after) {
                problems.push(format!("memory grew from {before:.0} to {after:.0} MiB"));
            }
        }
        if self.processes.is_empty() {
            problems.push("the server tells no memory".to_owned());
        }
        for (failure, n) in &stats.failures {
            let faults = ["error internal", "status 500"].contains(&failure.as_str());
            let restart = ["error shutting_down", "status 503", "unreachable"].contains(&failure.as_str());
            // While the model is loaded again nothing is taken.
            let reload = failure == "status 503";
            if !(forgiven.faults && (faults || reload) || forgiven.restart && restart || failure == "status 429") {
                problems.push(format!("{n} × {failure}"));
            }
        }
        if stats.without_retry_after > 0 {
            problems.push(format!("{} refusals without retry-after", stats.without_retry_after));
        }
        problems.extend(unrest(metrics).await);
        Verdict { passed: problems.is_empty(), memory_mib, problems }
    }
}

/// What has not come back to zero.
async fn unrest(metrics: &Metrics) -> Vec<String> {
    let started = Instant::now();
    loop {
        let busy: Vec<String> = match metrics.text().await {
            None => vec!["the server does not answer".to_owned()],
            Some(text) => RESTING
                .into_iter()
                .map(|series| (series, 0.0))
                .chain([(CONNECTIONS, WATCHING)])
                .filter_map(|(series, most)| match value(&text, series) {
                    Some(n) if n <= most => None,
                    Some(n) => Some(format!("{series} is {n} at the end")),
                    None => Some(format!("{series} is missing")),
                })
                .collect(),
        };
        if busy.is_empty() || started.elapsed() > SETTLE {
            return busy;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

impl Metrics {
    /// Their text, if the server answers.
    pub(super) async fn text(&self) -> Option<String> {
        let request = self.client.get(format!("{}/metrics", self.url)).timeout(Duration::from_secs(5));
        request.send().await.ok()?.error_for_status().ok()?.text().await.ok()
    }
}

impl Verdict {
    pub(super) fn table(&self) -> String {
        let mut text = String::from("\n");
        for (before, after) in &self.memory_mib {
            text +=
                &format!("memory {before:.1} MiB, later {after:.1} MiB ({:+.1} %)\n", (after / before - 1.0) * 100.0);
        }
        for problem in &self.problems {
            text += &format!("PROBLEM: {problem}\n");
        }
        text += if self.passed { "soak passed\n" } else { "soak failed\n" };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_compared_within_a_process() {
        let mut watch = Watch::default();
        let text = |start: u32, mib: u32| {
            format!("process_start_time_seconds {start}\nprocess_resident_memory_bytes {}\n", mib << 20)
        };
        (0..9).for_each(|_| watch.note(&text(1, 500)));
        for mib in [10, 20, 30, 100, 100, 100, 104, 104, 104] {
            watch.note(&text(2, mib));
        }
        watch.note(&text(3, 9000));
        assert_eq!(watch.thirds(), [(500.0, 500.0), (100.0, 104.0)]);
    }

    #[test]
    fn growth_is_told_from_an_allocators_noise() {
        for (before, after, flat) in
            [(80.0, 70.0, true), (80.0, 87.0, true), (80.0, 89.0, false), (17e3, 17.8e3, true), (17e3, 17.9e3, false)]
        {
            assert_eq!(is_flat(before, after), flat, "{before} to {after}");
        }
    }

    #[test]
    fn a_series_is_found_by_its_whole_name() {
        let text = "# HELP a b\na_total{x=\"1\"} 3\na 4\n";
        assert_eq!(value(text, "a"), Some(4.0));
        assert_eq!(value(text, r#"a_total{x="1"}"#), Some(3.0));
        assert_eq!(value(text, "b"), None);
    }
}
