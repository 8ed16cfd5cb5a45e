//! Checkpoints of the demo's shape: one that has learned nothing, and one that knows words and nothing else.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use steerling::Config;
use steerling::checkpoint::Synthetic;
use steerling::config::{Preset, SpecialIds};
use steerling_demo::concepts::{CONCEPTS, FACTORS};
use steerling_demo::corpus::{document, owner};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

const SPECIAL: [&str; 5] = ["<|endoftext|>", "<|pad|>", "<|bos|>", "<|endofchunk|>", "<|mask|>"];

/// Writes random weights of a model with so many known concepts, and a tokenizer of the corpus.
pub(crate) fn random_checkpoint(dir: &Path, n_concepts: usize) {
    let tokenizer = tokenizer();
    let id = |name: &str| tokenizer.token_to_id(name).unwrap();
    let [eos, pad, bos, endofchunk, mask] = SPECIAL.map(id);
    let released = Config::preset(Preset::Tiny);
    let concept = released.concept.clone().map(|mut concept| {
        concept.n_concepts = n_concepts;
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
    Synthetic::new(config, 1, DType::F32).unwrap().write_to(dir, u64::MAX, &mut |_, _| ()).unwrap();
    tokenizer.save(dir.join("tokenizer.json"), false).unwrap();
}

/// Writes a model without context, in which each concept and each factor has a dimension of its own, which its words
/// point along and its head reads.
pub(crate) fn word_checkpoint(dir: &Path) {
    random_checkpoint(dir, CONCEPTS.len());
    let path = dir.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    // What layers add is nothing, and no dimension counts more than another.
    for (name, tensor) in &mut tensors {
        if name.contains(".ln_1.") || name.contains(".ln_2.") {
            *tensor = tensor.zeros_like().unwrap();
        }
        if name.contains(".ln_f.") {
            *tensor = tensor.ones_like().unwrap();
        }
    }
    let tokenizer = Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    let mut set = |name: &str, fill: &mut dyn FnMut(usize, &mut [f32])| {
        let (rows, columns) = tensors[name].dims2().unwrap();
        let mut values = vec![0.0; rows * columns];
        values.chunks_mut(columns).enumerate().for_each(|(row, values)| fill(row, values));
        tensors.insert(name.to_owned(), Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap());
    };
    set("transformer.tok_emb.weight", &mut |token, values| {
        let text = tokenizer.decode(&[token as u32], false).unwrap();
        let word = text.trim().to_lowercase();
        let factor = FACTORS.iter().position(|factor| factor.words.contains(&word.as_str()));
        if let Some(dimension) = owner(&word).or(factor.map(|index| CONCEPTS.len() + index)) {
            values[dimension] = 4.0;
        }
        // All tokens have this in common: from it the heads know that a word is none of theirs.
        values[127] = 1.0;
    });
    let mut reads = |name: &str, first: usize, n: usize| {
        set(name, &mut |row, values| {
            if row < n {
                (values[first + row], values[127]) = (4.0, -1.0);
            }
        });
    };
    reads("known_head.concept_embedding.weight", 0, CONCEPTS.len());
    reads("known_head.concept_predictor.weight", 0, CONCEPTS.len());
    reads("unknown_head.predictor_down.weight", CONCEPTS.len(), FACTORS.len());
    set("unknown_head.predictor_up.weight", &mut |row, values| values[row % values.len()] = 1.0);
    candle_core::safetensors::save(&tensors, path).unwrap();
}

/// A byte-level vocabulary in which the corpus's words are whole, special tokens last.
fn tokenizer() -> Tokenizer {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let texts = (0..2000).flat_map(|_| document(&mut rng).chunks).map(|chunk| chunk.text());
    let mut trainer = BpeTrainer::builder().show_progress(false).vocab_size(4000);
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
