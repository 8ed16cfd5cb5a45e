//! Notices that go on from their openings.

use steerling::Result;

use super::amplify::jobs;
use super::bench::{Bench, Draw};
use super::generate::{Generated, Job};
use super::measures::mean;
use crate::corpus::{Kept, notice_openings, read_notice};

/// Shares of what notices are to keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shares {
    /// Notices that keep their wording.
    pub(super) wording: Option<f64>,
    /// Blanks that come again and are filled as before, of all that come again.
    pub(super) alike: Option<f64>,
}

/// The opening of every notice, so many times.
pub(super) fn prompts(each: usize) -> Vec<String> {
    notice_openings().into_iter().flat_map(|opening| vec![opening; each]).collect()
}

impl Shares {
    /// Of generations from these openings.
    pub(super) fn of(prompts: &[String], texts: &[Generated]) -> Self {
        let read = |(opening, text): (&String, &Generated)| read_notice(&format!("{opening}{}", text.text));
        let kept: Vec<Kept> = prompts.iter().zip(texts).filter_map(read).collect();
        let sum = |count: fn(&Kept) -> usize| kept.iter().map(count).sum::<usize>();
        let (alike, repeats) = (sum(|kept| kept.alike), sum(|kept| kept.repeats));
        Self {
            wording: mean(kept.iter().map(|kept| f64::from(kept.wording))),
            alike: (repeats > 0).then(|| alike as f64 / repeats as f64),
        }
    }

    /// Of unsteered generations with the server's defaults.
    ///
    /// # Errors
    /// Those of [`Bench::generate`].
    pub(super) fn unsteered(bench: &mut Bench) -> Result<Self> {
        let prompts = prompts(bench.size.notices);
        let jobs: Vec<Job> = jobs(bench, Draw::Notices, &prompts).collect();
        Ok(Self::of(&prompts, &bench.generate("notices", &jobs)?))
    }
}
