//! `steerling health`: a probe for containers, which have no `curl`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use steerling_server::config::Host;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Ask a server on this machine whether it takes generations; ends with 1 if not.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Address or name that the server listens on
    #[arg(long, env = "STEERLING_HOST", default_value = "127.0.0.1")]
    host: Host,
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
    let host = match &args.host {
        Host::Address(IpAddr::V4(address)) if address.is_unspecified() => Host::Address(Ipv4Addr::LOCALHOST.into()),
        Host::Address(IpAddr::V6(address)) if address.is_unspecified() => Host::Address(Ipv6Addr::LOCALHOST.into()),
        host => host.clone(),
    };
    let path = if args.live { "live" } else { "ready" };
    let url = format!("http://{}:{}/health/{path}", host.in_url(), args.port);
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
