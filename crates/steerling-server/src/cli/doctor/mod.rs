//! `steerling doctor`: what keeps `serve` from working here, before it is started.

pub(super) mod memory;

use std::fs::OpenOptions;
use std::path::Path;

use anyhow::bail;
use indicatif::BinaryBytes;
use steerling::checkpoint::MemoryNeeds;
use steerling_server::config::{GuardOptions, Host, ServeOptions, unknown_variables};

use super::inspect::problems;
use super::output::emit;
use super::{Configured, one_line};

/// Beside the model: the tokenizer, labels, connections, answers that are being made.
const PROCESS_MEMORY: u64 = 256 << 20;
/// Files that a server has open beside its connections.
const OTHER_FILES: u64 = 64;

/// What was found of one thing.
enum Finding {
    Good(String),
    /// It works; whether that is meant is for the operator to say.
    Doubt(String),
    /// What is wrong, and what to do about it.
    Bad(String),
}

use Finding::{Bad, Doubt, Good};

/// Checks everything, prints a line each, and fails if anything would keep the server from working.
pub(crate) fn run(configured: anyhow::Result<Configured>) -> anyhow::Result<()> {
    let mut found = Vec::new();
    match configured {
        Err(error) => found.push(("configuration", Bad(one_line(&error)))),
        Ok(Configured { options, file, .. }) => {
            let path = file.path.as_ref().map_or("no file".to_owned(), |path| path.display().to_string());
            found.push(("configuration", Good(path)));
            let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
            found.extend(unknown_variables(names).into_iter().map(|warning| ("environment", Doubt(warning))));
            found.extend(model(&options));
            found.push(("port", port("port", &options.host, options.port)));
            if let Some(admin) = options.admin_port {
                let host = options.admin_host.as_ref().unwrap_or(&options.host);
                found.push(("admin port", port("admin_port", host, admin)));
            }
            found.push(("access", access(&options)));
            let ports = if options.admin_port.is_some() { 2 } else { 1 };
            found.push(("open files", open_files(ports * options.service.guard.max_connections as u64 + OTHER_FILES)));
            found.extend(files(&options.service.guard));
        }
    }
    let mut text = String::new();
    let mut bad = 0;
    for (what, finding) in &found {
        let (sign, finding) = match finding {
            Good(text) => ("ok  ", text),
            Doubt(text) => ("warn", text),
            Bad(text) => {
                bad += 1;
                ("FAIL", text)
            }
        };
        text.push_str(&format!("{sign}  {what:<14} {finding}\n"));
    }
    emit(&text)?;
    match bad {
        0 => Ok(()),
        1 => bail!("1 check failed"),
        n => bail!("{n} checks failed"),
    }
}

/// The model's files, the device, and whether there is memory for both.
fn model(options: &ServeOptions) -> Vec<(&'static str, Finding)> {
    let dir = options.model.dir();
    if let Err(error) = dir.check() {
        let advice = "--model names a directory or a GGUF file, `steerling download REPO` fetches a model";
        return vec![("model", Bad(format!("{error}; {advice}")))];
    }
    let inspected = problems::inspect(&dir);
    let problems: Vec<_> = inspected
        .problems
        .iter()
        .map(|problem| ("model", Bad(format!("{problem}; `steerling inspect` says more"))))
        .collect();
    let Some(checkpoint) = inspected.checkpoint.filter(|_| problems.is_empty()) else { return problems };
    let config = checkpoint.config();
    let mut found = vec![("model", Good(format!("{dir}, {} parameters", config.param_count())))];
    if let Some(notice) = options.model.notice() {
        found.push(("model", Doubt(notice)));
    }
    let runtime = options.model.runtime();
    let compute = match runtime.compute() {
        Ok(compute) => compute,
        Err(error) => {
            let advice = "--device cpu works everywhere; a GPU needs a build with the feature `cuda`";
            found.push(("device", Bad(format!("{error}; {advice}"))));
            return found;
        }
    };
    let cpu = compute.device.is_cpu();
    let kind = if cpu { "cpu" } else { "gpu" };
    found.push(("device", Good(format!("{kind}, computing in {}", compute.dtype.as_str()))));
    let needs = MemoryNeeds::of(&checkpoint, &compute);
    let context = needs.kv_context();
    if runtime.kv_bytes < context {
        let (has, needs) = (BinaryBytes(runtime.kv_bytes), context.div_ceil(1 << 20));
        let message =
            format!("{has} do not hold one whole context: prompts are refused; set kv_cache_mib to {needs} or more");
        found.push(("keys, values", Doubt(message)));
    }
    let needed = needs.total(runtime.kv_bytes, options.service.max_rows);
    let memory = match cpu {
        true => memory::check(needed + PROCESS_MEMORY),
        false => Good(format!("{} are needed on the device, which was not asked what it has", BinaryBytes(needed))),
    };
    found.push(("memory", memory));
    found
}

fn port(key: &str, host: &Host, port: u16) -> Finding {
    if let Err(error) = host.resolve(port) {
        return Bad(format!("{host}: {error}; give an address, or a name that this machine knows"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    match runtime.and_then(|runtime| runtime.block_on(host.listen(port))) {
        Ok(_) => Good(format!("{}:{port} is free", host.in_url())),
        Err(error) => Bad(format!("{error}; end what listens there, or set {key} to another one")),
    }
}

fn access(options: &ServeOptions) -> Finding {
    let keys = options.service.guard.keys.iter().count();
    match (keys, options.host.is_loopback()) {
        (0, true) => Good("no API keys; only this machine reaches it".to_owned()),
        (0, false) => Doubt(format!(
            "no API keys: everybody who reaches {} may do everything; `steerling key` makes one",
            options.host
        )),
        (n, true) => Good(format!("{n} API keys")),
        (n, false) if options.service.guard.tls_cert.is_none() => {
            Doubt(format!("{n} API keys, but they travel in clear: set tls_cert, or let a proxy end TLS"))
        }
        (n, false) => Good(format!("{n} API keys, TLS")),
    }
}

/// Whether as many files may be open as are needed for all connections.
fn open_files(needed: u64) -> Finding {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    match line.and_then(|line| line.split_whitespace().next()).map(str::parse::<u64>) {
        Some(Ok(limit)) if limit < needed => Doubt(format!(
            "{limit}: enough for about {} clients; raise it with `ulimit -n {needed}`, or lower max_connections",
            limit.saturating_sub(OTHER_FILES)
        )),
        Some(Ok(limit)) => Good(limit.to_string()),
        // `unlimited`, or a system that does not tell.
        Some(Err(_)) | None => Good("no limit known".to_owned()),
    }
}

fn files(guard: &GuardOptions) -> Vec<(&'static str, Finding)> {
    let mut found = Vec::new();
    let mut check = |what, path: &Path, opened: std::io::Result<_>, advice: &str| {
        found.push((
            what,
            match opened {
                Ok(_) => Good(path.display().to_string()),
                Err(error) => Bad(format!("{}: {error}; {advice}", path.display())),
            },
        ));
    };
    if let Some(path) = &guard.audit_log {
        let new = !path.exists();
        let opened = OpenOptions::new().create(true).append(true).open(path);
        if new && opened.is_ok() {
            // The server's user makes it, whoever this is.
            _ = std::fs::remove_file(path);
        }
        check(
            "audit log",
            path,
            opened,
            "the directory must exist, and the user of the server must be able to write there",
        );
    }
    for path in [&guard.tls_cert, &guard.tls_key].into_iter().flatten() {
        check("tls", path, std::fs::File::open(path), "the user of the server must be able to read it");
    }
    found
}
