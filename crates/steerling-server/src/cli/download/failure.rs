//! What goes wrong between this machine and a hub, and what to do about it.

use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use serde_json::Value;
use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode, header};
use url::Url;

/// Bytes of a refusal that are read for its reason.
const REASON_BYTES: u64 = 64 << 10;
/// Characters of a reason that are shown.
const REASON_CHARS: usize = 200;

/// Why a request failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may succeed later: the hub is busy, or the connection broke.
    Passing {
        /// What happened.
        told: String,
        /// How long the hub asks to wait.
        wait: Option<Duration>,
    },
    /// The hub refuses.
    Refused {
        /// How.
        status: StatusCode,
        /// What happened, the status included.
        told: String,
    },
    /// Another attempt would fail as well.
    Lasting(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    /// Of this machine: a full disk, a file that cannot be read.
    fn from(error: E) -> Self {
        Self::Lasting(error.into())
    }
}

impl Failure {
    pub(super) fn passing(told: String) -> Self {
        Self::Passing { told, wait: None }
    }

    pub(super) fn lasting(told: String) -> Self {
        Self::Lasting(anyhow!(told))
    }

    /// There was no answer. A hub that cannot be reached and has not answered before may be out of this machine's reach.
    pub(super) fn unanswered(url: &Url, error: &ureq::Error, answered_before: bool) -> Self {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        let told = format!("no answer from {}: {error}", url.origin().ascii_serialization());
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Rustls(_) | ureq::Error::Tls(_) => Self::lasting(told),
            // The connection was there.
            ureq::Error::Protocol(_) => Self::passing(told),
            ureq::Error::Io(error)
                if [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof].contains(&error.kind()) =>
            {
                Self::passing(told)
            }
            _ if answered_before => Self::passing(told),
            _ => Self::lasting(format!("{told}. Is this machine online? HF_ENDPOINT names another hub")),
        }
    }

    /// The answer, if it is one that was asked for: 2xx, or 416 for a range that the file does not have.
    ///
    /// # Errors
    /// What the hub answered instead.
    pub(super) fn of(mut response: Response<Body>, url: &Url) -> Result<Response<Body>, Self> {
        let status = response.status();
        let mime = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_page = mime.is_some_and(|mime| mime.trim_start().to_ascii_lowercase().starts_with("text/html"));
        let host = url.host_str().unwrap_or_default().to_owned();
        if (status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE) && !is_page {
            return Ok(response);
        }
        let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
        let reason = reason(&mut response).map(|reason| format!(" ({reason})")).unwrap_or_default();
        if status.is_success() {
            return Err(Self::lasting(format!(
                "{host} answered with a web page{reason} instead of the file: it is no hub, or a proxy or a login stands \
                 before it. HF_ENDPOINT names another hub"
            )));
        }
        let told = format!("{host} answered {status}{reason}");
        Err(match status.as_u16() {
            408 | 425 | 429 | 500 | 502 | 503 | 504 => Self::Passing { told, wait },
            _ => Self::Refused { status, told },
        })
    }

    /// For the user, who asked for `repo` at `revision`.
    pub(super) fn explain(self, hub: &super::Hub, repo: &str, revision: &str) -> anyhow::Error {
        let (status, told) = match self {
            Self::Lasting(error) => return error,
            Self::Passing { told, .. } => {
                return anyhow!("{told}; what was fetched is kept: run the command again to go on");
            }
            Self::Refused { status, told } => (status, told),
        };
        let page = hub.url(repo.split('/'));
        let advice = match (status.as_u16(), hub.has_token()) {
            (401, false) => format!("{repo} does not exist, or needs a token with access to it: set HF_TOKEN"),
            (401, true) => format!("the token in HF_TOKEN is not valid, or has no access to {repo}"),
            (403, false) => {
                format!("{repo} is gated: accept its conditions at {page}, and set HF_TOKEN to a token of that account")
            }
            (403, true) => format!(
                "the account of HF_TOKEN has no access to {repo}: accept its conditions at {page}, and use a token that may \
                 read gated repositories"
            ),
            (404, _) => format!("the hub has no {repo} at revision {revision}"),
            _ => return anyhow!(told),
        };
        anyhow!("{told}: {advice}")
    }
}

/// The time that a hub asks to wait, in seconds or until a date.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Why, in the hub's words: a header, a field of JSON, or the title of a page.
fn reason(response: &mut Response<Body>) -> Option<String> {
    if let Some(reason) = header_reason(response.headers()) {
        return Some(reason);
    }
    let body = response.body_mut().with_config().limit(REASON_BYTES).lossy_utf8(true).read_to_string().ok()?;
    let json = serde_json::from_str::<Value>(&body).ok();
    match json.as_ref().and_then(|json| json["error"].as_str()) {
        Some(reason) => plain(reason),
        None => plain(title(&body)?),
    }
}

fn header_reason(headers: &HeaderMap) -> Option<String> {
    plain(headers.get("x-error-message")?.to_str().ok()?)
}

/// The title of a page.
fn title(page: &str) -> Option<&str> {
    // Lowering ASCII alone keeps the places of all characters.
    let lower = page.to_ascii_lowercase();
    let start = lower.find("<title")?;
    let start = start + lower[start..].find('>')? + 1;
    let end = start + lower[start..].find("</title")?;
    page.get(start..end)
}

/// One line that a terminal can be shown; none if there is nothing in it.
fn plain(text: &str) -> Option<String> {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let line: String = words.join(" ").chars().take(REASON_CHARS).collect();
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_as_seconds_and_as_dates() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        let wait = retry_after(&soon).unwrap().as_secs();
        assert!((98..=100).contains(&wait), "{wait}");
        assert!(retry_after("-1").is_none() && retry_after("soon").is_none());
    }

    #[test]
    fn reasons_are_one_line_without_control_characters() {
        assert_eq!(title("<HTML><Title lang='en'>Log in</TITLE>"), Some("Log in"));
        assert_eq!(title("<title>never ended"), None);
        assert_eq!(plain(" a\u{1b}[31m\n b\t"), Some("a [31m b".to_owned()));
        assert_eq!(plain("\n"), None);
        assert_eq!(plain(&"x".repeat(999)).unwrap().len(), REASON_CHARS);
    }
}
