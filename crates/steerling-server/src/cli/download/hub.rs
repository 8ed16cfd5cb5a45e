//! Requests to a model hub: redirects, retries, and where the token may go.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ureq::http::{HeaderMap, HeaderValue, Response, header};
use ureq::{Agent, Body};
use url::Url;

use super::failure::Failure;
use crate::cli::note;

/// The hub that is asked unless HF_ENDPOINT names another one.
const ENDPOINT: &str = "https://huggingface.co";
/// Attempts for what may pass: busy hubs and broken connections.
const ATTEMPTS: u32 = 6;
/// Redirects of one request that are followed.
const REDIRECTS: usize = 10;
/// The longest wait that a hub may ask for, and the longest time that a command spends waiting in all.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
const MOST_WAITING: Duration = Duration::from_secs(600);
/// The first wait where the hub asks for none; it doubles with every attempt.
const FIRST_WAIT: Duration = Duration::from_millis(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest pause between two bytes.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A hub and what it may be told.
pub(super) struct Hub {
    agent: Agent,
    endpoint: Url,
    /// Sent to the origin of the endpoint alone.
    authorization: Option<HeaderValue>,
    /// Whether it has answered anything yet.
    answered: Cell<bool>,
    /// Time spent waiting for it.
    waited: Cell<Duration>,
}

/// An answer at the end of its redirects.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    /// Headers of the redirects and of the answer, in order.
    chain: Vec<HeaderMap>,
}

impl Hub {
    /// The hub of HF_ENDPOINT, with the token of HF_TOKEN.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub(super) fn from_env() -> Result<Self> {
        let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = read("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = Url::parse(&endpoint).with_context(|| format!("HF_ENDPOINT: `{endpoint}` is no URL"))?;
        let web = ["http", "https"].contains(&endpoint.scheme());
        ensure!(web, "HF_ENDPOINT: `{endpoint}` begins with neither https:// nor http://");
        let authorization = read("HF_TOKEN").map(|token| HeaderValue::try_from(format!("Bearer {}", token.trim())));
        let authorization = authorization.transpose().context("HF_TOKEN has characters that no header can carry")?;
        let config = Agent::config_builder()
            .user_agent(concat!("steerling/", env!("CARGO_PKG_VERSION")))
            // Redirects are followed here, where it is known to whom the token may go.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT));
        Ok(Self {
            agent: config.build().into(),
            endpoint,
            authorization,
            answered: Cell::new(false),
            waited: Cell::new(Duration::ZERO),
        })
    }

    /// Whether there is a token.
    pub(super) fn has_token(&self) -> bool {
        self.authorization.is_some()
    }

    /// A path of the hub, from its segments, each of which may hold any character.
    pub(super) fn url<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// One request, with its redirects. The token goes along while they stay at the origin (scheme, host and port) that
    /// was asked, and no further.
    ///
    /// # Errors
    /// Whatever is no answer of 2xx or 416.
    pub(super) fn get(&self, url: &Url, range: Option<&str>) -> Result<Answer, Failure> {
        let (mut url, mut authorization) = (url.clone(), self.authorization.as_ref());
        let mut chain = Vec::new();
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.get(url.as_str());
            if let Some(authorization) = authorization {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            if let Some(range) = range {
                request = request.header(header::RANGE, range);
            }
            let response = request.call().map_err(|error| Failure::unanswered(&url, &error, self.answered.get()))?;
            self.answered.set(true);
            chain.push(response.headers().clone());
            let location = response.headers().get(header::LOCATION);
            let Some(location) = location.filter(|_| response.status().is_redirection()) else {
                return Failure::of(response, &url).map(|response| Answer { response, chain });
            };
            let next = location.to_str().ok().and_then(|location| url.join(location).ok());
            let next = next.filter(|next| ["http", "https"].contains(&next.scheme()));
            let next = next.ok_or_else(|| Failure::lasting(format!("{url} redirects to what is no address")))?;
            authorization = authorization.filter(|_| next.origin() == url.origin());
            url = next;
        }
        Err(Failure::lasting(format!("{url}: more than {REDIRECTS} redirects")))
    }

    /// Makes `attempt` until it succeeds, as long as what goes wrong may pass: a few times, and never for longer than a
    /// user would wait.
    ///
    /// # Errors
    /// The last failure.
    pub(super) fn persist<T>(&self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
        for n in 1.. {
            let (told, asked) = match attempt() {
                Err(Failure::Passing { told, wait }) => (told, wait),
                done => return done,
            };
            let wait = asked.unwrap_or_default().max(FIRST_WAIT * 2_u32.pow(n - 1));
            if n == ATTEMPTS || wait > LONGEST_WAIT || self.waited.get() + wait > MOST_WAITING {
                let asked = asked.filter(|asked| *asked > Duration::ZERO);
                let asked = asked.map(|asked| format!(", asking to wait for {} s", asked.as_secs_f64().ceil()));
                return Err(Failure::Passing {
                    told: format!("{told}{} (attempt {n} of {ATTEMPTS})", asked.unwrap_or_default()),
                    wait: None,
                });
            }
            note(format_args!("{told}; trying again in {:.1} s ({n} of {ATTEMPTS} attempts)", wait.as_secs_f64()));
            std::thread::sleep(wait);
            self.waited.set(self.waited.get() + wait);
        }
        unreachable!("the last attempt returns")
    }
}

impl Answer {
    /// The checksum that the hub gives: that of a large file stands in a header of the redirect to where it lies.
    pub(super) fn checksum(&self) -> Option<String> {
        let find = |name: &str| {
            let values = self.chain.iter().filter_map(|headers| headers.get(name)?.to_str().ok());
            values.map(unquoted).find(|tag| super::verify::is_checksum(tag)).map(str::to_owned)
        };
        find("x-linked-etag").or_else(|| find("etag"))
    }

    /// First byte of the body and size of the whole file, as far as the headers tell.
    pub(super) fn extent(&self) -> (u64, Option<u64>) {
        let header = |name| self.response.headers().get(name).and_then(|value| value.to_str().ok());
        let length = || header(header::CONTENT_LENGTH).and_then(|length| length.trim().parse().ok());
        match header(header::CONTENT_RANGE).and_then(|range| range.trim().strip_prefix("bytes ")) {
            Some(range) => {
                let (part, whole) = range.split_once('/').unwrap_or((range, ""));
                let start = part.split('-').next().and_then(|start| start.parse().ok());
                (start.unwrap_or(0), whole.parse().ok())
            }
            None => (0, length()),
        }
    }
}

/// A tag without its quotes, weak (`W/"…"`) or not.
fn unquoted(etag: &str) -> &str {
    let etag = etag.trim();
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}
