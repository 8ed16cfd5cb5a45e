//! How the strength of an injection develops over a generation.

/// The factor of an injection as a function of the tokens committed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Full strength throughout.
    Fixed,
    /// Full strength until this many tokens are committed, then none.
    HardCutoff {
        /// Committed tokens.
        tokens: usize,
    },
    /// Falls in proportion to committed tokens, to none at this many.
    LinearDecay {
        /// Committed tokens.
        tokens: usize,
    },
}

impl Schedule {
    /// Between 0 and 1. A prompt that holds masks makes `committed` negative at first.
    pub fn factor(self, committed: i64) -> f32 {
        // Compared as what they are: a cast would make a huge number of tokens negative.
        let over = |tokens: usize| usize::try_from(committed).is_ok_and(|committed| committed >= tokens);
        match self {
            Self::HardCutoff { tokens } | Self::LinearDecay { tokens } if over(tokens) => 0.0,
            Self::Fixed | Self::HardCutoff { .. } => 1.0,
            Self::LinearDecay { tokens } => 1.0 - committed.max(0) as f32 / tokens.max(1) as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_cutoff_ends_with_the_token_that_reaches_it() {
        let schedule = Schedule::HardCutoff { tokens: 3 };
        assert_eq!([-1, 0, 2, 3, 4].map(|n| schedule.factor(n)), [1.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_linear_decay_starts_full_and_ends_at_none() {
        let schedule = Schedule::LinearDecay { tokens: 4 };
        assert_eq!([-2, 0, 1, 2, 4, 9].map(|n| schedule.factor(n)), [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn a_schedule_of_no_tokens_is_over_and_one_of_more_tokens_than_there_are_never_ends() {
        for (tokens, factor) in [(0, 0.0), (1 << 63, 1.0), (usize::MAX, 1.0)] {
            for schedule in [Schedule::HardCutoff { tokens }, Schedule::LinearDecay { tokens }] {
                assert_eq!([0, 5].map(|n| schedule.factor(n)), [factor; 2], "{schedule:?}");
            }
        }
    }
}
