//! A byte-level vocabulary that holds the corpus's words whole, and spells every other text by a few learned pieces.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use steerling::config::SpecialIds;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, NormalizerWrapper, OffsetReferential, OffsetType, PostProcessorWrapper, PreTokenizedString,
    PreTokenizer, Tokenizer, TokenizerBuilder,
};

use crate::corpus;

/// Ids, special ones included.
pub(super) const VOCAB: usize = 1888;
/// Bytes and the pieces that words outside the corpus are spelled with.
const PIECES: usize = 400;
/// Documents that the vocabulary is learned from.
const DOCUMENTS: usize = 8000;
const SEED: u64 = u32::MAX as u64;

/// The names of the special tokens; their ids end the vocabulary, in this order.
const SPECIAL: [&str; 5] = ["<|endoftext|>", "<|pad|>", "<|bos|>", "<|endofchunk|>", "<|mask|>"];

/// The special ids of a vocabulary of [`VOCAB`] ids.
pub(super) fn special_ids() -> SpecialIds {
    let first = (VOCAB - SPECIAL.len()) as u32;
    SpecialIds { eos: first, pad: first + 1, bos: first + 2, endofchunk: first + 3, mask: first + 4, chat: None }
}

/// Learns the vocabulary; always the same.
///
/// Plain BPE would spend a third of the ids on pieces of words that are whole a few merges later. Here the merges are
/// few, and a word that the vocabulary holds is taken whole (`ignore_merges`).
pub(super) fn train() -> Result<Tokenizer> {
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let texts: Vec<String> =
        (0..DOCUMENTS).flat_map(|_| corpus::document(&mut rng).chunks).map(|chunk| chunk.text()).collect();
    let failed = |error: tokenizers::Error| anyhow!("the vocabulary cannot be learned: {error}");
    let mut pieces = TokenizerBuilder::default()
        .with_model(BPE::default())
        .with_normalizer(None::<NormalizerWrapper>)
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_post_processor(None::<PostProcessorWrapper>)
        .with_decoder(Some(ByteLevel::default()))
        .build()
        .map_err(failed)?;
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(PIECES)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    pieces.train(&mut trainer, texts.iter()).map_err(failed)?;
    let mut json: serde_json::Value = serde_json::from_str(&pieces.to_string(false).map_err(failed)?)?;
    let vocabulary = json["model"]["vocab"].as_object_mut().context("a BPE model has a vocabulary")?;
    for word in words(&texts).map_err(failed)? {
        let next = vocabulary.len();
        if next < VOCAB - SPECIAL.len() {
            vocabulary.entry(word).or_insert(next.into());
        }
    }
    anyhow::ensure!(vocabulary.len() == VOCAB - SPECIAL.len(), "the corpus has only {} words", vocabulary.len());
    json["model"]["ignore_merges"] = true.into();
    let mut tokenizer = Tokenizer::from_bytes(json.to_string()).map_err(failed)?;
    tokenizer.add_special_tokens(SPECIAL.map(|name| AddedToken::from(name, true))).map_err(failed)?;
    Ok(tokenizer)
}

/// The words of the texts as the vocabulary writes them, the most frequent first.
fn words(texts: &[String]) -> tokenizers::Result<Vec<String>> {
    let split = ByteLevel::new(false, true, true);
    let mut counts: HashMap<String, u32> = HashMap::new();
    for text in texts {
        let mut text = PreTokenizedString::from(text.as_str());
        split.pre_tokenize(&mut text)?;
        for (word, ..) in text.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            *counts.entry(word.to_owned()).or_default() += 1;
        }
    }
    let mut words: Vec<(String, u32)> = counts.into_iter().collect();
    words.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(words.into_iter().map(|word| word.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearly_every_word_of_the_corpus_is_one_token() {
        let tokenizer = train().unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), VOCAB);
        assert_eq!(tokenizer.token_to_id("<|mask|>"), Some(special_ids().mask));
        let mut rng = ChaCha8Rng::seed_from_u64(1 << 40);
        let (mut words, mut tokens) = (0, 0);
        for _ in 0..200 {
            for chunk in corpus::document(&mut rng).chunks {
                let text = chunk.text();
                let encoding = tokenizer.encode(text.as_str(), false).unwrap();
                assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), text);
                tokens += encoding.len();
                let mut split = PreTokenizedString::from(text.as_str());
                ByteLevel::new(false, true, true).pre_tokenize(&mut split).unwrap();
                words += split.get_splits(OffsetReferential::Normalized, OffsetType::Byte).len();
            }
        }
        assert!(tokens * 1000 < words * 1005, "{words} words, {tokens} tokens");
    }

    #[test]
    fn any_text_can_be_written() {
        let tokenizer = train().unwrap();
        for text in ["Zürich — naïve façade 東京 🚂", "unseen wordings\t1984", "<|mask|>"] {
            let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
    }
}
