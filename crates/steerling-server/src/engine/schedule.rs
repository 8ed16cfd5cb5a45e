//! Who runs: first come, first served, at most `max_batch` at once. No clock, no channels.

use std::collections::VecDeque;

/// Waiting and active jobs.
#[derive(Debug)]
pub(super) struct Schedule<T> {
    waiting: VecDeque<T>,
    active: Vec<T>,
    max_batch: usize,
}

/// What the device says to a job at the head of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It runs from the next step on.
    Admitted,
    /// It does not fit beside those that run; it and all behind it wait.
    NoRoom,
}

/// Jobs taken out of the schedule.
#[derive(Debug)]
pub(super) struct Removed<T> {
    /// They had not started.
    pub(super) waiting: Vec<T>,
    /// They were running.
    pub(super) active: Vec<T>,
}

impl<T> Schedule<T> {
    /// An empty schedule for at most `max_batch` (at least 1) active jobs.
    pub(super) fn new(max_batch: usize) -> Self {
        Self { waiting: VecDeque::new(), active: Vec::new(), max_batch: max_batch.max(1) }
    }

    /// Puts a job at the end of the queue.
    pub(super) fn push(&mut self, job: T) {
        self.waiting.push_back(job);
    }

    /// Starts jobs from the head of the queue until one finds no room or the batch is full. Nobody overtakes, so a
    /// large job cannot be kept waiting by small ones.
    ///
    /// # Errors
    /// The first error of `ask`, with the job that it was asked for; that job has left the schedule.
    pub(super) fn admit<E>(&mut self, mut ask: impl FnMut(&mut T) -> Result<Admission, E>) -> Result<(), (T, E)> {
        while self.active.len() < self.max_batch
            && let Some(mut job) = self.waiting.pop_front()
        {
            match ask(&mut job) {
                Ok(Admission::Admitted) => self.active.push(job),
                Ok(Admission::NoRoom) => {
                    self.waiting.push_front(job);
                    break;
                }
                Err(error) => return Err((job, error)),
            }
        }
        Ok(())
    }

    /// Takes out every job for which `leaves` holds.
    pub(super) fn remove(&mut self, mut leaves: impl FnMut(&T) -> bool) -> Removed<T> {
        let (waiting, stay) = std::mem::take(&mut self.waiting).into_iter().partition::<Vec<T>, _>(&mut leaves);
        self.waiting = stay.into();
        Removed { waiting, active: self.remove_active(|job| leaves(job)) }
    }

    /// Takes out every active job for which `leaves` holds.
    pub(super) fn remove_active(&mut self, mut leaves: impl FnMut(&mut T) -> bool) -> Vec<T> {
        self.active.extract_if(.., |job| leaves(job)).collect()
    }

    /// Takes out the job at the head of the queue.
    pub(super) fn pop_waiting(&mut self) -> Option<T> {
        self.waiting.pop_front()
    }

    /// The active jobs, oldest first.
    pub(super) fn active_mut(&mut self) -> &mut [T] {
        &mut self.active
    }

    /// How many are active.
    pub(super) fn active_len(&self) -> usize {
        self.active.len()
    }

    /// Whether nobody waits and nobody is active.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.active.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A device with `room` units; jobs are (number, units).
    fn run(jobs: &[usize], max_batch: usize, room: usize) -> Vec<Vec<usize>> {
        let mut schedule = Schedule::new(max_batch);
        for job in jobs.iter().copied().enumerate() {
            schedule.push(job);
        }
        let mut rounds = Vec::new();
        while !schedule.is_empty() {
            let mut used: usize = schedule.active_mut().iter().map(|job| job.1).sum();
            let admitted: Result<(), (_, ())> = schedule.admit(|job| {
                let fits = used + job.1 <= room;
                used += if fits { job.1 } else { 0 };
                Ok(if fits { Admission::Admitted } else { Admission::NoRoom })
            });
            assert!(admitted.is_ok());
            rounds.push(schedule.active_mut().iter().map(|job| job.0).collect());
            // The oldest finishes.
            let oldest = schedule.active_mut()[0].0;
            schedule.remove_active(|job| job.0 == oldest);
        }
        rounds
    }

    proptest! {
        #[test]
        fn every_job_runs_in_order_within_batch_and_room(
            jobs in prop::collection::vec(1usize..10, 0..30), max_batch in 1usize..6, room in 10usize..20,
        ) {
            let rounds = run(&jobs, max_batch, room);
            prop_assert_eq!(rounds.len(), jobs.len());
            for (round, active) in rounds.iter().enumerate() {
                prop_assert!(active.len() <= max_batch);
                prop_assert!(active.iter().map(|job| jobs[*job]).sum::<usize>() <= room);
                let expected: Vec<usize> = (round..round + active.len()).collect();
                prop_assert_eq!(active, &expected);
                // Nobody is kept out for whom there is a place and room.
                if let Some(next) = jobs.get(round + active.len()) {
                    let used: usize = active.iter().map(|job| jobs[*job]).sum();
                    prop_assert!(active.len() == max_batch || used + next > room);
                }
            }
        }
    }

    #[test]
    fn a_refused_job_leaves_and_the_rest_goes_on() {
        let mut schedule = Schedule::new(4);
        (0..3).for_each(|job| schedule.push(job));
        let refused = schedule.admit(|job| if *job == 1 { Err("too large") } else { Ok(Admission::Admitted) });
        assert_eq!(refused, Err((1, "too large")));
        assert_eq!(schedule.admit(|_| Ok::<_, ()>(Admission::Admitted)), Ok(()));
        assert_eq!(schedule.active_mut(), [0, 2]);
    }

    #[test]
    fn removal_says_who_was_running() {
        let mut schedule = Schedule::new(1);
        (0..4).for_each(|job| schedule.push(job));
        assert_eq!(schedule.admit(|_| Ok::<_, ()>(Admission::Admitted)), Ok(()));
        let removed = schedule.remove(|job| job % 2 == 0);
        assert_eq!((removed.waiting, removed.active), (vec![2], vec![0]));
        assert_eq!((schedule.pop_waiting(), schedule.pop_waiting()), (Some(1), Some(3)));
    }
}
