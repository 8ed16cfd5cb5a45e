//! One launch of a kernel.

use candle_core::{DType, Device, Tensor};

use super::host;
use crate::Result;

/// A kernel, how many threads run it, and on what.
#[derive(Debug)]
pub struct Launch<'a> {
    pub(super) kernel: String,
    /// Blocks of threads along x, y and z.
    pub(super) grid: [u32; 3],
    /// Threads of a block, whole warps.
    pub(super) block: u32,
    pub(super) args: Vec<Arg<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    Read(&'a Tensor),
    Write(&'a Tensor),
    Null,
    U32(u32),
    F32(f32),
}

impl<'a> Launch<'a> {
    /// The kernel `name` on `grid` blocks of `block` threads. Arguments follow in the kernel's order.
    pub fn new(name: impl Into<String>, grid: [usize; 3], block: usize) -> Self {
        let of = |n: usize| u32::try_from(n).expect("a grid has fewer than 2^32 blocks");
        Self { kernel: name.into(), grid: grid.map(of), block: of(block), args: Vec::new() }
    }

    /// The kernel `name` for activations of type `dtype`.
    pub(super) fn of_type(name: &str, dtype: DType, grid: [usize; 3], block: usize) -> Self {
        Self::new(format!("{name}_{}", dtype.as_str()), grid, block)
    }

    /// A tensor that is read, contiguous.
    #[must_use]
    pub fn read(mut self, tensor: &'a Tensor) -> Self {
        self.args.push(Arg::Read(tensor));
        self
    }

    /// A tensor that is read if there is one.
    #[must_use]
    pub fn read_if(mut self, tensor: Option<&'a Tensor>) -> Self {
        self.args.push(tensor.map_or(Arg::Null, Arg::Read));
        self
    }

    /// A tensor that is written in place, contiguous.
    #[must_use]
    pub fn write(mut self, tensor: &'a Tensor) -> Self {
        self.args.push(Arg::Write(tensor));
        self
    }

    /// A number.
    ///
    /// # Panics
    /// If it does not fit 32 bits.
    #[must_use]
    pub fn number(mut self, n: usize) -> Self {
        self.args.push(Arg::U32(u32::try_from(n).expect("sizes fit 32 bits")));
        self
    }

    /// A float32.
    #[must_use]
    pub fn float(mut self, x: f32) -> Self {
        self.args.push(Arg::F32(x));
        self
    }

    /// Queues the launch on the device of its tensors.
    ///
    /// # Errors
    /// If a tensor is not contiguous or the device fails.
    pub fn run(self) -> Result<()> {
        let mut device = &Device::Cpu;
        for arg in &self.args {
            if let Arg::Read(tensor) | Arg::Write(tensor) = arg {
                device = tensor.device();
                if !tensor.is_contiguous() {
                    return Err(
                        candle_core::Error::msg(format!("{}: {tensor:?} is not contiguous", self.kernel)).into()
                    );
                }
            }
        }
        if self.grid.contains(&0) {
            return Ok(());
        }
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => super::cuda::launch(device, &self),
            _ => host::launch(&self),
        }
    }
}
