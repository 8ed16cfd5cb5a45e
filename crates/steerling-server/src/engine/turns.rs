//! Whose slice is next, and when generations have to make room. No clock, no channels.
//!
//! Turns go alternately to the smallest task, by what its description says that it needs, and to the one that has waited
//! longest for its next slice: small work is done within a few slices however much large work there is, and large work is
//! never kept waiting by ever new small work. A task without room beside the generations keeps its place, and what it was
//! kept from is made up for.

use std::collections::VecDeque;

/// Rounds without room for a task after which no more generations are admitted until it has had as many slices.
const PATIENCE: usize = 16;

/// A task, and what it has had so far.
struct Entry<T> {
    task: T,
    size: u64,
    slices: usize,
    /// Rounds in which it had no room, less the slices that it has had since.
    owed: usize,
    is_starving: bool,
}

/// The tasks.
pub(super) struct Turns<T> {
    /// Whoever has waited longest for a slice is the first.
    entries: VecDeque<Entry<T>>,
    /// The next turn is that of the smallest task.
    prefers_small: bool,
}

impl<T> Turns<T> {
    pub(super) fn new() -> Self {
        Self { entries: VecDeque::new(), prefers_small: true }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a task that needs so many token positions in all.
    pub(super) fn push(&mut self, task: T, size: u64) {
        self.entries.push_back(Entry { task, size, slices: 0, owed: 0, is_starving: false });
    }

    /// A task has had no room for so long that no more generations may be admitted.
    pub(super) fn needs_room(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_starving)
    }

    /// Calls `advance` for the task whose turn it is, and, while there is no room for a task, for the next one: one
    /// of them has a slice if any has room.
    pub(super) fn advance(&mut self, mut advance: impl FnMut(&mut T) -> Turn) {
        let mut blocked = Vec::new();
        while let Some(mut entry) = self.take() {
            match advance(&mut entry.task) {
                Turn::NoRoom => {
                    entry.owed += 1;
                    entry.is_starving |= entry.owed >= PATIENCE;
                    blocked.push(entry);
                    continue;
                }
                Turn::More => {
                    entry.slices += 1;
                    entry.owed = entry.owed.saturating_sub(1);
                    entry.is_starving &= entry.owed > 0;
                    self.entries.push_back(entry);
                }
                Turn::Done => {}
            }
            self.prefers_small = !self.prefers_small;
            break;
        }
        // In their order, before all others.
        blocked.into_iter().rev().for_each(|entry| self.entries.push_front(entry));
    }

    /// Takes out the task whose turn it is.
    fn take(&mut self) -> Option<Entry<T>> {
        let entries = || self.entries.iter().enumerate();
        let at = if self.prefers_small {
            // Equal ones in turn.
            entries().min_by_key(|(_, entry)| (entry.size, entry.slices))
        } else {
            entries().find(|(_, entry)| entry.is_starving).or_else(|| entries().next())
        };
        let (at, _) = at?;
        self.entries.remove(at)
    }

    /// Removes every task for which `stays` does not hold.
    pub(super) fn retain_mut(&mut self, mut stays: impl FnMut(&mut T) -> bool) {
        self.entries.retain_mut(|entry| stays(&mut entry.task));
    }

    /// Takes out all tasks.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.entries).into_iter().map(|entry| entry.task)
    }
}

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// A slice; more are to come.
    More,
    /// There was no room beside the generations.
    NoRoom,
    /// The last slice, or none: the task goes.
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task of so many slices.
    struct Task {
        name: usize,
        slices: usize,
    }

    fn push(turns: &mut Turns<Task>, name: usize, slices: usize) {
        turns.push(Task { name, slices }, slices as u64);
    }

    /// One turn: who had a slice.
    fn turn(turns: &mut Turns<Task>) -> Option<usize> {
        let mut had = None;
        turns.advance(|task| {
            had = Some(task.name);
            task.slices -= 1;
            if task.slices == 0 { Turn::Done } else { Turn::More }
        });
        had
    }

    #[test]
    fn small_work_is_done_within_a_few_slices_beside_much_large_work() {
        // Of tasks that came together, and of such that have been at it for long.
        for before in [0, 1, 500] {
            let mut turns = Turns::new();
            (0..49).for_each(|name| push(&mut turns, name, 10_000));
            (0..before).for_each(|_| _ = turn(&mut turns));
            push(&mut turns, 99, 3);
            let had: Vec<Option<usize>> = (0..6).map(|_| turn(&mut turns)).collect();
            assert_eq!(had.iter().filter(|name| **name == Some(99)).count(), 3, "after {before} slices: {had:?}");
        }
    }

    #[test]
    fn large_work_goes_on_beside_ever_new_small_work() {
        let mut turns = Turns::new();
        (0..3).for_each(|name| push(&mut turns, name, 1000));
        let mut had = [0; 3];
        for _ in 0..600 {
            push(&mut turns, 99, 1);
            if let Some(name) = turn(&mut turns).filter(|name| *name < 3) {
                had[name] += 1;
            }
        }
        // Half of the turns go by waiting, and small work that did not get one is waiting as well.
        assert!(had.iter().all(|slices| *slices >= 3), "{had:?}");
    }

    #[test]
    fn equal_tasks_have_equally_many_slices() {
        let mut turns = Turns::new();
        (0..5).for_each(|name| push(&mut turns, name, 1000));
        let mut had = [0usize; 5];
        for _ in 0..500 {
            had[turn(&mut turns).expect("a task")] += 1;
        }
        assert!(had.iter().all(|slices| slices.abs_diff(100) <= 2), "{had:?}");
    }

    #[test]
    fn a_task_without_room_keeps_its_place_and_is_made_up_for() {
        let mut turns = Turns::new();
        (0..2).for_each(|name| push(&mut turns, name, 1000));
        let round = |turns: &mut Turns<Task>, has_room: bool| {
            let mut had = None;
            turns.advance(|task| {
                if task.name == 0 && !has_room {
                    return Turn::NoRoom;
                }
                had = Some(task.name);
                Turn::More
            });
            had
        };
        for n in 0..PATIENCE {
            assert!(!turns.needs_room(), "after {n} rounds");
            assert_eq!(round(&mut turns, false), Some(1), "a round is not lost on a task without room");
        }
        assert!(turns.needs_room());
        // There is room: it is owed as many slices as it was kept from.
        let had: Vec<Option<usize>> =
            std::iter::from_fn(|| turns.needs_room().then(|| round(&mut turns, true))).collect();
        assert_eq!(had.iter().filter(|name| **name == Some(0)).count(), PATIENCE, "{had:?}");
        assert!(had.len() <= 2 * PATIENCE, "{had:?}");
        assert!(!turns.needs_room());
    }
}
