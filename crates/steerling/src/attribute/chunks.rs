//! Where a generated text is cut into chunks.

use std::ops::Range;

/// The ids that end chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEnds<'a> {
    /// `<|endofchunk|>`: ends a chunk, the next one follows.
    pub endofchunk: u32,
    /// `<|eot_id|>` and stop tokens: the first of them ends the last chunk, nothing after it counts.
    pub stop: &'a [u32],
}

/// Cuts `ids[start..]` into chunks: half-open ranges of absolute positions, in order. No chunk holds the id that ends it.
///
/// Adjacent `<|endofchunk|>` make empty chunks. What follows the last `<|endofchunk|>` is a chunk if it is not empty and
/// either a stop token ends it or `unfinished` is set, as it is for the generated part of a sequence.
pub fn chunk_boundaries(ids: &[u32], start: usize, ends: ChunkEnds<'_>, unfinished: bool) -> Vec<Range<usize>> {
    let scanned = ids.get(start..).unwrap_or_default();
    let stop = scanned.iter().position(|id| ends.stop.contains(id));
    let end = start + stop.unwrap_or(scanned.len());
    let mut chunks = Vec::new();
    let mut from = start;
    for position in (start..end).filter(|position| ids[*position] == ends.endofchunk) {
        chunks.push(from..position);
        from = position + 1;
    }
    if from < end && (stop.is_some() || unfinished) {
        chunks.push(from..end);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Helpers {
        find_chunk_boundaries: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        tokens: Vec<u32>,
        eoc: u32,
        start: usize,
        stop: Option<Vec<u32>>,
        #[serde(rename = "final")]
        unfinished: bool,
        out: Vec<(usize, usize)>,
    }

    #[test]
    fn chunks_are_cut_as_recorded() {
        let helpers: Helpers = serde_json::from_str(include_str!("../../tests/goldens/helpers.json")).unwrap();
        assert_eq!(helpers.find_chunk_boundaries.len(), 180);
        for case in helpers.find_chunk_boundaries {
            let stop = case.stop.unwrap_or_default();
            let ends = ChunkEnds { endofchunk: case.eoc, stop: &stop };
            let found = chunk_boundaries(&case.tokens, case.start, ends, case.unfinished);
            let found: Vec<_> = found.into_iter().map(|chunk| (chunk.start, chunk.end)).collect();
            assert_eq!(found, case.out, "{:?} from {} with {ends:?}, {}", case.tokens, case.start, case.unfinished);
        }
    }

    #[test]
    fn an_id_that_ends_chunks_and_the_text_ends_the_text() {
        let ends = ChunkEnds { endofchunk: 9, stop: &[9] };
        assert_eq!(chunk_boundaries(&[1, 9, 2], 0, ends, true).as_slice(), std::slice::from_ref(&(0..1)));
    }
}
