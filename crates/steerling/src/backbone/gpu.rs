//! The paged forward pass on the GPU kernels: what every row needs is uploaded once, and nothing waits for the device.

use candle_core::Tensor;

use super::paged::{BlockRows, KvPool, PagedBatch, RowInjection};
use super::{Backbone, ops};
use crate::Result;
use crate::config::{MlpKind, NormOrder};
use crate::gpu::{self, Blocks, Pages, Preparation};
use crate::profile::Part;

/// Rows of a forward are rounded up to a multiple of this, so that memory of few sizes is taken again and again.
const ROWS: usize = 64;
/// The same for rows whose hidden state is wanted.
const SELECTED: usize = 16;

/// What the kernels must know of the rows, on the device.
struct Inputs {
    ids: Tensor,
    positions: Tensor,
    /// `page * S + slot` of the keys and values of each row.
    places: Tensor,
    selected: Tensor,
    blocks: Blocks,
    /// The same for the selected rows alone.
    selected_blocks: Blocks,
}

impl Backbone {
    /// Whether the GPU kernels cover this checkpoint, type and device.
    pub(super) fn is_covered(&self) -> bool {
        let rms = |norm: &super::norm::Norm| norm.gpu_weight().is_some();
        let layer = |layer: &super::layer::Layer| {
            let heads = layer.attn.qk_norm.as_ref().is_none_or(|(q, k)| rms(q) && rms(k));
            rms(&layer.ln_1) && rms(&layer.ln_2) && heads && layer.mlp.kind == MlpKind::SwiGlu
        };
        self.compute.has_gpu_kernels()
            && self.config.head_dim() <= 256
            && self.tok_emb.dense().is_some()
            && self.rotary.as_ref().is_none_or(|rotary| rotary.tables().is_some())
            && rms(&self.ln_f)
            && self.layers.iter().all(layer)
    }

    /// [`Backbone::forward_paged`].
    pub(super) fn forward_on_gpu(&self, batch: &PagedBatch, pool: &KvPool) -> Result<Tensor> {
        let profile = &self.profile;
        let shape = ops::head_shape(&self.config);
        let (mut x, inputs) = profile.time(Part::Embed, || -> Result<_> {
            let inputs = self.upload(batch)?;
            let table = self.tok_emb.dense().expect("covered checkpoints have dense weights");
            Ok((gpu::gather_rows(table, &inputs.ids)?, inputs)) // [R, D]
        })?;
        let rotary = self.rotary.as_ref().and_then(super::rotary::Rotary::tables);
        let last = self.layers.len() - 1;
        let mut added: Option<(usize, Tensor)> = None;
        for (n, layer) in self.layers.iter().enumerate() {
            let post = layer.order == NormOrder::Post;
            let before = |norm: &super::norm::Norm, x: &Tensor| -> Result<Tensor> {
                profile.time(Part::Norms, || if post { Ok(x.clone()) } else { norm.on_gpu(x, None) })
            };
            let after = |norm: &super::norm::Norm, x: &Tensor, out: &Tensor| -> Result<Tensor> {
                profile.time(Part::Norms, || if post { norm.on_gpu(out, Some(x)) } else { Ok((x + out)?) })
            };
            let input = before(&layer.ln_1, &x)?;
            let qkv = profile.time(Part::AttentionProducts, || layer.attn.c_attn.forward(&input))?;
            let (keys, values) = &pool.layers[n];
            let pages = Pages { keys, values, shape: &shape };
            let norm = layer.attn.qk_norm.as_ref();
            let norm = norm.and_then(|(q, k)| Some((q.gpu_weight()?, k.gpu_weight()?, q.eps)));
            let preparation = Preparation { rotary, norm, clip: self.config.clip_qkv };
            let places = (&inputs.positions, &inputs.places);
            let mut q = profile.time(Part::AttentionRest, || gpu::qkv_prepare(&qkv, &preparation, places, &pages))?;
            let mut blocks = &inputs.blocks;
            if n == last {
                if batch.selected.is_empty() {
                    return Ok(x.narrow(0, 0, 0)?);
                }
                x = gpu::gather_rows(&x, &inputs.selected)?;
                q = gpu::gather_rows(&q, &inputs.selected)?;
                blocks = &inputs.selected_blocks;
            }
            let attended = profile.time(Part::Attention, || gpu::attend(&q, blocks, &pages))?;
            let attended = profile.time(Part::AttentionProducts, || layer.attn.c_proj.forward(&attended))?;
            x = after(&layer.ln_1, &x, &attended)?;
            let input = before(&layer.ln_2, &x)?;
            let h = profile.time(Part::MlpProducts, || layer.mlp.c_fc.forward(&input))?;
            let h = profile.time(Part::MlpRest, || gpu::swiglu(&h))?;
            let out = profile.time(Part::MlpProducts, || layer.mlp.c_proj.forward(&h))?;
            x = after(&layer.ln_2, &x, &out)?;
            if let Some(sum) = injected(&batch.injections, n + 1, (inputs.ids.dim(0)?, &x), &mut added)? {
                x = match n == last {
                    true => (x + gpu::gather_rows(sum, &inputs.selected)?)?,
                    false => (x + sum)?,
                };
            }
        }
        let hidden = profile.time(Part::Norms, || self.ln_f.on_gpu(&x, None))?;
        Ok(hidden.narrow(0, 0, batch.selected.len())?)
    }

    /// Everything about the rows of `batch`, in one transfer. Padded rows have id and position 0 and no place.
    fn upload(&self, batch: &PagedBatch) -> Result<Inputs> {
        let device = &self.compute.device;
        let s = self.config.diff_block_size as u32;
        let rows = batch.ids.len().next_multiple_of(ROWS);
        let padded = |values: &[u32], len: usize, with: u32| -> Vec<u32> {
            values.iter().copied().chain(std::iter::repeat(with)).take(len).collect()
        };
        let places: Vec<u32> = batch
            .blocks
            .iter()
            .flat_map(|block| {
                let page = *block.pages.last().expect("a block has a page of its own");
                (0..block.rows as u32).map(move |slot| page * s + slot)
            })
            .collect();
        let selected_blocks = batch.selected_blocks();
        let parts = [
            padded(&batch.ids, rows, 0),
            padded(&batch.positions, rows, 0),
            padded(&places, rows, u32::MAX),
            padded(&batch.selected, batch.selected.len().next_multiple_of(SELECTED), 0),
            describe(&batch.blocks),
            pages(&batch.blocks),
            describe(&selected_blocks),
            pages(&selected_blocks),
        ];
        let all = Tensor::new(parts.concat(), device)?;
        let mut from = 0;
        let mut part = |of: &[u32]| -> Result<Tensor> {
            from += of.len();
            Ok(all.narrow(0, from - of.len(), of.len())?)
        };
        let [ids, positions, places, selected, ours, our_pages, theirs, their_pages] = &parts;
        let most = |blocks: &[BlockRows]| blocks.iter().map(|block| block.keys).max().unwrap_or(0);
        Ok(Inputs {
            ids: part(ids)?,
            positions: part(positions)?,
            places: part(places)?,
            selected: part(selected)?,
            blocks: Blocks {
                blocks: part(ours)?.reshape(((), 4))?,
                pages: part(our_pages)?,
                most_keys: most(&batch.blocks),
            },
            selected_blocks: Blocks {
                blocks: part(theirs)?.reshape((selected_blocks.len(), 4))?,
                pages: part(their_pages)?,
                most_keys: most(&selected_blocks),
            },
        })
    }
}

/// First row, rows, first page and keys of each block.
fn describe(blocks: &[BlockRows]) -> Vec<u32> {
    let mut pages = 0;
    let mut words = Vec::with_capacity(4 * blocks.len());
    for block in blocks {
        words.extend([block.row, block.rows, pages, block.keys].map(|n| n as u32));
        pages += block.pages.len();
    }
    words
}

fn pages(blocks: &[BlockRows]) -> Vec<u32> {
    blocks.iter().flat_map(|block| block.pages.iter().copied()).collect()
}

/// What is added to all rows after layer `number`, counted from 1; `sum` keeps it, with the number of injections that it holds:
/// a direction that acts after a layer acts after all later ones.
fn injected<'a>(
    injections: &[RowInjection],
    number: usize,
    (rows, x): (usize, &Tensor),
    sum: &'a mut Option<(usize, Tensor)>,
) -> Result<Option<&'a Tensor>> {
    let acting: Vec<_> = injections.iter().filter(|injection| injection.inject_layer <= number).collect();
    if acting.is_empty() {
        return Ok(None);
    }
    if sum.as_ref().is_none_or(|(count, _)| *count != acting.len()) {
        let added = Tensor::zeros((rows, x.dim(1)?), candle_core::DType::F32, x.device())?;
        for injection in &acting {
            let vector = Tensor::new(injection.vector.as_slice(), x.device())?;
            gpu::add_to_rows(&added, &vector, &Tensor::new(injection.rows.as_slice(), x.device())?)?;
        }
        *sum = Some((acting.len(), added.to_dtype(x.dtype())?));
    }
    Ok(sum.as_ref().map(|(_, added)| added))
}
