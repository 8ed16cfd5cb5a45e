//! The CPU kernels as candle operations, beside their plain forms for other devices and types.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, D, DType, InplaceOp2, Layout, Shape, Tensor};

use super::norm::Norm;
use super::paged::BlockRows;
use crate::Result;
use crate::config::Config;
use crate::kernels::attention::{BlockQuery, HeadShape, paged_attention, write_page_rows};
use crate::kernels::pointwise::{self, Qkv, QkvParams};

/// Whether the CPU kernels apply to `x`.
pub(super) fn has_kernels(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The numbers of a contiguous tensor.
pub(super) fn contiguous_f32<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a kernel reads contiguous tensors, not {layout:?}"),
    }
}

/// Copies a tensor of float32 numbers to the host, or gives them as they are.
pub(super) fn to_host(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
}

/// What happens to q, k and v between projection and attention.
#[derive(Debug, Clone)]
pub(super) struct QkvForm {
    pub(super) shape: HeadShape,
    pub(super) clip: Option<f32>,
    /// Weights of the norms of q and k, and their epsilon.
    pub(super) norm: Option<(Vec<f32>, Vec<f32>, f32)>,
}

impl QkvForm {
    /// The form of a checkpoint, if the kernel covers it (it does not norm heads by LayerNorm).
    pub(super) fn of(config: &Config, qk_norm: Option<&(Norm, Norm)>) -> Option<Self> {
        let norm = match qk_norm {
            None => None,
            Some((q, k)) => Some((q.rms_weight()?.to_vec(), k.rms_weight()?.to_vec(), q.eps as f32)),
        };
        Some(Self { shape: head_shape(config), clip: config.clip_qkv.map(|clip| clip as f32), norm })
    }

    /// The same for the kernels, with the cosines and sines of their rows.
    pub(super) fn params<'a>(&'a self, rotary: Option<(&'a [f32], &'a [f32])>) -> QkvParams<'a> {
        let norm = self.norm.as_ref().map(|(q, k, eps)| (q.as_slice(), k.as_slice(), *eps));
        QkvParams { clip: self.clip, norm, rotary }
    }
}

/// `[R, D + 2 G hd]` -> q `[R, H, hd]`, k and v `[R, G, hd]`: clamped, normed, rotated by `cos` and `sin` of
/// `[R, hd / 2]`.
pub(super) fn qkv_prepare(
    qkv: &Tensor,
    form: &QkvForm,
    rotary: Option<(&[f32], &[f32])>,
) -> Result<(Tensor, Tensor, Tensor)> {
    let rows = qkv.dim(0)?;
    let HeadShape { n_head: h, n_kv_heads: g, head_dim: hd, .. } = form.shape;
    let flat = qkv.contiguous()?.apply_op1_no_bwd(&QkvPrepare { form, rotary })?;
    let part =
        |start: usize, heads: usize| flat.narrow(0, rows * start * hd, rows * heads * hd)?.reshape((rows, heads, hd));
    Ok((part(0, h)?, part(h, g)?, part(h + g, g)?))
}

struct QkvPrepare<'a> {
    form: &'a QkvForm,
    rotary: Option<(&'a [f32], &'a [f32])>,
}

impl CustomOp1 for QkvPrepare<'_> {
    fn name(&self) -> &'static str {
        "qkv-prepare"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let qkv = contiguous_f32(storage, layout)?;
        let rows = layout.dims()[0];
        let HeadShape { n_head, n_kv_heads, head_dim, .. } = self.form.shape;
        let mut out = vec![0f32; qkv.len()];
        let (q, kv) = out.split_at_mut(rows * n_head * head_dim);
        let (k, v) = kv.split_at_mut(rows * n_kv_heads * head_dim);
        let params = self.form.params(self.rotary);
        pointwise::qkv_prepare(&self.form.shape, &params, qkv, Qkv { q, k, v });
        let len = out.len();
        Ok((CpuStorage::F32(out), len.into()))
    }
}

pub(super) fn head_shape(config: &Config) -> HeadShape {
    HeadShape {
        n_head: config.n_head,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim(),
        page: config.diff_block_size,
    }
}

/// Writes rows of `[R, G, hd]` to the pages of their blocks, in a pool of `[P, G, S, hd]`.
pub(super) fn write_pages(shape: &HeadShape, pool: &Tensor, rows: &Tensor, blocks: &[BlockRows]) -> Result<()> {
    if has_kernels(pool) {
        let places = blocks.iter().flat_map(|block| {
            let page = *block.pages.last().expect("a block has a page of its own");
            (0..block.rows as u32).map(move |slot| (page, slot))
        });
        let op = WritePages { shape, places: places.collect() };
        return Ok(pool.inplace_op2(&rows.contiguous()?, &op)?);
    }
    let s = shape.page;
    for block in blocks {
        let Some(page) = block.pages.last() else { continue };
        let own = rows.narrow(0, block.row, block.rows)?.transpose(0, 1)?.unsqueeze(0)?; // [1, G, rows, hd]
        let own = match block.rows < s {
            true => own.pad_with_zeros(2, 0, s - block.rows)?,
            false => own,
        };
        pool.slice_set(&own.contiguous()?, 0, *page as usize)?;
    }
    Ok(())
}

struct WritePages<'a> {
    shape: &'a HeadShape,
    /// Page and slot of every row.
    places: Vec<(u32, u32)>,
}

impl InplaceOp2 for WritePages<'_> {
    fn name(&self) -> &'static str {
        "write-pages"
    }

    fn cpu_fwd(
        &self,
        pool: &mut CpuStorage,
        _pool_layout: &Layout,
        rows: &CpuStorage,
        rows_layout: &Layout,
    ) -> candle_core::Result<()> {
        let rows = contiguous_f32(rows, rows_layout)?;
        let CpuStorage::F32(pool) = pool else { candle_core::bail!("the pool is not float32") };
        write_page_rows(self.shape, rows, &self.places, pool);
        Ok(())
    }
}

/// Attention of the rows of `q` (`[R, H, hd]`, block by block) over the pages of their blocks, `[R, H hd]`.
pub(super) fn attend(
    shape: &HeadShape,
    q: &Tensor,
    k_pool: &Tensor,
    v_pool: &Tensor,
    blocks: &[BlockRows],
) -> Result<Tensor> {
    if has_kernels(q) {
        return Ok(q.contiguous()?.apply_op3_no_bwd(k_pool, v_pool, &PagedAttention { shape, blocks })?);
    }
    let per_block =
        blocks.iter().map(|block| attend_gathered(shape, q, k_pool, v_pool, block)).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(&per_block, 0)?)
}

/// One block by gathering its pages, for devices without a kernel.
fn attend_gathered(
    shape: &HeadShape,
    q: &Tensor,
    k_pool: &Tensor,
    v_pool: &Tensor,
    block: &BlockRows,
) -> Result<Tensor> {
    let HeadShape { n_head: h, n_kv_heads: g, head_dim: hd, page: s } = *shape;
    let pages = Tensor::new(block.pages.as_slice(), q.device())?;
    let gather = |pool: &Tensor| -> Result<Tensor> {
        let gathered = pool.index_select(&pages, 0)?.transpose(0, 1)?.reshape((g, block.pages.len() * s, hd))?;
        Ok(gathered.narrow(1, 0, block.keys)?)
    };
    let (k, v) = (gather(k_pool)?, gather(v_pool)?); // [G, keys, hd]
    let q = q.narrow(0, block.row, block.rows)?.transpose(0, 1)?.reshape((g, h / g * block.rows, hd))?;
    let scores = (q.matmul(&k.t()?.contiguous()?)? / (hd as f64).sqrt())?;
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
    let out = weights.matmul(&v.contiguous()?)?.reshape((h, block.rows, hd))?;
    Ok(out.transpose(0, 1)?.reshape((block.rows, h * hd))?)
}

struct PagedAttention<'a> {
    shape: &'a HeadShape,
    blocks: &'a [BlockRows],
}

impl CustomOp3 for PagedAttention<'_> {
    fn name(&self) -> &'static str {
        "paged-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k_pool: &CpuStorage,
        k_layout: &Layout,
        v_pool: &CpuStorage,
        v_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let q = contiguous_f32(q, q_layout)?;
        let queries: Vec<BlockQuery> = self
            .blocks
            .iter()
            .map(|block| BlockQuery { row: block.row, rows: block.rows, pages: &block.pages, keys: block.keys })
            .collect();
        let mut out = vec![0f32; q.len()];
        let (k, v) = (contiguous_f32(k_pool, k_layout)?, contiguous_f32(v_pool, v_layout)?);
        paged_attention(self.shape, q, k, v, &queries, &mut out);
        let width = self.shape.n_head * self.shape.head_dim;
        Ok((CpuStorage::F32(out), (q.len() / width, width).into()))
    }
}
