//! `steerling serve`

use std::io;

use anyhow::Context;
use steerling_server::Listeners;
use steerling_server::config::{self, Host, ServeOptions};
use steerling_server::engine::Loaded;
use steerling_server::telemetry;

use super::Configured;

/// Serves until a signal.
pub(crate) fn run(configured: &Configured) -> anyhow::Result<()> {
    let options = &configured.options;
    let _telemetry =
        telemetry::init(options.log_format).map_err(anyhow::Error::from_boxed).context("starting the log")?;
    log(configured);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(options))
}

/// What was configured, without what is secret.
fn log(Configured { options, settings, file }: &Configured) {
    for warning in config::unknown_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())) {
        tracing::warn!("{warning}");
    }
    let changed = settings.iter().filter(|setting| setting.source != "default");
    let changed: Vec<String> = changed.map(ToString::to_string).collect();
    let guard = &options.service.guard;
    let keys: Vec<&str> = guard.keys.iter().map(|key| key.name()).collect();
    let policies: Vec<&str> = guard.policies.names().collect();
    let file = file.path.as_deref().map(|path| path.display().to_string());
    tracing::info!(file, settings = changed.join(", "), api_keys = ?keys, ?policies, "configured; all else is as by default");
    if guard.keys.is_empty() && !options.host.is_loopback() {
        let hosts: Vec<String> = guard.allowed_hosts.iter().map(ToString::to_string).collect();
        tracing::warn!(
            host = %options.host, allowed_hosts = ?hosts,
            "everybody who reaches this address may do everything, by the name localhost, the address itself or an allowed \
             host: set API keys (`steerling key`)"
        );
    }
}

async fn serve(options: &ServeOptions) -> anyhow::Result<()> {
    let listeners = listeners(options).await?;
    tracing::info!(model = %options.model.dir(), "loading the model");
    if let Some(notice) = options.model.notice() {
        tracing::warn!("{notice}");
    }
    let source = options.model.source();
    let runtime = options.model.runtime();
    let name = options.served_model_name.clone();
    let build = move || {
        let mut loaded = Loaded::from(super::load(&source, &runtime)?);
        loaded.info.name = name.clone().unwrap_or(loaded.info.name);
        Ok(loaded)
    };
    #[cfg(feature = "fault-injection")]
    let build = failing(build, options.faults);
    let shutdown = shutdown_signal()?;
    Ok(steerling_server::run(listeners, options.service.clone(), build, shutdown).await?)
}

/// Listens where it was told to, before the model is loaded.
async fn listeners(options: &ServeOptions) -> anyhow::Result<Listeners> {
    let listen = async |flags: &str, host: &Host, port: u16| {
        host.listen(port).await.with_context(|| format!("listening on {host}, port {port} ({flags})"))
    };
    let main = listen("--host, --port", &options.host, options.port).await?;
    for listener in &main {
        tracing::info!(address = %listener.local_addr()?, "listening");
    }
    let admin = match options.admin_port {
        Some(port) => {
            listen("--admin-host, --admin-port", options.admin_host.as_ref().unwrap_or(&options.host), port).await?
        }
        None => Vec::new(),
    };
    for listener in &admin {
        tracing::info!(admin_address = %listener.local_addr()?, "listening for operators");
    }
    Ok(Listeners { main, admin })
}

/// Makes steps fail.
#[cfg(feature = "fault-injection")]
fn failing<D: steerling::Denoiser>(
    build: impl Fn() -> steerling::Result<Loaded<D>>,
    options: steerling_server::faults::FaultOptions,
) -> impl Fn() -> steerling::Result<Loaded<steerling_server::faults::Faulty<D>>> {
    let steps = steerling_server::faults::StepCount::default();
    move || {
        let Loaded { denoiser, info, tokenizer, catalog } = build()?;
        let denoiser = steerling_server::faults::Faulty { inner: denoiser, options, steps: steps.clone() };
        Ok(Loaded { denoiser, info, tokenizer, catalog })
    }
}

/// Ends with the first SIGTERM or SIGINT; a second one ends the process at once.
fn shutdown_signal() -> io::Result<impl Future<Output = ()>> {
    let mut signals = Signals::new()?;
    Ok(async move {
        signals.next().await;
        tokio::spawn(async move {
            signals.next().await;
            tracing::warn!("second signal: leaving at once");
            std::process::exit(1);
        });
    })
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
