//! What steering adds to the residual stream, layer by layer.

use candle_core::{Device, Tensor};

use super::paged::RowInjection;
use crate::Result;

/// The sum of all injections that act after a layer, as one tensor like the residual stream.
pub(super) struct Injected<'a> {
    injections: &'a [RowInjection],
    like: Tensor,
    /// The sum, and how many injections it holds: a direction that acts after a layer acts after all later ones.
    sum: Option<(usize, Tensor)>,
}

impl<'a> Injected<'a> {
    /// For a residual stream `like` of `[.., D]`, rows counted over all but the last dimension.
    pub(super) fn new(injections: &'a [RowInjection], like: &Tensor) -> Self {
        Self { injections, like: like.detach(), sum: None }
    }

    /// What is added after layer `number`, counted from 1.
    pub(super) fn after(&mut self, number: usize) -> Result<Option<&Tensor>> {
        let acting: Vec<_> = self.injections.iter().filter(|i| i.inject_layer <= number).collect();
        if acting.is_empty() {
            return Ok(None);
        }
        if self.sum.as_ref().is_none_or(|(count, _)| *count != acting.len()) {
            let dims = self.like.dims();
            let width = dims[dims.len() - 1];
            let mut added = vec![0f32; self.like.elem_count()];
            for injection in &acting {
                for row in &injection.rows {
                    let target = &mut added[*row as usize * width..][..width];
                    for (a, v) in target.iter_mut().zip(&injection.vector) {
                        *a += v;
                    }
                }
            }
            let added = Tensor::from_vec(added, dims, &Device::Cpu)?.to_dtype(self.like.dtype())?;
            self.sum = Some((acting.len(), added.to_device(self.like.device())?));
        }
        Ok(self.sum.as_ref().map(|(_, added)| added))
    }
}
