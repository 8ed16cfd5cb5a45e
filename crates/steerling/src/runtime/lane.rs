//! The pages of one sequence of ids, in order of its blocks.

use crate::backbone::{BlockRows, PagedBatch, RowInjection};
use crate::cache::{ChainKey, PageId, PageTable};

/// The pages of one sequence of ids.
#[derive(Debug)]
pub(super) struct Lane {
    pages: Vec<PageId>,
    /// Leading blocks whose pages hold their final keys and values.
    done: usize,
    /// Keys of the leading blocks that are shared with other sequences.
    keys: Vec<ChainKey>,
    /// Blocks from here on are never shared: injections have reached their masks, or those of a block before.
    private_from: usize,
    /// The factors of the injections when blocks from `private_from` on were computed.
    alphas: Vec<f32>,
    block_size: usize,
}

impl Lane {
    /// A lane without pages.
    pub(super) fn new(private_from: usize, block_size: usize, alphas: Vec<f32>) -> Self {
        Self { pages: Vec::new(), done: 0, keys: Vec::new(), private_from, alphas, block_size }
    }

    /// Leading blocks whose pages hold their final keys and values.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// Blocks from here on are never shared.
    pub(super) fn private_from(&self) -> usize {
        self.private_from
    }

    /// Pages of the blocks computed so far, in order; those of blocks that can still change are overwritten by each step.
    pub(super) fn pages(&self) -> &[PageId] {
        &self.pages
    }

    /// Takes over the cached pages of as many leading blocks as there are, at most `limit`.
    pub(super) fn adopt(&mut self, ids: &[u32], limit: usize, table: &mut PageTable) {
        while self.done < limit.min(self.private_from) {
            let key = self.key(ids, self.done, table);
            let Some(page) = table.find(key) else { break };
            match self.pages.get_mut(self.done) {
                Some(own) => table.release(std::mem::replace(own, page)),
                None => self.pages.push(page),
            }
            self.keys.push(key);
            self.done += 1;
        }
    }

    /// The keys of the blocks up to `last` that are still to be computed and may then be shared.
    pub(super) fn pending_keys(&self, ids: &[u32], last: usize, table: &PageTable) -> Vec<ChainKey> {
        let mut keys = self.keys.clone();
        for block in self.done..last.min(self.private_from) {
            keys.push(table.chain(keys.last().copied(), self.block(ids, block)));
        }
        keys.split_off(self.done.min(keys.len()))
    }

    /// Blocks that injections have reached are to be computed again when the factors change.
    pub(super) fn use_alphas(&mut self, alphas: &[f32]) {
        if self.alphas != alphas {
            self.done = self.done.min(self.private_from);
            self.alphas = alphas.to_vec();
        }
    }

    /// Appends the rows of blocks `done..last` to `batch`, with pages for them.
    pub(super) fn push_rows(&mut self, ids: &[u32], last: usize, table: &mut PageTable, batch: &mut PagedBatch) {
        while self.pages.len() < last {
            self.pages.push(table.allocate());
        }
        push_blocks(ids, self.block_size, self.done, &self.pages[..last.max(self.done)], batch);
    }

    /// Blocks `done..end` are finished: publishes the pages of those that may be shared.
    pub(super) fn finish(&mut self, ids: &[u32], end: usize, table: &mut PageTable) {
        for block in self.done..end.min(self.private_from) {
            let key = self.key(ids, block, table);
            self.pages[block] = table.publish(self.pages[block], key);
            self.keys.push(key);
        }
        self.done = self.done.max(end);
    }

    /// Gives all pages back.
    pub(super) fn release(self, table: &mut PageTable) {
        for page in self.pages.into_iter().rev() {
            table.release(page);
        }
    }

    fn block<'a>(&self, ids: &'a [u32], block: usize) -> &'a [u32] {
        &ids[block * self.block_size..((block + 1) * self.block_size).min(ids.len())]
    }

    fn key(&self, ids: &[u32], block: usize, table: &PageTable) -> ChainKey {
        table.chain(self.keys.last().copied(), self.block(ids, block))
    }
}

/// Appends the rows of the blocks of `ids` from block `first` on, one for each page; keys and values go to their pages.
pub(super) fn push_blocks(ids: &[u32], block_size: usize, first: usize, pages: &[PageId], batch: &mut PagedBatch) {
    for block in first..pages.len() {
        let start = block * block_size;
        let end = (start + block_size).min(ids.len());
        batch.blocks.push(BlockRows {
            row: batch.ids.len(),
            rows: end - start,
            pages: pages[..=block].to_vec(),
            keys: end,
        });
        batch.ids.extend_from_slice(&ids[start..end]);
        batch.positions.extend((start..end).map(|position| position as u32));
    }
}

/// Adds `vector` to the masked rows from `first` on.
pub(super) fn inject_at_masks(batch: &mut PagedBatch, first: usize, mask: u32, inject_layer: usize, vector: Vec<f32>) {
    let masked = (first..batch.ids.len()).filter(|row| batch.ids[*row] == mask);
    let rows = masked.map(|row| row as u32).collect();
    batch.injections.push(RowInjection { inject_layer, vector, rows });
}
