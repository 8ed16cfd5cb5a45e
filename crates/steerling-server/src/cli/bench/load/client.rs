//! One request, from its due time to the end of its answer.

use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::header::CONTENT_TYPE;
use serde_json::Value;

use super::hold::hold;
use super::workload::Kind;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As it should be.
    Ok,
    /// A status that the kind does not expect.
    Status(u16),
    /// A stream ended with an `error` event of this code.
    Error(String),
    /// A stream ended without its last event, or had something behind it.
    Broken,
    /// The server let a client hold a connection for too long.
    Held,
    /// No connection, or one that broke before the answer.
    Unreachable,
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) kind: usize,
    pub(super) outcome: Outcome,
    /// From the due time to the first `block`.
    pub(super) first_block: Option<Duration>,
    /// Between two `block` events.
    pub(super) between: Vec<Duration>,
    /// From the due time to the end.
    pub(super) total: Duration,
    pub(super) tokens: u64,
    pub(super) retry_after: bool,
}

/// Sends a request that was due at `due` and follows its answer.
pub(super) async fn ask(
    client: &reqwest::Client,
    url: &str,
    index: usize,
    kind: &Kind,
    n: u64,
    due: Instant,
) -> Sample {
    let mut sample = Sample {
        kind: index,
        outcome: Outcome::Unreachable,
        first_block: None,
        between: Vec::new(),
        total: Duration::ZERO,
        tokens: 0,
        retry_after: false,
    };
    if let Some(how) = kind.holds {
        sample.outcome = hold(url, kind, how).await;
        sample.total = due.elapsed();
        return sample;
    }
    let request = client.post(format!("{url}{}", kind.path)).header(CONTENT_TYPE, "application/json");
    if let Ok(response) = request.body(kind.bytes(n)).send().await {
        let status = response.status().as_u16();
        sample.retry_after = response.headers().contains_key("retry-after");
        let streamed = response.headers().get(CONTENT_TYPE).is_some_and(|value| value == "text/event-stream");
        sample.outcome = match (kind.expect.contains(&status), streamed) {
            (false, _) => Outcome::Status(status),
            (true, false) => whole(response, &mut sample).await,
            (true, true) => follow(response, kind, due, &mut sample).await,
        };
    }
    sample.total = due.elapsed();
    sample
}

async fn whole(response: reqwest::Response, sample: &mut Sample) -> Outcome {
    let Ok(bytes) = response.bytes().await else { return Outcome::Broken };
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    sample.tokens = answer["completion_tokens"].as_u64().unwrap_or(0);
    Outcome::Ok
}

async fn follow(response: reqwest::Response, kind: &Kind, due: Instant, sample: &mut Sample) -> Outcome {
    let mut stream = response.bytes_stream();
    let mut events = Events::default();
    let (mut ended, mut seen, mut last_block) = (None, 0, None);
    while let Some(Ok(bytes)) = stream.next().await {
        let now = Instant::now();
        events.push(&bytes);
        while let Some((name, data)) = events.next() {
            if ended.is_some() {
                return Outcome::Broken;
            }
            seen += 1;
            match name.as_str() {
                "block" => match last_block.replace(now) {
                    None => sample.first_block = Some(now - due),
                    Some(last) => sample.between.push(now - last),
                },
                "done" | "error" => {
                    let data: Value = serde_json::from_str(&data).unwrap_or_default();
                    sample.tokens += data["completion_tokens"].as_u64().unwrap_or(0);
                    ended = Some(match data["error"]["code"].as_str() {
                        Some(code) => Outcome::Error(code.to_owned()),
                        None => Outcome::Ok,
                    });
                }
                _ => {}
            }
        }
        if kind.leave_after.is_some_and(|events| seen >= events) {
            return Outcome::Ok;
        }
        if kind.pause_ms > 0 {
            tokio::time::sleep(Duration::from_millis(kind.pause_ms)).await;
        }
    }
    ended.unwrap_or(Outcome::Broken)
}

/// Server-sent events out of pieces of bytes.
#[derive(Debug, Default)]
struct Events {
    buffer: Vec<u8>,
}

impl Events {
    fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event: name and data. Comments are passed over.
    fn next(&mut self) -> Option<(String, String)> {
        loop {
            let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
            let record: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let record = String::from_utf8_lossy(&record);
            let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if let Some(name) = field("event:") {
                return Some((name.to_owned(), field("data:").unwrap_or_default().to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_out_of_any_pieces() {
        let text = ": ping\n\nevent: block\nid: 1\ndata: {\"a\":1}\n\nevent: done\ndata: {}\n\n";
        for size in 1..text.len() {
            let mut events = Events::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                events.push(piece);
                found.extend(std::iter::from_fn(|| events.next()));
            }
            let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["block", "done"]);
            assert_eq!(found[0].1, "{\"a\":1}");
        }
    }
}
