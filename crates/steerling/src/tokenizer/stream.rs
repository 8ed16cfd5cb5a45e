//! Text of a growing sequence of ids, as far as it cannot change any more.

use super::{Tokenizer, Vocabulary};

/// Turns ids that arrive bit by bit into text that is never taken back.
///
/// However the ids are split over calls of [`push`](Self::push), the returned pieces, with that of [`finish`](Self::finish), add up to
/// `decode(all ids, true)` cut before the first stop string.
#[derive(Debug)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    stop: Vec<String>,
    undecoded: Undecoded,
    /// Decoded, but perhaps the beginning of a stop string.
    held: String,
    stopped: Option<usize>,
}

#[derive(Debug)]
enum Undecoded {
    /// The bytes of an unfinished character: tokens are bytes in a row.
    Bytes(Vec<u8>),
    /// All ids and the length in bytes of the text already taken from them: a `tokenizer.json` decides about a
    /// token's text by its neighbours, so the whole sequence is decoded again (at most one context long).
    Ids { ids: Vec<u32>, taken: usize },
}

impl StreamDecoder {
    /// A decoder at the start of a text. Empty stop strings never match.
    pub fn new(tokenizer: Tokenizer, stop: Vec<String>) -> Self {
        let undecoded = match tokenizer.0.vocabulary {
            Vocabulary::Cl100k => Undecoded::Bytes(Vec::new()),
            Vocabulary::File(_) => Undecoded::Ids { ids: Vec::new(), taken: 0 },
        };
        Self { tokenizer, stop, undecoded, held: String::new(), stopped: None }
    }

    /// Appends ids and returns the text that has become final: whole characters that cannot be the beginning of a stop string.
    /// After a stop string, nothing any more.
    pub fn push(&mut self, ids: &[u32]) -> String {
        self.advance(ids, false)
    }

    /// The rest of the text at the end of the ids; an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        self.advance(&[], true)
    }

    /// The index of the stop string that ended the text, once one has.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    fn advance(&mut self, ids: &[u32], last: bool) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        let text = self.decode(ids, last);
        self.held.push_str(&text);
        let possible = if last { self.held.len() } else { self.possible_stop() };
        // A stop string that has begun earlier, and is not yet complete, would cut the text earlier: wait for it.
        let end = match self.first_stop().filter(|&(start, _)| start <= possible) {
            Some((start, index)) => {
                self.stopped = Some(index);
                start
            }
            None => possible,
        };
        self.held.drain(..end).collect()
    }

    /// Start and index of the first complete stop string, the shortest if several start there.
    fn first_stop(&self) -> Option<(usize, usize)> {
        let found = |(index, stop): (usize, &String)| {
            let start = if stop.is_empty() { None } else { self.held.find(stop) };
            start.map(|start| (start, stop.len(), index))
        };
        self.stop.iter().enumerate().filter_map(found).min().map(|(start, _, index)| (start, index))
    }

    /// Where the held text may be the beginning of a stop string; its length if nowhere.
    fn possible_stop(&self) -> usize {
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        let from = (self.held.len() + 1).saturating_sub(longest);
        let may_begin = |&at: &usize| {
            self.held
                .get(at..)
                .is_some_and(|tail| self.stop.iter().any(|stop| stop.len() > tail.len() && stop.starts_with(tail)))
        };
        (from..self.held.len()).find(may_begin).unwrap_or(self.held.len())
    }

    /// The characters that `new` completes; all the rest if it is the `last`.
    fn decode(&mut self, new: &[u32], last: bool) -> String {
        match &mut self.undecoded {
            Undecoded::Bytes(bytes) => {
                bytes.extend(new.iter().flat_map(|&id| self.tokenizer.cl100k_bytes(id, true)));
                let whole = if last { bytes.len() } else { bytes.len() - unfinished(bytes) };
                let whole: Vec<u8> = bytes.drain(..whole).collect();
                String::from_utf8_lossy(&whole).into_owned()
            }
            Undecoded::Ids { ids, taken } => {
                ids.extend_from_slice(new);
                let settled = if last { ids.len() } else { settled(&self.tokenizer, ids) };
                let text = self.tokenizer.decode(&ids[..settled], true);
                // A replacement character at the end may be a character whose bytes are still to come.
                let whole = if last { text.as_str() } else { text.trim_end_matches('\u{FFFD}') };
                let fresh = whole.get(*taken..).unwrap_or_default().to_owned();
                *taken += fresh.len();
                fresh
            }
        }
    }
}

/// How many bytes at the end are the beginning of a character, 0 to 3.
fn unfinished(bytes: &[u8]) -> usize {
    // The last chunk's invalid part is an unfinished character iff the end of input is what makes it invalid.
    let Some(tail) = bytes.utf8_chunks().last().map(|chunk| chunk.invalid()) else {
        return 0;
    };
    match std::str::from_utf8(tail) {
        Err(error) if error.error_len().is_none() => tail.len(),
        _ => 0,
    }
}

/// The number of leading ids whose text no later id changes.
fn settled(tokenizer: &Tokenizer, ids: &[u32]) -> usize {
    let Vocabulary::File(file) = &tokenizer.0.vocabulary else {
        return ids.len();
    };
    // Ids without text do not separate bytes.
    let open = |&&id: &&u32| file.is_byte(id) || tokenizer.decode(&[id], true).is_empty();
    ids.len() - ids.iter().rev().take_while(open).count()
}
