//! Which bytes of a text each token covers.
//!
//! The tokenizers library gives a token all characters that it touches, so that the tokens of a split character share a
//! span. Their own bytes say where each begins.

use std::collections::HashMap;

use super::file::Span;

/// How tokens spell bytes.
pub(super) struct Spelling {
    /// The bytes behind the letters of a byte-level vocabulary; `None` for other vocabularies.
    alphabet: Option<HashMap<char, u8>>,
    /// A token for what the vocabulary lacks: of a byte-level vocabulary, for one byte.
    unknown: Option<u32>,
}

impl Spelling {
    pub(super) fn new(is_byte_level: bool, unknown: Option<u32>) -> Self {
        Self { alphabet: is_byte_level.then(alphabet), unknown }
    }

    /// Gives each of the tokens that share characters its own bytes. `token` is the text of an id in the vocabulary.
    /// Tokens that do not spell their characters, because the text was normalised, keep the span that they share.
    pub(super) fn split_shared(&self, text: &str, spans: &mut [Span], token: impl Fn(u32) -> Option<String>) {
        let mut rest = spans;
        while !rest.is_empty() {
            let (group, after) = rest.split_at_mut(shared(rest));
            if group.len() > 1
                && let Some(ends) = self.ends(text.as_bytes(), group, &token)
            {
                let mut start = group.iter().map(|span| span.start).min().unwrap_or_default();
                for (span, end) in group.iter_mut().zip(ends) {
                    (span.start, span.end) = (start, end);
                    start = end;
                }
            }
            rest = after;
        }
    }

    /// Where each token of a group ends, if one after the other they spell what they cover together, perhaps behind a
    /// space that the tokenizer has put before it.
    fn ends(&self, text: &[u8], group: &[Span], token: impl Fn(u32) -> Option<String>) -> Option<Vec<usize>> {
        let first = group.iter().map(|span| span.start).min()?;
        let last = group.iter().map(|span| span.end).max()?;
        let covered = text.get(first..last)?;
        [false, true].into_iter().find_map(|mut space_added| {
            let mut at = 0;
            let mut ends = Vec::with_capacity(group.len());
            for span in group {
                at += self.len_at(span.id, &token(span.id)?, &covered[at..], std::mem::take(&mut space_added))?;
                ends.push(first + at);
            }
            (at == covered.len()).then_some(ends)
        })
    }

    /// Bytes at the start of `rest` that the token covers; with `space_added`, those behind the space that it begins with.
    fn len_at(&self, id: u32, token: &str, rest: &[u8], space_added: bool) -> Option<usize> {
        let letters: Option<Vec<u8>> =
            self.alphabet.as_ref().and_then(|bytes| token.chars().map(|letter| bytes.get(&letter).copied()).collect());
        let spelled = [letters, raw_byte(token).map(|byte| vec![byte]), Some(token.replace('▁', " ").into_bytes())];
        let spelled = spelled.into_iter().flatten().chain([token.as_bytes().to_vec()]);
        let fits = |bytes: Vec<u8>| {
            let bytes = if space_added { bytes.strip_prefix(b" ")? } else { &bytes };
            rest.starts_with(bytes).then_some(bytes.len())
        };
        let one_byte = || (self.alphabet.is_some() && self.unknown == Some(id) && !rest.is_empty()).then_some(1);
        spelled.into_iter().find_map(fits).or_else(one_byte)
    }
}

/// Number of tokens at the start of `spans` that touch the same characters, each those of one before it.
fn shared(spans: &[Span]) -> usize {
    let mut end = spans.first().map_or(0, |span| span.end);
    let joined = |span: &&Span| {
        let joined = span.start < end;
        end = end.max(span.end);
        joined
    };
    1 + spans.iter().skip(1).take_while(joined).count()
}

/// The byte of a token `<0xNN>`, which stands for that byte in vocabularies that fall back on bytes.
pub(super) fn raw_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let digits = Some(digits).filter(|digits| digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

/// The letters of byte-level vocabularies: printable bytes of Latin-1 are themselves, the others follow from 256 on.
fn alphabet() -> HashMap<char, u8> {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let (printable, others): (Vec<u8>, Vec<u8>) = (0..=255).partition(is_printable);
    let others = ('\u{100}'..).zip(others);
    printable.into_iter().map(|byte| (char::from(byte), byte)).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn the_alphabet_has_a_letter_for_every_byte() {
        let letters = alphabet();
        assert_eq!(letters.len(), 256);
        assert!(ByteLevel::alphabet().iter().all(|letter| letters.contains_key(letter)));
        assert_eq!((letters[&'Ġ'], letters[&'a'], letters[&'Ċ']), (b' ', b'a', b'\n'));
    }

    #[test]
    fn raw_bytes_are_told_from_other_tokens() {
        assert_eq!((raw_byte("<0xE2>"), raw_byte("<0x00>")), (Some(0xe2), Some(0)));
        for token in ["<0xE>", "<0xE22>", "<0xGG>", "<0x+1>", "0xE2", "<unk>"] {
            assert_eq!(raw_byte(token), None, "{token}");
        }
    }
}
