//! Generation blocks: where they are cut, and how steps and commits are divided over them.

use crate::params::{Align, GenerateParams};

/// A generation block: positions that are unmasked together, over a fixed number of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationBlock {
    /// First position.
    pub start: usize,
    /// One past the last position.
    pub end: usize,
    /// Denoising steps, between 1 and the number of positions.
    pub steps: usize,
}

impl GenerationBlock {
    /// How many of `masked` positions step `t` commits: `masked / steps`, plus one while `t < masked % steps`.
    pub fn quota(&self, masked: usize, t: usize) -> usize {
        masked / self.steps + usize::from(t < masked % self.steps)
    }
}

/// Cuts the generation region into blocks and divides the steps over them in proportion to their sizes.
///
/// Where all blocks have the same size and `steps` is a multiple of their number every block gets the same number of
/// steps, as in the reference package. Every block gets at least one step and at most one a position.
pub(super) fn generation_blocks(prompt_len: usize, params: &GenerateParams, block_size: usize) -> Vec<GenerationBlock> {
    let total = params.max_new_tokens;
    let end = prompt_len + total;
    let steps = params.steps.unwrap_or(total);
    let mut blocks = Vec::new();
    let mut start = prompt_len;
    while start < end {
        let cut = match params.align {
            Align::Reference => start + block_size,
            Align::Block => (start / block_size + 1) * block_size,
        };
        let block_end = cut.min(end);
        let (before, after) = (start - prompt_len, block_end - prompt_len);
        let share = after * steps / total - before * steps / total;
        blocks.push(GenerationBlock { start, end: block_end, steps: share.clamp(1, block_end - start) });
        start = block_end;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(prompt: usize, new: usize, steps: Option<usize>, align: Align, s: usize) -> Vec<GenerationBlock> {
        let params = GenerateParams { max_new_tokens: new, steps, align, ..GenerateParams::default() };
        generation_blocks(prompt, &params, s)
    }

    #[test]
    fn blocks_start_at_the_end_of_the_prompt_or_end_at_attention_blocks() {
        let spans = |align| -> Vec<_> { blocks(5, 36, None, align, 16).iter().map(|b| (b.start, b.end)).collect() };
        assert_eq!(spans(Align::Reference), [(5, 21), (21, 37), (37, 41)]);
        assert_eq!(spans(Align::Block), [(5, 16), (16, 32), (32, 41)]);
    }

    #[test]
    fn steps_that_the_reference_accepts_are_divided_equally() {
        for steps in [3, 6, 24, 48] {
            assert!(blocks(7, 48, Some(steps), Align::Reference, 16).iter().all(|b| b.steps == steps / 3));
        }
    }

    proptest! {
        /// Blocks cover the region without a gap, and every position is committed within its block's steps.
        #[test]
        fn every_position_gets_its_commit(
            prompt in 0usize..100,
            new in 1usize..200,
            share in 0.0f64..1.0,
            aligned in any::<bool>(),
            s in 1usize..40,
        ) {
            let steps = ((new as f64 * share) as usize).clamp(1, new);
            let align = if aligned { Align::Block } else { Align::Reference };
            let blocks = blocks(prompt, new, Some(steps), align, s);
            prop_assert_eq!(blocks[0].start, prompt);
            prop_assert_eq!(blocks[blocks.len() - 1].end, prompt + new);
            prop_assert!(blocks.windows(2).all(|pair| pair[0].end == pair[1].start));
            let total: usize = blocks.iter().map(|b| b.steps).sum();
            prop_assert!((steps..=steps.max(blocks.len()) + blocks.len()).contains(&total), "{} for {}", total, steps);
            for block in blocks {
                let size = block.end - block.start;
                prop_assert!((1..=s).contains(&size) && (1..=size).contains(&block.steps));
                prop_assert!((0..block.steps).all(|t| block.quota(size, t) > 0));
                prop_assert_eq!((0..block.steps).map(|t| block.quota(size, t)).sum::<usize>(), size);
            }
        }
    }
}
