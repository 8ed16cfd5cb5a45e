//! What operators watch: every series is described and present before the first request, in base units.
//!
//! The recorder belongs to the server, not to the process, so that two servers in one process do not mix.

mod request;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use steerling::cache::PageUse;

pub(crate) use request::{Measured, Outcome, StreamEnd};

use crate::audit::Counts;
use crate::engine::{Fault, WorkKind};
use request::OUTCOMES;

/// Collected histogram samples are folded into buckets this often, whether or not anybody scrapes.
pub(crate) const UPKEEP: Duration = Duration::from_secs(5);

/// From a millisecond to ten minutes.
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
const ROWS: &[f64] = &[16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];
const SEQUENCES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
const TOKENS: &[f64] = &[0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// All series.
pub struct Metrics {
    handle: PrometheusHandle,
    endpoints: HashMap<String, Endpoint>,
    /// Requests that reach no endpoint.
    unmatched: Endpoint,
    in_flight: Gauge,
    pub(crate) connections: Connections,
    pub(crate) audit: Counts,
    pub(crate) engine: EngineMetrics,
    resident_memory: Gauge,
}

/// One endpoint.
#[derive(Clone)]
struct Endpoint {
    /// As many as there are outcomes, in their order.
    outcomes: [Counter; OUTCOMES.len()],
    seconds: Histogram,
}

/// Open connections of each port.
pub(crate) struct Connections {
    pub(crate) main: Gauge,
    pub(crate) admin: Gauge,
}

/// What the worker tells.
pub(crate) struct EngineMetrics {
    pub(crate) ready: Gauge,
    pub(crate) jobs_waiting: Gauge,
    pub(crate) jobs_active: Gauge,
    pub(crate) places_used: Gauge,
    pub(crate) active_limit: Gauge,
    pub(crate) queue_seconds: Histogram,
    pub(crate) step_seconds: Histogram,
    pub(crate) step_rows: Histogram,
    pub(crate) step_sequences: Histogram,
    pub(crate) first_block_seconds: Histogram,
    pub(crate) tokens: Counter,
    pub(crate) tokens_per_forward: Histogram,
    pub(crate) prefix_blocks: Counter,
    pub(crate) prefix_hits: Counter,
    pub(crate) model_loads: Counter,
    pages: [Gauge; 3],
    pages_reserved: Gauge,
    page_bytes: Gauge,
    pages_evicted: Counter,
    slices: HashMap<WorkKind, (Counter, Histogram)>,
    faults: HashMap<Fault, Counter>,
}

/// Describes and registers in one breath, so that nothing is forgotten.
struct Register<'a>(&'a PrometheusRecorder);

impl Register<'_> {
    const METADATA: Metadata<'static> = Metadata::new("steerling", Level::INFO, None);

    fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.counter_of(name, help, Vec::new())
    }

    fn counter_of(&self, name: &'static str, help: &'static str, labels: Vec<Label>) -> Counter {
        self.0.describe_counter(name.into(), None, help.into());
        self.0.register_counter(&Key::from_parts(name, labels), &Self::METADATA)
    }

    fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        self.gauge_of(name, help, Vec::new())
    }

    fn gauge_of(&self, name: &'static str, help: &'static str, labels: Vec<Label>) -> Gauge {
        self.0.describe_gauge(name.into(), None, help.into());
        self.0.register_gauge(&Key::from_parts(name, labels), &Self::METADATA)
    }

    fn histogram(&self, name: &'static str, help: &'static str) -> Histogram {
        self.histogram_of(name, help, Vec::new())
    }

    fn histogram_of(&self, name: &'static str, help: &'static str, labels: Vec<Label>) -> Histogram {
        let unit = name.ends_with("_seconds").then_some(Unit::Seconds);
        self.0.describe_histogram(name.into(), unit, help.into());
        self.0.register_histogram(&Key::from_parts(name, labels), &Self::METADATA)
    }

    fn endpoint(&self, path: &str) -> Endpoint {
        let label = || Label::new("endpoint", path.to_owned());
        let outcome = |outcome: Outcome| {
            let labels = vec![label(), Label::new("outcome", outcome.as_str())];
            self.counter_of("steerling_requests_total", "Requests whose answer has ended, by how it ended.", labels)
        };
        Endpoint {
            outcomes: OUTCOMES.map(outcome),
            seconds: self.histogram_of(
                "steerling_request_seconds",
                "From the head of a request to the last byte of its answer.",
                vec![label()],
            ),
        }
    }
}

impl Metrics {
    /// All series, at zero. `endpoints` are the paths of the routes.
    pub fn new(endpoints: impl IntoIterator<Item = String>) -> Self {
        let buckets = |builder: PrometheusBuilder, suffix: &str, values| {
            builder
                .set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), values)
                .expect("the buckets are not empty")
        };
        let mut builder = PrometheusBuilder::new();
        for (suffix, values) in
            [("_seconds", SECONDS), ("_rows", ROWS), ("_sequences", SEQUENCES), ("_per_forward", TOKENS)]
        {
            builder = buckets(builder, suffix, values);
        }
        let recorder = builder.build_recorder();
        let register = Register(&recorder);
        let commit = option_env!("STEERLING_GIT_COMMIT").unwrap_or("unknown");
        let build = vec![Label::new("version", env!("CARGO_PKG_VERSION")), Label::new("git_commit", commit)];
        register.gauge_of("steerling_build_info", "1; the labels tell what was built.", build).set(1.0);
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        register.gauge("process_start_time_seconds", "Start of the server, in seconds since 1970.").set(since_epoch);
        let connections = |port| {
            let help = "Open connections, by port: of requests (main), and of health and metrics alone (admin).";
            register.gauge_of("steerling_connections", help, vec![Label::new("port", port)])
        };
        Self {
            endpoints: endpoints.into_iter().map(|path| (path.clone(), register.endpoint(&path))).collect(),
            unmatched: register.endpoint("unmatched"),
            in_flight: register.gauge("steerling_requests_in_flight", "Requests whose answer has not ended."),
            connections: Connections { main: connections("main"), admin: connections("admin") },
            audit: Counts {
                written: register.counter("steerling_audit_lines_total", "Lines written to the audit log."),
                dropped: register
                    .counter("steerling_audit_dropped_total", "Lines that the audit log should have and has not."),
            },
            resident_memory: register
                .gauge("process_resident_memory_bytes", "Resident memory, where the system tells."),
            engine: EngineMetrics::new(&register),
            handle: recorder.handle(),
        }
    }

    /// The text that collectors read.
    pub(crate) fn render(&self) -> String {
        if let Some(bytes) = resident_bytes() {
            self.resident_memory.set(bytes as f64);
        }
        self.handle.render()
    }

    /// Folds samples into buckets; to be called every [`UPKEEP`].
    pub(crate) fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

impl EngineMetrics {
    fn new(register: &Register) -> Self {
        let pages = |state| {
            let labels = vec![Label::new("state", state)];
            register.gauge_of("steerling_kv_pages", "Pages of keys and values, by state.", labels)
        };
        let jobs = |state| {
            let labels = vec![Label::new("state", state)];
            register.gauge_of("steerling_jobs", "Generations in the house, by state.", labels)
        };
        let slice = |kind: WorkKind| {
            let labels = || vec![Label::new("kind", kind.as_str())];
            let count = register.counter_of("steerling_slices_total", "Slices of work beside generations.", labels());
            let seconds = register.histogram_of("steerling_slice_seconds", "Time of one such slice.", labels());
            (kind, (count, seconds))
        };
        let fault = |fault: Fault| {
            let labels = vec![Label::new("kind", fault.as_str())];
            let help = "Steps and slices that failed, by reason.";
            (fault, register.counter_of("steerling_faults_total", help, labels))
        };
        Self {
            ready: register.gauge("steerling_ready", "1 while generations are taken."),
            jobs_waiting: jobs("waiting"),
            jobs_active: jobs("active"),
            places_used: register.gauge("steerling_places_used", "Places in queue and batch that requests hold."),
            active_limit: register.gauge("steerling_active_limit", "Sequences that share a step at most."),
            queue_seconds: register.histogram("steerling_queue_seconds", "From submission to admission."),
            step_seconds: register.histogram("steerling_step_seconds", "Time of one denoising step of a batch."),
            step_rows: register.histogram("steerling_step_rows", "Positions computed in a step."),
            step_sequences: register.histogram("steerling_step_sequences", "Generations that shared a step."),
            first_block_seconds: register
                .histogram("steerling_time_to_first_block_seconds", "From submission to the first committed token."),
            tokens: register.counter("steerling_tokens_committed_total", "Tokens committed."),
            tokens_per_forward: register.histogram(
                "steerling_tokens_per_forward",
                "Tokens for each forward pass, of each finished generation.",
            ),
            prefix_blocks: register
                .counter("steerling_prompt_blocks_total", "Whole attention blocks of prompts of finished generations."),
            prefix_hits: register
                .counter("steerling_prefix_hits_total", "Attention blocks that came from an earlier request."),
            model_loads: register.counter("steerling_model_loads_total", "Times the model was loaded and warmed up."),
            pages: ["active", "cached", "free"].map(pages),
            pages_reserved: register
                .gauge("steerling_kv_pages_reserved", "Pages set aside for admitted generations, at their worst case."),
            page_bytes: register.gauge("steerling_kv_page_bytes", "Bytes of one page over all layers."),
            pages_evicted: register.counter("steerling_kv_pages_evicted_total", "Cached pages that had to make room."),
            slices: WorkKind::ALL.into_iter().map(slice).collect(),
            faults: Fault::ALL.into_iter().map(fault).collect(),
        }
    }

    /// How the pages are used.
    pub(crate) fn pages(&self, pages: &PageUse, page_bytes: u64) {
        let free = pages.total - pages.active - pages.cached;
        for (gauge, value) in self.pages.iter().zip([pages.active, pages.cached, free]) {
            gauge.set(value as f64);
        }
        self.pages_reserved.set(pages.reserved as f64);
        self.page_bytes.set(page_bytes as f64);
        self.pages_evicted.absolute(pages.evicted);
    }

    pub(crate) fn slice(&self, kind: WorkKind, time: Duration) {
        if let Some((count, seconds)) = self.slices.get(&kind) {
            count.increment(1);
            seconds.record(time);
        }
    }

    pub(crate) fn fault(&self, fault: Fault) {
        if let Some(count) = self.faults.get(&fault) {
            count.increment(1);
        }
    }
}

/// Resident memory of this process.
#[cfg(target_os = "linux")]
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(not(target_os = "linux"))]
fn resident_bytes() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_and_described_before_the_first_request() {
        let text = Metrics::new(["/generate".to_owned()]).render();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let series = line.split(['{', ' ']).next().expect("a name");
            let name = series.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count");
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no description");
            assert!(text.contains(&format!("# TYPE {name} ")), "{name} has no type");
        }
        for series in [
            r#"steerling_requests_total{endpoint="/generate",outcome="ok"} 0"#,
            r#"steerling_requests_total{endpoint="unmatched",outcome="refused"} 0"#,
            r#"steerling_slices_total{kind="attribute"} 0"#,
            r#"steerling_faults_total{kind="out_of_memory"} 0"#,
            r#"steerling_kv_pages{state="cached"} 0"#,
            "steerling_queue_seconds_count 0",
            "steerling_tokens_per_forward_count 0",
            "steerling_requests_in_flight 0",
            "steerling_audit_dropped_total 0",
        ] {
            assert!(text.lines().any(|line| line == series), "{series} is missing in\n{text}");
        }
        assert!(text.contains("steerling_build_info{version="));
    }

    #[test]
    fn two_servers_in_one_process_count_apart() {
        let (one, other) = (Metrics::new([]), Metrics::new([]));
        one.engine.tokens.increment(3);
        assert!(one.render().contains("steerling_tokens_committed_total 3"));
        assert!(other.render().contains("steerling_tokens_committed_total 0"));
    }
}
