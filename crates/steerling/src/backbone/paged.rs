//! Chosen attention blocks of many sequences in one forward, against cached pages of keys and values.
//!
//! Every block of the batch is `S` rows or fewer. Its keys and values are written to its own page, then its queries
//! read the pages of all blocks of its sequence up to itself. Linear layers run once over the rows of all blocks.

use candle_core::{D, Tensor};

use super::inject::Injected;
use super::layer::Layer;
use super::linear::Compute;
use super::{Backbone, ops, rotary};
use crate::Result;
use crate::cache::PageId;
use crate::config::Config;
use crate::profile::Part;

/// One attention block of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRows {
    /// Its first row in the batch.
    pub row: usize,
    /// Its rows, at most `S`; fewer only for the last block of a sequence.
    pub rows: usize,
    /// Pages of its sequence up to and including its own, to which its keys and values are written.
    pub pages: Vec<PageId>,
    /// Keys that it sees: those of all blocks before it and its own.
    pub keys: usize,
}

/// A direction added to the residual stream at some rows.
#[derive(Debug, Clone, PartialEq)]
pub struct RowInjection {
    /// After every layer with at least this number, counted from 1.
    pub inject_layer: usize,
    /// What is added, `[D]`.
    pub vector: Vec<f32>,
    /// Where, ascending.
    pub rows: Vec<u32>,
}

/// The rows of one forward.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PagedBatch {
    /// Token id of every row.
    pub ids: Vec<u32>,
    /// Absolute position of every row.
    pub positions: Vec<u32>,
    /// The blocks, covering all rows in order. A block must stand behind those of its own sequence that it sees.
    pub blocks: Vec<BlockRows>,
    /// Rows whose hidden state is wanted, ascending.
    pub selected: Vec<u32>,
    /// What is added to the residual stream.
    pub injections: Vec<RowInjection>,
}

impl PagedBatch {
    /// Forgets all rows but keeps their memory.
    pub fn clear(&mut self) {
        let Self { ids, positions, blocks, selected, injections } = self;
        ids.clear();
        positions.clear();
        blocks.clear();
        selected.clear();
        injections.clear();
    }

    /// The same rows in batches of at most `rows` each, or of one block. What a block computes it leaves in its pages, so
    /// that one batch after the other gives what all at once give.
    pub(crate) fn pieces(self, rows: usize) -> Vec<Self> {
        if self.ids.len() <= rows {
            return vec![self];
        }
        let mut pieces: Vec<Self> = Vec::new();
        let mut blocks = self.blocks.into_iter().peekable();
        while let Some(first) = blocks.next() {
            let start = first.row;
            let mut end = start + first.rows;
            let mut own = vec![BlockRows { row: 0, ..first }];
            while let Some(block) = blocks.next_if(|block| block.row + block.rows <= start + rows) {
                end = block.row + block.rows;
                own.push(BlockRows { row: block.row - start, ..block });
            }
            let inside = |all: &[u32]| -> Vec<u32> {
                let rows = all.iter().filter(|row| (start..end).contains(&(**row as usize)));
                rows.map(|row| row - start as u32).collect()
            };
            pieces.push(Self {
                ids: self.ids[start..end].to_vec(),
                positions: self.positions[start..end].to_vec(),
                blocks: own,
                selected: inside(&self.selected),
                injections: self
                    .injections
                    .iter()
                    .map(|injection| RowInjection { rows: inside(&injection.rows), ..injection.clone() })
                    .collect(),
            });
        }
        pieces
    }

    /// The blocks reduced to their selected rows, numbered as they stand in `selected`.
    pub(super) fn selected_blocks(&self) -> Vec<BlockRows> {
        let mut at = 0;
        let mut blocks = Vec::new();
        for block in &self.blocks {
            let end = (block.row + block.rows) as u32;
            let rows = self.selected[at..].iter().take_while(|row| **row < end).count();
            if rows > 0 {
                blocks.push(BlockRows { row: at, rows, pages: block.pages.clone(), keys: block.keys });
            }
            at += rows;
        }
        blocks
    }
}

/// Keys and values of all layers, page by page.
pub struct KvPool {
    /// Per layer keys and values, each `[P, G, S, hd]`.
    pub(super) layers: Vec<(Tensor, Tensor)>,
}

impl KvPool {
    /// A pool of `pages` pages.
    ///
    /// # Errors
    /// If the device has no memory for it.
    pub fn new(config: &Config, compute: &Compute, pages: usize) -> Result<Self> {
        let shape = (pages, config.n_kv_heads, config.diff_block_size, config.head_dim());
        let zeros = || Tensor::zeros(shape, compute.activations(), &compute.device);
        let layers = (0..config.n_layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    /// Bytes of one page over all layers.
    pub fn page_bytes(config: &Config, compute: &Compute) -> u64 {
        let elements = 2 * config.n_layers * config.n_kv_heads * config.diff_block_size * config.head_dim();
        (elements * compute.activations().size_in_bytes()) as u64
    }
}

impl Backbone {
    /// Computes the rows of `batch`, writes their keys and values to their pages, and returns the hidden states (after
    /// the final norm) of the selected rows, `[selected.len(), D]`. In the last layer nothing but keys and values is
    /// computed for the other rows.
    ///
    /// # Errors
    /// If the device fails.
    pub fn forward_paged(&self, batch: &PagedBatch, pool: &mut KvPool) -> Result<Tensor> {
        if self.on_gpu {
            return self.forward_on_gpu(batch, pool);
        }
        let profile = &self.profile;
        let (mut x, tables) = profile.time(Part::Embed, || -> Result<_> {
            let tables = self.rotary.as_ref().map(|rotary| rotary.rows(&batch.positions)).transpose()?;
            Ok((self.embed(&batch.ids)?, tables)) // [R, D]
        })?;
        let mut injected = Injected::new(&batch.injections, &x);
        let shape = ops::head_shape(&self.config);
        let last = self.layers.len() - 1;
        for (n, layer) in self.layers.iter().enumerate() {
            let input = profile.time(Part::Norms, || layer.attention_input(&x))?;
            let qkv = profile.time(Part::AttentionProducts, || layer.attn.c_attn.forward(&input))?;
            let (k_pool, v_pool) = &pool.layers[n];
            let mut q = profile.time(Part::AttentionRest, || -> Result<_> {
                let (q, k, v) = self.prepare_rows(layer, qkv, tables.as_ref())?;
                ops::write_pages(&shape, k_pool, &k, &batch.blocks)?;
                ops::write_pages(&shape, v_pool, &v, &batch.blocks)?;
                Ok(q)
            })?;
            let selected_blocks;
            let blocks = if n == last {
                if batch.selected.is_empty() {
                    return Ok(x.narrow(0, 0, 0)?);
                }
                let selected = Tensor::new(batch.selected.as_slice(), x.device())?;
                x = x.index_select(&selected, 0)?;
                q = q.index_select(&selected, 0)?;
                selected_blocks = batch.selected_blocks();
                &selected_blocks
            } else {
                &batch.blocks
            };
            let attended = profile.time(Part::Attention, || ops::attend(&shape, &q, k_pool, v_pool, blocks))?;
            let attended = profile.time(Part::AttentionProducts, || layer.attn.c_proj.forward(&attended))?;
            x = profile.time(Part::Norms, || layer.add_attention(&x, &attended))?;
            let input = profile.time(Part::Norms, || layer.mlp_input(&x))?;
            let out = layer.mlp.forward(&input, profile)?;
            x = profile.time(Part::Norms, || layer.add_mlp(&x, &out))?;
            if let Some(added) = injected.after(n + 1)? {
                x = match n == last {
                    true => (x + added.index_select(&Tensor::new(batch.selected.as_slice(), added.device())?, 0)?)?,
                    false => (x + added)?,
                };
            }
        }
        profile.time(Part::Norms, || self.ln_f.forward(&x))
    }

    /// `[R, D + 2 G hd]` -> q `[R, H, hd]`, k and v `[R, G, hd]`; clamped, normed, rotated.
    fn prepare_rows(
        &self,
        layer: &Layer,
        mut qkv: Tensor,
        tables: Option<&rotary::Rows>,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let (h, g, hd) = (self.config.n_head, self.config.n_kv_heads, self.config.head_dim());
        let rows = qkv.dim(0)?;
        if let Some(form) = &layer.attn.form {
            return ops::qkv_prepare(&qkv, form, tables.and_then(rotary::Rows::on_host));
        }
        if let Some(clip) = self.config.clip_qkv {
            qkv = qkv.clamp(-clip, clip)?;
        }
        let part = |start: usize, heads: usize| -> Result<Tensor> {
            Ok(qkv.narrow(D::Minus1, start, heads * hd)?.reshape((rows, heads, hd))?)
        };
        let (mut q, mut k, v) = (part(0, h)?, part(h * hd, g)?, part((h + g) * hd, g)?);
        if let Some((q_norm, k_norm)) = &layer.attn.qk_norm {
            q = q_norm.forward(&q.contiguous()?)?;
            k = k_norm.forward(&k.contiguous()?)?;
        }
        if let Some(rotary::Rows { cos, sin, .. }) = tables {
            q = rotary::rotate(&q, cos, sin)?;
            k = rotary::rotate(&k, cos, sin)?;
        }
        Ok((q.contiguous()?, k.contiguous()?, v.contiguous()?))
    }
}
