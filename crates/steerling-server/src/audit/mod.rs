//! The audit log: a line of JSON for every generation that was admitted or refused by a policy. It may be rotated by
//! renaming or deleting it, and a disk that is full costs lines, never answers.

mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use metrics::Counter;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::generate::request::Prepared;
use crate::auth::caller;
use crate::error::ApiError;
use writer::Writer;

/// Lines that wait for a slow disk; further ones are dropped.
const WAITING: usize = 4096;
/// Bytes of these lines. With prompts, each may be as long as the body of a request.
const WAITING_BYTES: usize = 64 << 20;

/// A line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    time: String,
    request_id: String,
    /// The name of the API key; null where none are set.
    key: Option<String>,
    path: String,
    model: &'a str,
    /// `admitted` or `refused`.
    outcome: &'static str,
    policies: &'a [String],
    /// Global ids of all concepts that were steered, by the request or a policy.
    concepts: Vec<u32>,
    /// Names the generations, as in their answers.
    ids: Vec<&'a str>,
    /// Of each generation.
    prompt_tokens: Vec<usize>,
    /// Which policy refused it, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompts: Option<Vec<String>>,
}

/// What became of lines.
#[derive(Clone)]
pub(crate) struct Counts {
    pub(crate) written: Counter,
    pub(crate) dropped: Counter,
}

/// What the writer is told.
enum Told {
    Line {
        bytes: Vec<u8>,
        /// Counts the bytes until they are written.
        _room: OwnedSemaphorePermit,
    },
    /// All lines before it have been written or dropped.
    Flush(SyncSender<()>),
}

/// The way to the writer's thread.
#[derive(Clone)]
pub(crate) struct Audit {
    sender: SyncSender<Told>,
    /// Bytes that may still wait.
    room: Arc<Semaphore>,
    dropped: Counter,
    with_prompts: bool,
}

impl Audit {
    /// Opens the file and starts the thread that writes it.
    ///
    /// # Errors
    /// If it cannot be opened: a server that is to keep a log does not start without.
    pub(crate) fn start(path: PathBuf, with_prompts: bool, counts: Counts) -> std::io::Result<Self> {
        let dropped = counts.dropped.clone();
        let mut writer = Writer::open(path, counts)?;
        let (audit, receiver) = Self::queue(WAITING_BYTES, with_prompts, dropped);
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || {
            for told in receiver {
                match told {
                    Told::Line { bytes, _room } => writer.write(&bytes),
                    // Whoever asked may have gone.
                    Told::Flush(done) => _ = done.send(()),
                }
            }
        })?;
        Ok(audit)
    }

    /// A queue for `bytes`, and its other end.
    fn queue(bytes: usize, with_prompts: bool, dropped: Counter) -> (Self, Receiver<Told>) {
        let (sender, receiver) = sync_channel(WAITING);
        (Self { sender, room: Arc::new(Semaphore::new(bytes)), dropped, with_prompts }, receiver)
    }

    /// The line of a request whose generations are admitted, or refused by a policy.
    pub(crate) fn line(&self, wanted: &[(Option<String>, Prepared)], refused: Option<&ApiError>) -> Vec<u8> {
        let caller = caller();
        let all = || wanted.iter().map(|(_, prepared)| prepared);
        let mut concepts: Vec<u32> =
            all().filter_map(|prepared| prepared.recipe.as_ref()).flat_map(|recipe| recipe.edited()).collect();
        concepts.sort_unstable();
        concepts.dedup();
        let head = all().next().map(|prepared| &prepared.head);
        let text = |prepared: &Prepared| prepared.head.model.tokenizer.decode(prepared.prompt(), false);
        let line = Line {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            request_id: caller.as_ref().map(|caller| caller.request_id.clone()).unwrap_or_default(),
            path: caller.as_ref().map(|caller| caller.path.clone()).unwrap_or_default(),
            key: caller.and_then(|caller| caller.key),
            model: head.map_or("", |head| head.start.model.as_str()),
            outcome: if refused.is_some() { "refused" } else { "admitted" },
            policies: head.map_or(&[], |head| head.policies.as_slice()),
            concepts,
            ids: all().map(|prepared| prepared.head.start.id.as_str()).collect(),
            prompt_tokens: all().map(|prepared| prepared.prompt().len()).collect(),
            refusal: refused.and_then(ApiError::details),
            prompts: self.with_prompts.then(|| all().map(text).collect()),
        };
        let mut line = serde_json::to_vec(&line).expect("strings and numbers are JSON");
        line.push(b'\n');
        line
    }

    /// Hands a line to the writer; without room for it, it is dropped and counted.
    pub(crate) fn record(&self, line: Vec<u8>) {
        let room =
            u32::try_from(line.len()).ok().and_then(|bytes| self.room.clone().try_acquire_many_owned(bytes).ok());
        if room.is_none_or(|room| self.sender.try_send(Told::Line { bytes: line, _room: room }).is_err()) {
            self.dropped.increment(1);
        }
    }

    /// Waits until what was recorded is written, though not for ever.
    pub(crate) fn flush(&self, most: Duration) {
        let (done, ended) = sync_channel(1);
        if self.sender.try_send(Told::Flush(done)).is_ok() {
            _ = ended.recv_timeout(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_within_a_number_of_bytes() {
        let (audit, receiver) = Audit::queue(100, true, Counter::noop());
        let waiting = || receiver.try_iter().filter(|told| matches!(told, Told::Line { .. })).count();
        for bytes in [60, 41, 40, 1] {
            audit.record(vec![b'x'; bytes]);
        }
        assert_eq!(waiting(), 2, "60 and 40 fit, 41 and 1 do not");
        audit.record(vec![b'x'; 100]);
        assert_eq!(waiting(), 1, "what was written makes room");
        audit.record(vec![b'x'; 101]);
        assert_eq!(waiting(), 0);
    }
}
