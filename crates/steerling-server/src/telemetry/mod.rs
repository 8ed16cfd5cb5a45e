//! Structured logs on standard error, and spans for a collector where that is built in. Prompts and texts are in neither.

#[cfg(feature = "otel")]
mod otel;

use std::io::IsTerminal;

use axum::http::HeaderMap;
use tracing::Span;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::LogFormat;

/// Logging under way. Dropped, it sends what a collector is still to get.
#[derive(Debug)]
pub struct Telemetry {
    #[cfg(feature = "otel")]
    _spans: Option<otel::Spans>,
}

/// Starts logging at the level of `RUST_LOG`, `info` without it.
///
/// # Errors
/// When `RUST_LOG` is malformed or logging has been started before.
pub fn init(format: LogFormat) -> Result<Telemetry, Box<dyn std::error::Error + Send + Sync>> {
    let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into()).from_env()?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    #[cfg(feature = "otel")]
    {
        let (layer, spans) = otel::layer()?.unzip();
        subscriber.with(layer).try_init()?;
        Ok(Telemetry { _spans: spans })
    }
    #[cfg(not(feature = "otel"))]
    {
        subscriber.try_init()?;
        Ok(Telemetry {})
    }
}

/// The caller's place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parent<'a> {
    trace: &'a str,
    span: &'a str,
    /// The caller records its trace.
    sampled: bool,
}

/// Notes the caller's trace in the span of a request (W3C trace context).
pub(crate) fn adopt(span: &Span, headers: &HeaderMap) {
    let header = headers.get("traceparent").and_then(|value| value.to_str().ok());
    if let Some(parent) = header.and_then(parse_traceparent) {
        span.record("trace_id", parent.trace).record("parent_id", parent.span);
        #[cfg(feature = "otel")]
        otel::adopt(span, parent);
    }
}

/// Trace and parent of `version-trace-parent-flags`; none of a header that breaks the rules, as they demand.
fn parse_traceparent(header: &str) -> Option<Parent<'_>> {
    let mut parts = header.split('-');
    let hex = |part: Option<&'_ str>, len: usize| {
        part.filter(|part| part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).is_some()
    };
    let (version, trace, parent, flags) = (parts.next(), parts.next(), parts.next(), parts.next());
    let sane = hex(version, 2) && hex(trace, 32) && hex(parent, 16) && hex(flags, 2);
    // Only later versions may have more parts.
    let complete = version != Some("00") || parts.next().is_none();
    let zero = |id: &str| id.bytes().all(|b| b == b'0');
    let (trace, parent) = (trace?, parent?);
    let sampled = u8::from_str_radix(flags?, 16).is_ok_and(|flags| flags & 1 == 1);
    let valid = sane && complete && version != Some("ff") && !zero(trace) && !zero(parent);
    valid.then_some(Parent { trace, span: parent, sampled })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_taken_over_if_it_keeps_the_rules() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        const PARENT: &str = "00f067aa0ba902b7";
        let parsed = |version: &str, trace: &str, rest: &str| {
            parse_traceparent(&format!("{version}-{trace}-{PARENT}-{rest}"))
                .map(|p| (p.trace.to_owned(), p.span.to_owned()))
        };
        let expected = Some((TRACE.to_owned(), PARENT.to_owned()));
        assert_eq!(parsed("00", TRACE, "01"), expected);
        assert_eq!(parsed("01", TRACE, "01-later"), expected);
        assert_eq!(parsed("00", TRACE, "01-more"), None);
        assert_eq!(parsed("ff", TRACE, "01"), None);
        assert_eq!(parsed("00", &TRACE.to_uppercase(), "01"), None);
        assert_eq!(parsed("00", &"0".repeat(32), "01"), None);
        assert_eq!(parsed("00", &TRACE[1..], "01"), None);
        assert_eq!(parse_traceparent(""), None);
    }
}
