//! A server with a fake denoiser, over a real socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::{Value, json};
use steerling::attribute::inputs::GradientBudget;
use steerling::cache::PageUse;
use steerling::canvas::{CanvasId, CanvasSpec, Choice};
use steerling::catalog::Catalog;
use steerling::config::{Config, MlpKind, NormKind, NormOrder, SpecialIds};
use steerling::{
    Canvas, Denoiser, DeviceChoice, Error, Limits, ModelInfo, ModelSource, Result, Runtime, RuntimeOptions, Tokenizer,
};
use steerling_server::ServeError;
use steerling_server::config::{Active, ConfigFile, GuardOptions, Secrets, ServiceOptions};
use steerling_server::engine::Loaded;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const MASK: u32 = 100_280;
pub(crate) const CONTEXT: usize = 1024;
const SPECIAL: SpecialIds =
    SpecialIds { eos: 100_257, pad: 100_277, bos: 100_278, endofchunk: 100_279, mask: MASK, chat: None };

/// What the fake does; may be changed while it runs.
pub(crate) struct Script {
    /// Milliseconds of a step.
    pub(crate) step_ms: AtomicUsize,
    /// The step counted from 0 over all jobs that fails; negative for none.
    pub(crate) fail_at: AtomicI64,
    /// The same, with a panic.
    pub(crate) panic_at: AtomicI64,
    /// The same, without memory on the device.
    pub(crate) no_memory_at: AtomicI64,
    /// The same, with logits of the first canvas that are no numbers.
    pub(crate) non_finite_at: AtomicI64,
    /// Every step from this one on fails.
    pub(crate) fail_from: AtomicI64,
    /// Nobody is admitted beside another one.
    pub(crate) alone: AtomicBool,
    /// Building waits while this is set.
    pub(crate) hold_load: AtomicBool,
    pub(crate) pages: AtomicUsize,
    pub(crate) loads: AtomicUsize,
    pub(crate) steps: AtomicI64,
    pub(crate) released: AtomicUsize,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            step_ms: AtomicUsize::new(0),
            fail_at: AtomicI64::new(-1),
            panic_at: AtomicI64::new(-1),
            no_memory_at: AtomicI64::new(-1),
            non_finite_at: AtomicI64::new(-1),
            fail_from: AtomicI64::new(i64::MAX),
            alone: AtomicBool::new(false),
            hold_load: AtomicBool::new(false),
            pages: AtomicUsize::new(1000),
            loads: AtomicUsize::new(0),
            steps: AtomicI64::new(0),
            released: AtomicUsize::new(0),
        }
    }
}

struct Fake {
    script: Arc<Script>,
    admitted: usize,
}

impl Denoiser for Fake {
    fn limits(&self) -> Limits {
        let canvas = CanvasSpec { context: CONTEXT, block_size: 8, vocab_size: 100_281, special: SPECIAL };
        let gradients = GradientBudget::default();
        Limits { canvas, pages: self.script.pages.load(SeqCst), page_bytes: 4096, gradients }
    }

    fn admit(&mut self, _: &mut Canvas) -> Result<bool> {
        if self.script.alone.load(SeqCst) && self.admitted > 0 {
            return Ok(false);
        }
        self.admitted += 1;
        Ok(true)
    }

    fn step(&mut self, batch: &mut [&mut Canvas]) -> Result<()> {
        // The warm-up is no step of a job.
        let warm_up = batch.iter().all(|canvas| canvas.params().max_new_tokens == 1);
        if !warm_up {
            std::thread::sleep(Duration::from_millis(self.script.step_ms.load(SeqCst) as u64));
            let step = self.script.steps.fetch_add(1, SeqCst);
            assert!(step != self.script.panic_at.load(SeqCst), "the script says so");
            if step == self.script.no_memory_at.load(SeqCst) {
                return Err(candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY".to_owned()).into());
            }
            if step == self.script.non_finite_at.load(SeqCst) {
                return Err(Error::NonFinite { canvas: batch[0].id(), position: 1 });
            }
            if step == self.script.fail_at.load(SeqCst) || step >= self.script.fail_from.load(SeqCst) {
                return Err(Error::Unsupported("the script says so".to_owned()));
            }
        }
        for canvas in batch {
            // From the right, so that text becomes final late; ids of whole and of broken characters.
            let choices: Vec<Choice> = canvas.masked().into_iter().rev().take(canvas.quota()).map(choice).collect();
            canvas.usage.forwards += 1;
            canvas.usage.rows += 8;
            canvas.commit(&choices);
        }
        Ok(())
    }

    fn page_use(&self) -> PageUse {
        PageUse { total: self.script.pages.load(SeqCst), active: self.admitted, ..PageUse::default() }
    }

    fn release(&mut self, _: CanvasId) {
        self.admitted -= 1;
        self.script.released.fetch_add(1, SeqCst);
    }
}

fn choice(position: usize) -> Choice {
    let id = (position as u32 * 7919) % 5000;
    Choice { position, id, confidence: 0.5, target_logit: 1.25, decision_logit: 1.25 }
}

fn build(script: &Arc<Script>) -> Result<Loaded<Fake>> {
    while script.hold_load.load(SeqCst) {
        std::thread::sleep(Duration::from_millis(5));
    }
    script.loads.fetch_add(1, SeqCst);
    let config = Config {
        n_layers: 1,
        n_head: 1,
        n_embd: 8,
        n_kv_heads: 1,
        context: CONTEXT,
        diff_block_size: 8,
        norm: NormKind::Rms,
        norm_eps: 1e-5,
        norm_order: NormOrder::Post,
        use_qk_norm: true,
        use_rope: true,
        rope_base: 1e4,
        rope_full_precision: true,
        mlp: MlpKind::SwiGlu,
        intermediate_size: 8,
        use_bias: false,
        clip_qkv: None,
        weight_sharing: true,
        vocab_size: 100_281,
        special: SPECIAL,
        concept: None,
    };
    let info = ModelInfo {
        name: "fake".to_owned(),
        config,
        parameters: 1,
        device: "fake".to_owned(),
        dtype: "f32".to_owned(),
        weights: "f32".to_owned(),
        synthetic: false,
        embedded: false,
    };
    let tokenizer = Tokenizer::cl100k(SPECIAL)?;
    let catalog = Arc::new(Catalog::generated(&info.config)?);
    Ok(Loaded { denoiser: Fake { script: script.clone(), admitted: 0 }, info, tokenizer, catalog })
}

/// A directory of the library's recorded models.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../steerling/tests/goldens").join(name)
}

/// What the concepts of the recorded model are called.
pub(crate) fn nano_catalog() -> Catalog {
    let config = Config::from_dir(golden("nano")).unwrap();
    Catalog::open(golden("nano"), &config).unwrap()
}

pub(crate) fn options() -> ServiceOptions {
    ServiceOptions {
        max_batch: 4,
        max_queue: 4,
        max_active: Active::Auto,
        max_rows: 8192,
        max_score_positions: 1 << 27,
        max_faults: 5,
        stall: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        drain: Duration::from_secs(10),
        max_body_bytes: 64 << 10,
        guard: GuardOptions::default(),
    }
}

/// With the tables of a configuration file.
pub(crate) fn configured(toml: &str, mut guard: GuardOptions) -> ServiceOptions {
    guard.complete(&ConfigFile::parse(toml).unwrap(), &Secrets::default()).unwrap();
    ServiceOptions { guard, ..options() }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) script: Arc<Script>,
    pub(crate) client: reqwest::Client,
    shutdown: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    pub(crate) async fn start(options: ServiceOptions, script: Script) -> Self {
        let server = Self::start_loading(options, script).await;
        server.until_status("/health/ready", 200).await;
        server
    }

    /// With a model instead of the fake.
    pub(crate) async fn start_model<B>(options: ServiceOptions, build: B) -> Self
    where
        B: Fn() -> Result<Loaded<Runtime>> + Send + 'static,
    {
        let server = Self::spawn(options, Arc::default(), build).await;
        server.until_status("/health/ready", 200).await;
        server
    }

    /// Does not wait for the model.
    pub(crate) async fn start_loading(options: ServiceOptions, script: Script) -> Self {
        let script = Arc::new(script);
        let builder = {
            let script = script.clone();
            move || build(&script)
        };
        Self::spawn(options, script, builder).await
    }

    async fn spawn<D, B>(options: ServiceOptions, script: Arc<Script>, build: B) -> Self
    where
        D: Denoiser + 'static,
        B: Fn() -> Result<Loaded<D>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (shutdown, told) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let told = async { told.await.unwrap_or(()) };
            steerling_server::run(listener, options, build, told).await
        });
        Self { url, script, client: reqwest::Client::new(), shutdown: Some(shutdown), task }
    }

    /// With the recorded model instead of the fake.
    pub(crate) async fn nano(options: ServiceOptions) -> Self {
        Self::with_model(golden("nano"), options).await
    }

    /// With the model of a directory.
    pub(crate) async fn with_model(directory: PathBuf, options: ServiceOptions) -> Self {
        let builder = move || {
            let source = ModelSource::Directory(directory.clone());
            let options = RuntimeOptions { kv_bytes: 32 << 20, device: DeviceChoice::Cpu, ..RuntimeOptions::default() };
            Ok(Loaded::from(Runtime::load(&source, &options, &mut |_, _| ())?))
        };
        Self::start_model(options, builder).await
    }

    pub(crate) fn shut_down(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        self.client.post(format!("{}{path}", self.url)).json(body).send().await.unwrap()
    }

    pub(crate) async fn generate(&self, body: Value) -> reqwest::Response {
        self.post("/generate", &body).await
    }

    /// Starts a stream of many steps and reads until its first block has arrived.
    pub(crate) async fn open_stream(&self, tokens: usize) -> Events {
        let body = json!({"prompt": "a", "max_new_tokens": tokens, "stream": true});
        let response = self.generate(body).await;
        assert_eq!(response.status(), 200);
        let mut events = Events::new(response);
        assert_eq!(events.next().await.unwrap().name, "start");
        assert_eq!(events.next().await.unwrap().name, "block");
        events
    }

    /// The value of a series, labels included.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) async fn load(&self) -> (u64, u64) {
        let info: Value = self.get("/info").await.json().await.unwrap();
        (info["load"]["active"].as_u64().unwrap(), info["load"]["queued"].as_u64().unwrap())
    }

    pub(crate) async fn until_load(&self, load: (u64, u64)) {
        self.until(&format!("load {load:?}"), async || self.load().await == load).await;
    }

    pub(crate) async fn until_status(&self, path: &str, status: u16) {
        self.until(&format!("{path} to answer {status}"), async || self.get(path).await.status() == status).await;
    }

    pub(crate) async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let started = Instant::now();
        while !holds().await {
            assert!(started.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// One server-sent event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: u64,
    pub(crate) data: Value,
}

/// The events of an answer.
pub(crate) struct Events {
    body: std::pin::Pin<Box<dyn futures::Stream<Item = Vec<u8>> + Send>>,
    buffer: Vec<u8>,
}

impl Events {
    pub(crate) fn new(response: reqwest::Response) -> Self {
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body = response.bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec()).unwrap_or_default());
        Self { body: Box::pin(body), buffer: Vec::new() }
    }

    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let record: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let record = String::from_utf8(record).unwrap();
                let field = |name: &str| {
                    record.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
                };
                if let Some(name) = field("event:") {
                    let data = serde_json::from_str(&field("data:").unwrap()).unwrap();
                    return Some(Event { name, id: field("id:").unwrap().parse().unwrap(), data });
                }
                continue;
            }
            self.buffer.extend(self.body.next().await?);
        }
    }

    pub(crate) async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// The refusal in an answer, after checking its form.
pub(crate) async fn refusal(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(response.headers()["content-type"], "application/json");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["request_id"], json!(id));
    assert!(!body["error"]["message"].as_str().unwrap().is_empty());
    assert!(body["error"].as_object().unwrap().contains_key("param"));
    assert_eq!(body.as_object().unwrap().len(), 1);
    (status, body["error"].clone())
}

/// A client that says exactly what it is told to.
pub(crate) struct Raw {
    socket: BufReader<TcpStream>,
}

impl Raw {
    pub(crate) async fn connect(server: &Server) -> Self {
        let socket = TcpStream::connect(server.url.trim_start_matches("http://")).await.unwrap();
        Self { socket: BufReader::new(socket) }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.socket.write_all(bytes.as_ref()).await
    }

    /// Whether something comes within `time`.
    pub(crate) async fn hears(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.socket.fill_buf()).await.is_ok()
    }

    /// The status of the next answer, and the length of its body.
    pub(crate) async fn head(&mut self) -> (u16, usize) {
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            self.socket.read_line(&mut line).await.unwrap();
            let line = line.trim_end().to_lowercase();
            match (line.strip_prefix("http/1.1 "), line.strip_prefix("content-length: ")) {
                (Some(rest), _) => status = rest[..3].parse().unwrap(),
                (_, Some(rest)) => length = rest.parse().unwrap(),
                _ if line.is_empty() => return (status, length),
                _ => {}
            }
        }
    }

    /// The next answer, whose body is JSON of known length.
    pub(crate) async fn answer(&mut self) -> (u16, Value) {
        let (status, length) = self.head().await;
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Whatever comes until the server ends the connection.
    pub(crate) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let read = self.socket.read_to_end(&mut rest);
        // An error is an end as well.
        _ = tokio::time::timeout(Duration::from_secs(20), read).await.expect("the connection is closed");
        String::from_utf8_lossy(&rest).into_owned()
    }
}
