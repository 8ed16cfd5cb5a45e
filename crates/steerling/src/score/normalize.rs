//! The text of a context and a continuation, as the reference package encodes it for evaluation.

use crate::{Result, Tokenizer};

/// Curly quotes, long dashes and the ellipsis character in ASCII; all else as it is.
pub fn ascii_punctuation(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2018}' | '\u{2019}' => out.push('\''),
            '\u{201c}' | '\u{201d}' => out.push('"'),
            '\u{2013}' | '\u{2014}' => out.push('-'),
            '\u{2026}' => out.push_str("..."),
            other => out.push(other),
        }
    }
    out
}

/// The ids of a context and of its continuation.
///
/// White space that ends the context moves to the continuation, both are put through [`ascii_punctuation`], and the
/// continuation is what the encoding of both together has beyond as many tokens as the context alone. So the
/// continuation is empty where it merges into the context's last token (`unbeliev` + `able`): the likelihood is then 0,
/// and the two parts together are not the encoding of the text.
///
/// # Errors
/// [`crate::Error::Tokenizer`] when the vocabulary cannot express a text.
pub fn encode_pair(tokenizer: &Tokenizer, context: &str, continuation: &str) -> Result<(Vec<u32>, Vec<u32>)> {
    let kept = context.trim_end_matches(is_space);
    let whole = tokenizer.encode(&ascii_punctuation(&[context, continuation].concat()))?;
    let context_ids = tokenizer.encode(&ascii_punctuation(kept))?;
    let continuation_ids = whole.get(context_ids.len()..).unwrap_or_default().to_vec();
    Ok((context_ids, continuation_ids))
}

/// White space as Python strips it: Unicode's, and the four separators U+001C to U+001F.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::config::SpecialIds;

    #[derive(Deserialize)]
    struct Recorded {
        encode_pair: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        context: String,
        continuation: String,
        context_ids: Vec<u32>,
        continuation_ids: Vec<u32>,
    }

    #[test]
    fn pairs_are_encoded_as_recorded() {
        let recorded = include_str!("../../tests/goldens/nano/mc_loglikelihood.json");
        let recorded: Recorded = serde_json::from_str(recorded).unwrap();
        assert_eq!(recorded.encode_pair.len(), 8);
        let tokenizer = Tokenizer::cl100k(SpecialIds::RELEASED).unwrap();
        for case in recorded.encode_pair {
            let found = encode_pair(&tokenizer, &case.context, &case.continuation).unwrap();
            assert_eq!(
                found,
                (case.context_ids, case.continuation_ids),
                "{:?} + {:?}",
                case.context,
                case.continuation
            );
        }
    }

    #[test]
    fn every_replaced_character_becomes_ascii_and_others_stay() {
        assert_eq!(ascii_punctuation("‘a’ “b” – — … ‚é„ ―"), "'a' \"b\" - - ... ‚é„ ―");
    }
}
