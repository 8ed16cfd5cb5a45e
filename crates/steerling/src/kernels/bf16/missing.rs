//! What stands for an instruction that the processor this is compiled for never has.

use pulp::Arch;

use super::Product;
use crate::kernels::scratch::Scratch;

pub(super) fn available(_: Arch) -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn is_fast() -> bool {
    false
}

pub(super) fn pack(_: &[f32], _: usize) -> Scratch {
    unreachable!("no product by an instruction that is not available");
}

pub(super) fn multiply(_: Product) {
    unreachable!("no product by an instruction that is not available");
}
