//! Which page of keys and values belongs to whom. Plain data: the pool that holds the numbers is elsewhere.
//!
//! A page is one attention block of one sequence. A finished page never changes, so sequences whose ids agree up to
//! and including a block share its page: pages are found by the hash chain of their token ids, counted by reference,
//! and evicted least recently used once nobody refers to them.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};

/// Index of a page in the pool.
pub type PageId = u32;

/// Hash of everything a finished page depends on: the ids of its block and of all blocks before it.
///
/// 128 bits under keys drawn at start-up, so that nobody can make two prompts collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainKey(u64, u64);

#[derive(Debug, Default, Clone)]
struct Page {
    references: u32,
    key: Option<ChainKey>,
    last_used: u64,
}

/// Owner, content and age of every page of a pool.
#[derive(Debug)]
pub struct PageTable {
    pages: Vec<Page>,
    free: Vec<PageId>,
    /// Finished pages nobody refers to, least recently used first.
    idle: BTreeSet<(u64, PageId)>,
    index: HashMap<ChainKey, PageId>,
    clock: u64,
    reserved: usize,
    evicted: u64,
    hashers: (RandomState, RandomState),
}

/// How the pages of a pool are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageUse {
    /// All pages.
    pub total: usize,
    /// Set aside for admitted sequences, at their worst case.
    pub reserved: usize,
    /// Referred to by admitted sequences.
    pub active: usize,
    /// Finished pages kept for later requests.
    pub cached: usize,
    /// Finished pages that had to make room, since the start.
    pub evicted: u64,
}

impl PageTable {
    /// A table of `pages` free pages.
    pub fn new(pages: usize) -> Self {
        let count = u32::try_from(pages).expect("a pool has fewer than 2^32 pages");
        Self {
            pages: vec![Page::default(); pages],
            free: (0..count).rev().collect(),
            idle: BTreeSet::new(),
            index: HashMap::new(),
            clock: 0,
            reserved: 0,
            evicted: 0,
            hashers: (RandomState::new(), RandomState::new()),
        }
    }

    /// The key of a block with these ids behind the block with key `parent`; `None` for the first block.
    pub fn chain(&self, parent: Option<ChainKey>, ids: &[u32]) -> ChainKey {
        ChainKey(self.hashers.0.hash_one((parent, ids)), self.hashers.1.hash_one((parent, ids)))
    }

    /// Sets `pages` aside if they are not spoken for; [`Self::allocate`] then succeeds for as many.
    pub fn reserve(&mut self, pages: usize) -> bool {
        let fits = self.reserved + pages <= self.pages.len();
        if fits {
            self.reserved += pages;
        }
        fits
    }

    /// Gives back what [`Self::reserve`] set aside.
    pub fn unreserve(&mut self, pages: usize) {
        self.reserved = self.reserved.checked_sub(pages).expect("only reserved pages are given back");
    }

    /// A page with undefined content for the caller alone: a free one, else the least recently used idle one.
    ///
    /// # Panics
    /// If more pages are allocated than were reserved.
    pub fn allocate(&mut self) -> PageId {
        let id = self.free.pop().unwrap_or_else(|| {
            let (_, id) = self.idle.pop_first().expect("no more pages are allocated than reserved");
            let key = self.pages[id as usize].key.take().expect("an idle page is published");
            self.index.remove(&key);
            self.evicted += 1;
            id
        });
        self.pages[id as usize].references = 1;
        id
    }

    /// The finished page of `key`, if it is kept; the caller shares it until [`Self::release`].
    pub fn find(&mut self, key: ChainKey) -> Option<PageId> {
        let id = *self.index.get(&key)?;
        let page = &mut self.pages[id as usize];
        if page.references == 0 {
            self.idle.remove(&(page.last_used, id));
        }
        page.references += 1;
        Some(id)
    }

    /// Declares that `page`, which the caller allocated, holds the finished block of `key`. Returns the page to use
    /// from now on: another sequence may have published the same block before, then that one, and `page` is freed.
    pub fn publish(&mut self, page: PageId, key: ChainKey) -> PageId {
        if let Some(existing) = self.find(key) {
            self.release(page);
            return existing;
        }
        self.pages[page as usize].key = Some(key);
        self.index.insert(key, page);
        page
    }

    /// Gives a page back. Release the pages of a sequence last block first: a block is of no use without those
    /// before it, so it should be evicted earlier.
    pub fn release(&mut self, id: PageId) {
        self.clock += 1;
        let page = &mut self.pages[id as usize];
        page.references = page.references.checked_sub(1).expect("a page is released as often as it is taken");
        page.last_used = self.clock;
        if page.references == 0 {
            match page.key {
                Some(_) => _ = self.idle.insert((self.clock, id)),
                None => self.free.push(id),
            }
        }
    }

    /// How the pages are used.
    pub fn page_use(&self) -> PageUse {
        PageUse {
            total: self.pages.len(),
            reserved: self.reserved,
            active: self.pages.len() - self.free.len() - self.idle.len(),
            cached: self.idle.len(),
            evicted: self.evicted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_finished_page_is_shared_and_survives_its_owner() {
        let mut table = PageTable::new(2);
        let key = table.chain(None, &[1, 2, 3]);
        let page = table.allocate();
        assert_eq!(table.publish(page, key), page);
        assert_eq!(table.find(key), Some(page));
        table.release(page);
        table.release(page);
        assert_eq!(table.page_use(), PageUse { total: 2, reserved: 0, active: 0, cached: 1, evicted: 0 });
        assert_eq!(table.find(key), Some(page));
    }

    #[test]
    fn the_key_depends_on_every_block_before() {
        let table = PageTable::new(1);
        let a = table.chain(Some(table.chain(None, &[1])), &[9]);
        let b = table.chain(Some(table.chain(None, &[2])), &[9]);
        assert_ne!(a, b);
        assert_ne!(a, table.chain(None, &[9]));
        assert_ne!(table.chain(None, &[1, 9]), a);
    }

    #[test]
    fn two_sequences_that_computed_the_same_block_end_with_one_page() {
        let mut table = PageTable::new(2);
        let key = table.chain(None, &[1]);
        let (a, b) = (table.allocate(), table.allocate());
        let a = table.publish(a, key);
        assert_eq!(table.publish(b, key), a);
        assert_eq!(table.page_use().active, 1);
    }

    #[test]
    fn the_least_recently_used_idle_page_is_evicted_first() {
        let mut table = PageTable::new(3);
        let keys: Vec<_> = (0..3).map(|i| table.chain(None, &[i])).collect();
        for key in &keys {
            let page = table.allocate();
            let page = table.publish(page, *key);
            table.release(page);
        }
        let used_again = table.find(keys[0]).unwrap();
        table.release(used_again);
        table.allocate();
        assert_eq!(table.page_use().evicted, 1);
        assert!(table.find(keys[1]).is_none());
        assert!(table.find(keys[0]).is_some());
    }

    proptest! {
        /// Whatever happens, a page belongs to one place, and everything comes back.
        #[test]
        fn no_page_is_lost_or_used_twice(ops in proptest::collection::vec((0u8..4, 0u32..6), 1..200)) {
            let mut table = PageTable::new(8);
            let mut held: Vec<PageId> = Vec::new();
            let mut private = std::collections::HashSet::new();
            for (op, n) in ops {
                let key = table.chain(None, &[n]);
                match op {
                    0 if table.page_use().active < 8 => {
                        let page = table.allocate();
                        prop_assert!(!held.contains(&page), "allocated a page in use");
                        private.insert(page);
                        held.push(page);
                    }
                    1 => if let Some(page) = table.find(key) { held.push(page) },
                    2 => if let Some(at) = held.iter().position(|p| private.contains(p)) {
                        let page = held.swap_remove(at);
                        private.remove(&page);
                        held.push(table.publish(page, key));
                    },
                    _ => if !held.is_empty() {
                        let page = held.swap_remove(n as usize % held.len());
                        private.remove(&page);
                        table.release(page);
                    },
                }
                let distinct: std::collections::HashSet<_> = held.iter().collect();
                prop_assert_eq!(table.page_use().active, distinct.len());
            }
            for page in held { table.release(page) }
            prop_assert_eq!(table.page_use().active, 0);
        }
    }
}
