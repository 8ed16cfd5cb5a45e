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
    /// Between 0 and 1.
    pub fn factor(self, committed: i64) -> f32 {
        match self {
            Self::Fixed => 1.0,
            Self::HardCutoff { tokens } => f32::from(u8::from(committed < tokens as i64)),
            Self::LinearDecay { tokens } => (1.0 - committed.max(0) as f32 / tokens.max(1) as f32).max(0.0),
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
}
