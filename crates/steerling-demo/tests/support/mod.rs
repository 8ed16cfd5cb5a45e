//! A checkpoint of the demo's shape that has learned nothing.

use std::path::Path;

use candle_core::DType;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use steerling::Config;
use steerling::checkpoint::Synthetic;
use steerling::config::{Preset, SpecialIds};
use steerling_demo::concepts::CONCEPTS;
use steerling_demo::corpus::document;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

const SPECIAL: [&str; 5] = ["<|endoftext|>", "<|pad|>", "<|bos|>", "<|endofchunk|>", "<|mask|>"];

/// Writes random weights with a tokenizer of the corpus.
pub fn random_checkpoint(dir: &Path, seed: u64) {
    let tokenizer = tokenizer();
    let id = |name: &str| tokenizer.token_to_id(name).unwrap();
    let [eos, pad, bos, endofchunk, mask] = SPECIAL.map(id);
    let released = Config::preset(Preset::Tiny);
    let concept = released.concept.clone().map(|mut concept| {
        concept.n_concepts = CONCEPTS.len();
        concept.topk_known = Some(16);
        concept.topk_known_features = Some(16);
        concept.unknown = concept.unknown.map(|mut head| {
            (head.n_concepts, head.topk) = (128, Some(32));
            head
        });
        concept
    });
    let config = Config {
        n_layers: 4,
        n_embd: 128,
        intermediate_size: 384,
        context: 512,
        diff_block_size: 16,
        vocab_size: tokenizer.get_vocab_size(true),
        special: SpecialIds { eos, pad, bos, endofchunk, mask, chat: None },
        concept,
        ..released
    };
    Synthetic::new(config, seed, DType::F32).unwrap().write_to(dir, u64::MAX, &mut |_, _| ()).unwrap();
    tokenizer.save(dir.join("tokenizer.json"), false).unwrap();
}

/// A byte-level vocabulary in which the corpus's words are whole, special tokens last.
fn tokenizer() -> Tokenizer {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let texts = (0..2000).flat_map(|_| document(&mut rng).chunks).map(|chunk| chunk.text());
    let mut trainer = BpeTrainer::builder().show_progress(false).vocab_size(2000);
    trainer = trainer.initial_alphabet(ByteLevel::alphabet().into_iter().collect());
    let mut tokenizer = TokenizerBuilder::<BPE, tokenizers::NormalizerWrapper, ByteLevel, ByteLevel, ByteLevel>::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_post_processor(None)
        .with_decoder(Some(ByteLevel::default()))
        .build()
        .unwrap();
    tokenizer.train(&mut trainer.build(), texts).unwrap();
    tokenizer.add_special_tokens(SPECIAL.map(|name| AddedToken::from(name, true))).unwrap();
    tokenizer.into()
}
