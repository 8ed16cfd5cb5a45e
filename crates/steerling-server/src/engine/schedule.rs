//! Who is admitted, and who takes part in the next step. No clock, no channels.
//!
//! Admission is bounded by pages, which a job holds for its life; a step is bounded by rows and by how many sequences
//! it is worth sharing. First come, first served within a priority, and nobody overtakes: a large job cannot be kept
//! waiting by small ones, nor a job of low priority by ever new ones of normal priority.

use std::collections::VecDeque;

/// Jobs of normal priority that may be admitted past one of low priority.
const PASSES: usize = 8;

/// What there is to share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Jobs that are admitted at once, at least 1.
    pub(super) jobs: usize,
    /// Pages that admitted jobs hold together.
    pub(super) pages: usize,
    /// Rows of a step.
    pub(super) rows: usize,
}

/// What a job needs, at its worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    /// Pages, from admission to its end.
    pub(super) pages: usize,
    /// Rows of those of its steps that cannot be divided.
    pub(super) rows: usize,
}

/// Who waits for whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Priority {
    /// Somebody waits for the answer.
    #[default]
    Normal,
    /// Gives way to all others, but not for ever.
    Low,
}

/// What the device says to a job at the head of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may run from the next step on.
    Admitted,
    /// It does not fit beside those that run; it and all behind it wait.
    NoRoom,
}

/// Jobs taken out of the schedule.
#[derive(Debug)]
pub(super) struct Removed<T> {
    /// They had not been admitted.
    pub(super) waiting: Vec<T>,
    /// They had.
    pub(super) active: Vec<T>,
}

#[derive(Debug)]
struct Entry<T> {
    job: T,
    cost: Cost,
}

/// Waiting and admitted jobs.
#[derive(Debug)]
pub(super) struct Schedule<T> {
    normal: VecDeque<Entry<T>>,
    low: VecDeque<Entry<T>>,
    /// Jobs of normal priority admitted since one of low priority could have been.
    passes: usize,
    /// Admitted jobs in the order of their turns: the first of them take part in the next step.
    active: Vec<Entry<T>>,
    budget: Budget,
    /// Jobs of a step, at least 1.
    limit: usize,
}

impl Budget {
    /// Whether a job could ever run.
    pub(super) fn holds(&self, cost: &Cost) -> bool {
        cost.pages <= self.pages && cost.rows <= self.rows
    }
}

impl<T> Schedule<T> {
    /// An empty schedule.
    pub(super) fn new(budget: Budget) -> Self {
        let budget = Budget { jobs: budget.jobs.max(1), ..budget };
        let limit = budget.jobs;
        Self { normal: VecDeque::new(), low: VecDeque::new(), passes: 0, active: Vec::new(), budget, limit }
    }

    /// From now on there is this to share; for the time when nothing is admitted.
    pub(super) fn set_budget(&mut self, budget: Budget) {
        self.budget = Budget { jobs: budget.jobs.max(1), ..budget };
    }

    /// From now on a step has at most `limit` jobs, at least 1.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.clamp(1, self.budget.jobs);
    }

    /// Puts a job at the end of its queue.
    pub(super) fn push(&mut self, job: T, cost: Cost, priority: Priority) {
        let entry = Entry { job, cost };
        match priority {
            Priority::Normal => self.normal.push_back(entry),
            Priority::Low => self.low.push_back(entry),
        }
    }

    /// Admits jobs until the next one does not fit the budget or `ask` finds no room for it.
    ///
    /// # Errors
    /// The first error of `ask`, with the job that it was asked for; that job has left the schedule.
    pub(super) fn admit<E>(&mut self, mut ask: impl FnMut(&mut T) -> Result<Admission, E>) -> Result<(), (T, E)> {
        let mut pages: usize = self.active.iter().map(|entry| entry.cost.pages).sum();
        while self.active.len() < self.budget.jobs {
            let priority = self.next();
            let queue = self.queue(priority);
            let Some(mut entry) = queue.pop_front() else { break };
            if pages + entry.cost.pages > self.budget.pages {
                self.queue(priority).push_front(entry);
                break;
            }
            match ask(&mut entry.job) {
                Ok(Admission::Admitted) => {
                    pages += entry.cost.pages;
                    self.active.push(entry);
                    self.passes = match priority {
                        Priority::Normal if !self.low.is_empty() => self.passes + 1,
                        _ => 0,
                    };
                }
                Ok(Admission::NoRoom) => {
                    self.queue(priority).push_front(entry);
                    break;
                }
                Err(error) => return Err((entry.job, error)),
            }
        }
        Ok(())
    }

    /// Whose turn it is.
    fn next(&self) -> Priority {
        let low = !self.low.is_empty() && (self.normal.is_empty() || self.passes >= PASSES);
        if low { Priority::Low } else { Priority::Normal }
    }

    fn queue(&mut self, priority: Priority) -> &mut VecDeque<Entry<T>> {
        match priority {
            Priority::Normal => &mut self.normal,
            Priority::Low => &mut self.low,
        }
    }

    /// How many of the active jobs take part in the next step: from the first on while they fit, and always one.
    fn running_len(&self) -> usize {
        let mut rows = 0;
        let fits = |entry: &&Entry<T>| {
            rows += entry.cost.rows;
            rows <= self.budget.rows
        };
        self.active.iter().take(self.limit).take_while(fits).count().max(1).min(self.active.len())
    }

    /// The jobs of the next step.
    pub(super) fn running_mut(&mut self) -> impl ExactSizeIterator<Item = &mut T> {
        let running = self.running_len();
        self.active[..running].iter_mut().map(|entry| &mut entry.job)
    }

    /// After a step: those of its jobs for which `rests` holds go behind the active jobs that had no part in it.
    pub(super) fn rotate(&mut self, mut rests: impl FnMut(&T) -> bool) {
        let running = self.running_len();
        if running == self.active.len() {
            return;
        }
        let resting: Vec<Entry<T>> = self.active.extract_if(..running, |entry| rests(&entry.job)).collect();
        self.active.extend(resting);
    }

    /// Takes out every job for which `leaves` holds.
    pub(super) fn remove(&mut self, mut leaves: impl FnMut(&T) -> bool) -> Removed<T> {
        let mut waiting = Vec::new();
        for queue in [&mut self.normal, &mut self.low] {
            // Most rounds nobody leaves: nothing is moved then.
            while let Some(at) = queue.iter().position(|entry| leaves(&entry.job)) {
                waiting.extend(queue.remove(at).map(|entry| entry.job));
            }
        }
        Removed { waiting, active: self.remove_active(|job| leaves(job)) }
    }

    /// Takes out every active job for which `leaves` holds.
    pub(super) fn remove_active(&mut self, mut leaves: impl FnMut(&mut T) -> bool) -> Vec<T> {
        self.active.extract_if(.., |entry| leaves(&mut entry.job)).map(|entry| entry.job).collect()
    }

    /// Takes out the job whose turn it is to be admitted.
    pub(super) fn pop_waiting(&mut self) -> Option<T> {
        let priority = self.next();
        self.queue(priority).pop_front().map(|entry| entry.job)
    }

    /// How many are admitted.
    pub(super) fn active_len(&self) -> usize {
        self.active.len()
    }

    /// How many wait.
    pub(super) fn waiting_len(&self) -> usize {
        self.normal.len() + self.low.len()
    }

    /// Whether nobody waits and nobody is active.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting_len() == 0 && self.active.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A job of so many blocks of so many steps.
    #[derive(Debug, Clone)]
    struct Job {
        number: usize,
        cost: Cost,
        priority: Priority,
        /// Steps left of each block, the current one last.
        blocks: Vec<usize>,
        rested: bool,
    }

    const BUDGET: Budget = Budget { jobs: 5, pages: 30, rows: 40 };

    fn jobs() -> impl Strategy<Value = Vec<Job>> {
        let job = (1usize..=BUDGET.pages, 1usize..=BUDGET.rows, any::<bool>(), prop::collection::vec(1usize..4, 1..4));
        prop::collection::vec(job, 1..40).prop_map(|jobs| {
            let job = |(number, (pages, rows, low, blocks)): (usize, (usize, usize, bool, Vec<usize>))| Job {
                number,
                cost: Cost { pages, rows },
                priority: if low { Priority::Low } else { Priority::Normal },
                blocks,
                rested: false,
            };
            jobs.into_iter().enumerate().map(job).collect()
        })
    }

    /// Everything that a schedule did with jobs that were handed in at once.
    #[derive(Debug, Default)]
    struct Story {
        admitted: Vec<Job>,
        finished: usize,
        steps: usize,
    }

    fn run(jobs: &[Job], limit: usize) -> Result<Story, TestCaseError> {
        let mut schedule = Schedule::new(BUDGET);
        schedule.set_limit(limit);
        jobs.iter().for_each(|job| schedule.push(job.clone(), job.cost, job.priority));
        let mut story = Story::default();
        while !schedule.is_empty() {
            let admitted: Result<(), (Job, ())> = schedule.admit(|job| {
                story.admitted.push(job.clone());
                Ok(Admission::Admitted)
            });
            prop_assert!(admitted.is_ok());
            let active: Vec<&Job> = schedule.active.iter().map(|entry| &entry.job).collect();
            prop_assert!(active.len() <= BUDGET.jobs);
            prop_assert!(active.iter().map(|job| job.cost.pages).sum::<usize>() <= BUDGET.pages);
            let running: Vec<Job> = schedule.running_mut().map(|job| job.clone()).collect();
            prop_assert!((1..=limit.min(BUDGET.jobs)).contains(&running.len()), "{} run", running.len());
            prop_assert!(running.iter().map(|job| job.cost.rows).sum::<usize>() <= BUDGET.rows);
            for job in schedule.running_mut() {
                let left = job.blocks.last_mut().expect("a block");
                *left -= 1;
                job.rested = *left == 0;
                if job.rested {
                    job.blocks.pop();
                }
            }
            story.finished += schedule.remove_active(|job| job.blocks.is_empty()).len();
            schedule.rotate(|job| job.rested);
            story.steps += 1;
            prop_assert!(story.steps <= 40 * 3 * 3, "it does not end");
        }
        Ok(story)
    }

    proptest! {
        #[test]
        fn every_job_runs_within_the_budget_and_in_order_within_its_priority(jobs in jobs(), limit in 1usize..8) {
            let story = run(&jobs, limit)?;
            prop_assert_eq!(story.finished, jobs.len());
            for priority in [Priority::Normal, Priority::Low] {
                let of = |jobs: &[Job]| -> Vec<usize> {
                    jobs.iter().filter(|job| job.priority == priority).map(|job| job.number).collect()
                };
                prop_assert_eq!(of(&story.admitted), of(&jobs));
            }
            // Low priority gives way, but not for ever.
            let mut passes = 0;
            let mut low_left = jobs.iter().filter(|job| job.priority == Priority::Low).count();
            for job in &story.admitted {
                match job.priority {
                    Priority::Low => (passes, low_left) = (0, low_left - 1),
                    Priority::Normal if low_left > 0 => passes += 1,
                    Priority::Normal => {}
                }
                prop_assert!(passes <= PASSES);
            }
            let normal = jobs.len() - jobs.iter().filter(|job| job.priority == Priority::Low).count();
            let first_low = story.admitted.iter().position(|job| job.priority == Priority::Low);
            prop_assert!(first_low.is_none_or(|at| at == normal.min(PASSES)));
        }

        #[test]
        fn every_active_job_gets_its_turn(
            blocks in prop::collection::vec(1usize..6, 2..6), limit in 1usize..4,
        ) {
            // Jobs without an end, so that only turns decide.
            let mut schedule = Schedule::new(Budget { jobs: 8, ..BUDGET });
            schedule.set_limit(limit);
            for (number, steps) in blocks.iter().enumerate() {
                schedule.push((number, *steps, 0usize), Cost { pages: 1, rows: 1 }, Priority::Normal);
            }
            prop_assert!(schedule.admit(|_| Ok::<_, ()>(Admission::Admitted)).is_ok());
            let mut waited = vec![0usize; blocks.len()];
            for _ in 0..200 {
                waited.iter_mut().for_each(|steps| *steps += 1);
                for (number, _, done) in schedule.running_mut() {
                    *done += 1;
                    waited[*number] = 0;
                }
                // A block of each of the others at most.
                let most: usize = blocks.iter().sum();
                prop_assert!(waited.iter().all(|steps| *steps <= most), "{waited:?}");
                schedule.rotate(|(_, steps, done)| done % steps == 0);
            }
        }
    }

    #[test]
    fn a_job_that_can_never_run_is_told_apart() {
        assert!(BUDGET.holds(&Cost { pages: 30, rows: 40 }));
        assert!(!BUDGET.holds(&Cost { pages: 31, rows: 1 }));
        assert!(!BUDGET.holds(&Cost { pages: 1, rows: 41 }));
    }

    fn small(jobs: impl IntoIterator<Item = usize>, budget: Budget) -> Schedule<usize> {
        let mut schedule = Schedule::new(budget);
        jobs.into_iter().for_each(|job| schedule.push(job, Cost { pages: 1, rows: 1 }, Priority::Normal));
        schedule
    }

    #[test]
    fn a_refused_job_leaves_and_the_rest_goes_on() {
        let mut schedule = small(0..3, BUDGET);
        let refused = schedule.admit(|job| if *job == 1 { Err("too large") } else { Ok(Admission::Admitted) });
        assert_eq!(refused, Err((1, "too large")));
        assert_eq!(schedule.admit(|_| Ok::<_, ()>(Admission::Admitted)), Ok(()));
        assert_eq!(schedule.running_mut().collect::<Vec<_>>(), [&0, &2]);
    }

    #[test]
    fn nobody_overtakes_a_job_without_room() {
        let mut schedule = Schedule::new(Budget { pages: 10, ..BUDGET });
        for pages in [6, 6, 1] {
            schedule.push(pages, Cost { pages, rows: 1 }, Priority::Normal);
        }
        assert_eq!(schedule.admit(|_| Ok::<_, ()>(Admission::Admitted)), Ok(()));
        assert_eq!((schedule.active_len(), schedule.waiting_len()), (1, 2));
    }

    #[test]
    fn removal_says_who_was_running() {
        let mut schedule = small(0..4, Budget { jobs: 1, ..BUDGET });
        assert_eq!(schedule.admit(|_| Ok::<_, ()>(Admission::Admitted)), Ok(()));
        let removed = schedule.remove(|job| job % 2 == 0);
        assert_eq!((removed.waiting, removed.active), (vec![2], vec![0]));
        assert_eq!((schedule.pop_waiting(), schedule.pop_waiting()), (Some(1), Some(3)));
    }
}
