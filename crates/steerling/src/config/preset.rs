//! Sizes to synthesise and to measure with.

use std::fmt;
use std::str::FromStr;

use super::{ConceptConfig, Config, MlpKind, NormKind, NormOrder, SpecialIds, UnknownConfig};
use crate::{Error, Result};

/// A size of the model family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// The released base model: 8.4 billion parameters.
    EightB,
    /// About a billion parameters.
    OneB,
    /// About 260 million parameters, of which 103 million are the embedding.
    Small,
    /// About 14 million parameters, nearly all of them the embedding: in memory at once, when no model is given.
    Tiny,
}

impl Preset {
    /// All sizes, largest first.
    pub const ALL: [Self; 4] = [Self::EightB, Self::OneB, Self::Small, Self::Tiny];

    /// The name [`Preset::from_str`] accepts.
    pub fn name(self) -> &'static str {
        match self {
            Self::EightB => "8b",
            Self::OneB => "1b",
            Self::Small => "small",
            Self::Tiny => "tiny",
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid("preset", format!("found {name:?}, expected one of {names}"))
        })
    }
}

impl Config {
    /// The configuration of a size. All have the released vocabulary, context, attention block and switches.
    pub fn preset(preset: Preset) -> Self {
        let released = Self::released();
        let (n_layers, n_embd, n_head, n_kv_heads) = match preset {
            Preset::EightB => return released,
            Preset::OneB => (12, 2048, 16, 4),
            Preset::Small => (8, 1024, 16, 4),
            Preset::Tiny => (4, 128, 4, 2),
        };
        let (known, unknown, rank) = match preset {
            Preset::EightB | Preset::OneB => (8192, 24_576, 256),
            Preset::Small => (4096, 12_288, 256),
            Preset::Tiny => (256, 768, 32),
        };
        let concept = released.concept.map(|concept| ConceptConfig {
            n_concepts: known,
            unknown: concept.unknown.map(|head| UnknownConfig {
                n_concepts: unknown,
                factorize_rank: Some(rank),
                ..head
            }),
            ..concept
        });
        Self { n_layers, n_embd, n_head, n_kv_heads, intermediate_size: 4 * n_embd, concept, ..released }
    }

    /// The released base model; also what absent keys of a `config.json` mean (`MODEL.md`, section 1).
    fn released() -> Self {
        Self {
            n_layers: 32,
            n_head: 32,
            n_embd: 4096,
            n_kv_heads: 4,
            context: 4096,
            diff_block_size: 64,
            norm: NormKind::Rms,
            norm_eps: 1e-5,
            norm_order: NormOrder::Post,
            use_qk_norm: true,
            use_rope: true,
            rope_base: 500_000.0,
            rope_full_precision: true,
            mlp: MlpKind::SwiGlu,
            intermediate_size: 4 * 4096,
            use_bias: false,
            clip_qkv: Some(10.0),
            weight_sharing: true,
            vocab_size: 100_281,
            special: SpecialIds::RELEASED,
            concept: Some(ConceptConfig {
                n_concepts: 33_732,
                topk_known: Some(32),
                topk_known_features: Some(32),
                use_attention_known: false,
                topk_on_logits: false,
                use_epsilon_correction: true,
                pad_multiple: 16,
                unknown: Some(UnknownConfig {
                    n_concepts: 101_196,
                    topk: Some(128),
                    factorize_rank: Some(256),
                    use_attention: false,
                    apply_topk: true,
                }),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_preset_has_the_published_number_of_parameters() {
        assert_eq!(Config::preset(Preset::EightB).param_count(), 8_391_778_304);
    }

    #[test]
    fn an_empty_config_file_means_the_released_model() {
        let empty = serde_json::json!({});
        assert_eq!(Config::from_json(&empty, None).unwrap(), Config::preset(Preset::EightB));
    }

    #[test]
    fn presets_have_the_sizes_their_names_promise() {
        let millions = |p| Config::preset(p).param_count() as f64 / 1e6;
        assert!((900.0..1100.0).contains(&millions(Preset::OneB)), "{}", millions(Preset::OneB));
        assert!((200.0..300.0).contains(&millions(Preset::Small)), "{}", millions(Preset::Small));
        assert!((10.0..15.0).contains(&millions(Preset::Tiny)), "{}", millions(Preset::Tiny));
    }

    #[test]
    fn presets_are_found_by_name_and_others_are_refused_with_the_list() {
        for preset in Preset::ALL {
            assert_eq!(preset.name().parse::<Preset>().unwrap(), preset);
        }
        let message = "7b".parse::<Preset>().unwrap_err().to_string();
        assert!(message.contains("\"7b\"") && message.contains("8b, 1b, small, tiny"), "{message}");
    }
}
