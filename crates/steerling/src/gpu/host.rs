//! Launches on the host, for tests: whoever can run the kernels there says so with [`run_with`].

use std::sync::OnceLock;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor};
use half::bf16;

use super::launch::{Arg, Launch};
use crate::{Error, Result};

/// An argument of a kernel on the host.
#[derive(Debug)]
pub enum HostArg {
    /// What the pointer points to.
    Buffer(Vec<u8>),
    /// No pointer.
    Null,
    /// A number of 32 bits.
    Word(u32),
}

/// Runs the kernel of a name on a grid of blocks of so many threads.
pub type Runner = fn(&str, [u32; 3], u32, &mut [HostArg]) -> std::result::Result<(), String>;

static RUNNER: OnceLock<Runner> = OnceLock::new();

/// From now on launches on tensors of the CPU are run by `runner`.
pub fn run_with(runner: Runner) {
    _ = RUNNER.set(runner);
}

pub(super) fn launch(launch: &Launch) -> Result<()> {
    let Some(runner) = RUNNER.get() else {
        return Err(Error::Unsupported(format!("kernel {} on the host", launch.kernel)));
    };
    let mut args = launch.args.iter().map(to_host).collect::<Result<Vec<_>>>()?;
    runner(&launch.kernel, launch.grid, launch.block, &mut args)
        .map_err(|why| candle_core::Error::msg(format!("{}: {why}", launch.kernel)))?;
    for (arg, host) in launch.args.iter().zip(args) {
        if let (Arg::Write(tensor), HostArg::Buffer(bytes)) = (arg, host) {
            tensor.inplace_op1(&Replace(bytes))?;
        }
    }
    Ok(())
}

fn to_host(arg: &Arg) -> Result<HostArg> {
    Ok(match *arg {
        Arg::Null => HostArg::Null,
        Arg::U32(n) => HostArg::Word(n),
        Arg::F32(x) => HostArg::Word(x.to_bits()),
        Arg::Read(tensor) | Arg::Write(tensor) => HostArg::Buffer(bytes(tensor)?),
    })
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => flat.to_vec1::<f32>()?.into_iter().flat_map(f32::to_ne_bytes).collect(),
        DType::U32 => flat.to_vec1::<u32>()?.into_iter().flat_map(u32::to_ne_bytes).collect(),
        DType::BF16 => flat.to_vec1::<bf16>()?.into_iter().flat_map(bf16::to_ne_bytes).collect(),
        other => return Err(Error::Unsupported(format!("kernels on {other:?}"))),
    })
}

/// Puts bytes in the place of a tensor's.
struct Replace(Vec<u8>);

impl InplaceOp1 for Replace {
    fn name(&self) -> &'static str {
        "replace"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let Some((from, to)) = layout.contiguous_offsets() else { candle_core::bail!("a tensor with gaps") };
        match storage {
            CpuStorage::F32(to_fill) => fill(&mut to_fill[from..to], &self.0, f32::from_ne_bytes),
            CpuStorage::U32(to_fill) => fill(&mut to_fill[from..to], &self.0, u32::from_ne_bytes),
            CpuStorage::BF16(to_fill) => fill(&mut to_fill[from..to], &self.0, bf16::from_ne_bytes),
            _ => candle_core::bail!("kernels do not know this type"),
        }
        Ok(())
    }
}

fn fill<T, const N: usize>(to: &mut [T], bytes: &[u8], number: impl Fn([u8; N]) -> T) {
    for (to, bytes) in to.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *to = number(*bytes);
    }
}
