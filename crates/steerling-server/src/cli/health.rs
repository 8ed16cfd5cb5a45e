//! `steerling health`: a probe for containers, which have no `curl`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Ask a server on this machine whether it takes generations; ends with 1 if not.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Address that the server listens on
    #[arg(long, env = "STEERLING_HOST", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port that it listens on
    #[arg(long, env = "STEERLING_PORT", default_value_t = 8080)]
    port: u16,
    /// Ask whether it is alive, not whether it is ready
    #[arg(long)]
    live: bool,
}

/// Asks once.
pub(crate) fn run(args: &HealthArgs) -> anyhow::Result<()> {
    // Who listens on every address is asked on loopback.
    let host = match args.host {
        host if !host.is_unspecified() => host,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let path = if args.live { "live" } else { "ready" };
    let url = format!("http://{}/health/{path}", std::net::SocketAddr::new(host, args.port));
    let ask = async {
        let answer = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?.get(&url).send().await?;
        Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, body) = runtime.block_on(ask).with_context(|| url.clone())?;
    if !status.is_success() {
        bail!("{url}: {status}: {body}");
    }
    Ok(())
}
