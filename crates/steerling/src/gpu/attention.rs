//! Queries, keys, values, pages.

use candle_core::{DType, Tensor};

use super::{Launch, unwritten};
use crate::Result;
use crate::kernels::attention::HeadShape;

/// Pages of a layer, keys and values `[P, G, S, hd]` each.
pub(crate) struct Pages<'a> {
    pub(crate) keys: &'a Tensor,
    pub(crate) values: &'a Tensor,
    pub(crate) shape: &'a HeadShape,
}

/// What is done to queries, keys and values before attention.
pub(crate) struct Preparation<'a> {
    /// Cosines and sines of all positions, `[context, hd / 2]` in float32.
    pub(crate) rotary: Option<(&'a Tensor, &'a Tensor)>,
    /// Weights `[hd]` of the norms of queries and keys in float32, and epsilon.
    pub(crate) norm: Option<(&'a Tensor, &'a Tensor, f64)>,
    /// Largest absolute value.
    pub(crate) clip: Option<f64>,
}

/// Splits `qkv` `[R, (H + 2 G) hd]`, clamps, norms and rotates; writes keys and values to row `places[r]` of their pages
/// (`page * S + slot`; `u32::MAX` is nowhere) and returns the queries `[R, H hd]`.
pub(crate) fn qkv_prepare(
    qkv: &Tensor,
    preparation: &Preparation,
    (positions, places): (&Tensor, &Tensor),
    pages: &Pages,
) -> Result<Tensor> {
    /// Heads of a block of threads.
    const HEADS: usize = 4;
    let HeadShape { n_head, n_kv_heads, head_dim, page } = *pages.shape;
    let rows = qkv.dim(0)?;
    let queries = unwritten((rows, n_head * head_dim), qkv.dtype(), qkv.device())?;
    let (q_norm, k_norm, eps) = preparation.norm.map_or((None, None, 0.0), |(q, k, eps)| (Some(q), Some(k), eps));
    let (cosines, sines) = preparation.rotary.unzip();
    let heads = (n_head + 2 * n_kv_heads).div_ceil(HEADS);
    Launch::of_type("qkv_prepare", qkv.dtype(), [rows, heads, 1], 32 * HEADS)
        .read(qkv)
        .read_if(q_norm)
        .read_if(k_norm)
        .read_if(cosines)
        .read_if(sines)
        .read(positions)
        .read(places)
        .write(&queries)
        .write(pages.keys)
        .write(pages.values)
        .number(n_head)
        .number(n_kv_heads)
        .number(head_dim)
        .number(page)
        .float(preparation.clip.map_or(f32::INFINITY, |clip| clip as f32))
        .float(eps as f32)
        .run()?;
    Ok(queries)
}

/// The attention blocks of a forward.
pub(crate) struct Blocks {
    /// First row, rows, first page and keys of each, `[B, 4]`.
    pub(crate) blocks: Tensor,
    /// Their pages, one after the other.
    pub(crate) pages: Tensor,
    /// Most keys that one sees.
    pub(crate) most_keys: usize,
}

/// Blocks of threads that keep all processors of a large GPU busy.
const ENOUGH: usize = 264;
/// Keys that a block of threads of the tensor-core kernel takes at once.
const TILE: usize = 64;

/// Attention of the rows of `queries` `[R, H hd]` over the pages of their blocks, `[R, H hd]`; rows of no block hold anything.
pub(crate) fn attend(queries: &Tensor, blocks: &Blocks, pages: &Pages) -> Result<Tensor> {
    let HeadShape { n_head, n_kv_heads, head_dim, page } = *pages.shape;
    let (rows, width) = queries.dims2()?;
    let count = blocks.blocks.dim(0)?;
    let out = unwritten((rows, width), queries.dtype(), queries.device())?;
    if queries.dtype() != DType::BF16 || !matches!(head_dim, 64 | 128) {
        Launch::of_type("attend", queries.dtype(), [count * page, n_head, 1], head_dim.next_multiple_of(32))
            .read(queries)
            .read(pages.keys)
            .read(pages.values)
            .read(&blocks.blocks)
            .read(&blocks.pages)
            .write(&out)
            .number(n_head)
            .number(n_kv_heads)
            .number(head_dim)
            .number(page)
            .run()?;
        return Ok(out);
    }
    let tiles = count * page.div_ceil(TILE);
    let (splits, per_split) = splits(tiles * n_head, blocks.most_keys);
    let parts = match splits {
        1 => None,
        _ => Some(unwritten((splits, rows, n_head, head_dim + 2), DType::F32, queries.device())?),
    };
    let launch = Launch::new(format!("attend_tiles_{head_dim}"), [tiles, n_head, splits], 128)
        .read(queries)
        .read(pages.keys)
        .read(pages.values)
        .read(&blocks.blocks)
        .read(&blocks.pages)
        .write(&out);
    let launch = match &parts {
        Some(parts) => launch.write(parts),
        None => launch.read_if(None),
    };
    launch.number(n_head).number(n_kv_heads).number(page).number(per_split).number(rows).run()?;
    if let Some(parts) = &parts {
        Launch::new("join_splits", [rows, n_head, 1], head_dim)
            .read(parts)
            .write(&out)
            .number(splits)
            .number(rows)
            .number(n_head)
            .number(head_dim)
            .run()?;
    }
    Ok(out)
}

/// How many blocks of threads share the keys of a head, and how many keys each has, a multiple of [`TILE`]: more than one only
/// while that keeps more of the device busy.
fn splits(blocks: usize, most_keys: usize) -> (usize, usize) {
    let tiles = most_keys.div_ceil(TILE).max(1);
    let per_split = tiles.div_ceil((ENOUGH / blocks.max(1)).clamp(1, tiles));
    (tiles.div_ceil(per_split), per_split * TILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_contexts_of_few_sequences_are_split() {
        assert_eq!(splits(32, 64), (1, 64));
        assert_eq!(splits(32, 4096), (8, 512));
        assert_eq!(splits(1024, 4096), (1, 4096));
        assert_eq!(splits(32, 640), (5, 128));
        for (blocks, keys) in [(1, 1), (3, 65), (100, 4000), (7, 129)] {
            let (splits, per_split) = splits(blocks, keys);
            assert!(splits * per_split >= keys && (splits - 1) * per_split < keys);
        }
    }
}
