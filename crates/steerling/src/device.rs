//! What a device can do at best, measured, and how much of its memory was used.

use std::fs::read_to_string;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::Result;
use crate::backbone::Compute;
use crate::kernels::matmul::{Dot, PackedMatrix};

/// Seconds that a measurement takes at least: the start and the end of a queue are then lost in it.
const LONG_ENOUGH: f64 = 0.1;
/// Times that everything is measured; the fastest counts.
const ROUNDS: usize = 3;

/// The two speeds that bound a step from below.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speeds {
    /// Bytes a second that a copy within the memory of the device reads and writes, together.
    pub bandwidth: f64,
    /// Floating-point operations a second of a large matrix product, as the model computes its own.
    pub throughput: f64,
}

impl Speeds {
    /// Measures a device, in well under a second on a GPU and a few seconds on a CPU. It should have nothing else to do.
    ///
    /// # Errors
    /// If the device fails, or has no room for 2 GiB (on the CPU 256 MiB).
    pub fn measure(compute: &Compute) -> Result<Self> {
        let cpu = compute.device.is_cpu();
        Ok(Self {
            bandwidth: if cpu { copy_on_host(1 << 25)? } else { copy_on_device(&compute.device, 1 << 28)? },
            throughput: match compute.has_kernels() {
                true => packed_product(compute, 2048)?,
                false => product(compute, if cpu { 512 } else { 8192 })?,
            },
        })
    }
}

/// Seconds of one `work` among many that are queued one behind the other.
fn seconds_each(device: &Device, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut many = |n: usize| -> Result<f64> {
        let start = Instant::now();
        (0..n).try_for_each(|_| work())?;
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64())
    };
    many(1)?;
    let (mut n, mut rounds, mut best) = (1, 0, f64::INFINITY);
    while rounds < ROUNDS {
        let seconds = many(n)?;
        if seconds < LONG_ENOUGH {
            n *= 2;
            continue;
        }
        best = best.min(seconds / n as f64);
        rounds += 1;
    }
    Ok(best)
}

/// Bytes a second of a copy of `n` floats by all threads.
fn copy_on_host(n: usize) -> Result<f64> {
    const PIECE: usize = 1 << 16;
    let (source, mut target) = (vec![1f32; n], vec![0f32; n]);
    let seconds = seconds_each(&Device::Cpu, || {
        target.par_chunks_mut(PIECE).zip(source.par_chunks(PIECE)).for_each(|(target, source)| {
            target.copy_from_slice(source);
        });
        std::hint::black_box(&mut target);
        Ok(())
    })?;
    Ok((8 * n) as f64 / seconds)
}

/// Bytes a second of a copy of a tensor of `n` floats.
fn copy_on_device(device: &Device, n: usize) -> Result<f64> {
    let source = Tensor::ones(n, DType::F32, device)?;
    // What is freed is taken again by the next copy in the queue.
    let seconds = seconds_each(device, || Ok(source.copy().map(drop)?))?;
    Ok((8 * n) as f64 / seconds)
}

/// Operations a second of `[n, n] [n, n]` by the CPU kernels.
fn packed_product(compute: &Compute, n: usize) -> Result<f64> {
    let fill = |row: usize, values: &mut [f32]| {
        values.iter_mut().enumerate().for_each(|(i, value)| *value = ((row * 31 + i * 7) % 13) as f32 - 6.0);
    };
    let matrix = match compute.dtype {
        DType::BF16 => PackedMatrix::pack_bf16_with(n, n, Dot::fastest(), fill),
        _ => PackedMatrix::pack_with(n, n, fill),
    };
    let (mut x, mut out) = (vec![0f32; n * n], vec![0f32; n * n]);
    x.chunks_mut(n).enumerate().for_each(|(row, values)| fill(row, values));
    let seconds = seconds_each(&Device::Cpu, || {
        matrix.matmul(&x, &mut out);
        std::hint::black_box(&mut out);
        Ok(())
    })?;
    Ok(2.0 * (n as f64).powi(3) / seconds)
}

/// Operations a second of `[n, n] [n, n]` by candle. The numbers are random: products of zeros draw less power, and a
/// GPU is then faster than with weights.
fn product(compute: &Compute, n: usize) -> Result<f64> {
    let random = || Tensor::randn(0f32, 1.0, (n, n), &compute.device)?.to_dtype(compute.dtype);
    let (a, b) = (random()?, random()?);
    let seconds = seconds_each(&compute.device, || Ok(a.matmul(&b).map(drop)?))?;
    Ok(2.0 * (n as f64).powi(3) / seconds)
}

/// Bytes of memory on a device: of the machine, or of the container around this process if that has less; of the GPU.
/// `None` if the system does not tell.
pub fn total_memory(device: &Device) -> Option<u64> {
    match device.is_cpu() {
        true => host_memory(
            &read_to_string("/proc/meminfo").unwrap_or_default(),
            &read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default(),
        ),
        false => gpu_memory(device),
    }
}

fn host_memory(meminfo: &str, group: &str) -> Option<u64> {
    let machine = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let machine = machine.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map(|kib| kib << 10);
    // `max` is no limit.
    machine.into_iter().chain(group.trim().parse::<u64>().ok()).min()
}

#[cfg(feature = "cuda")]
fn gpu_memory(device: &Device) -> Option<u64> {
    let (_, total) = device.as_cuda_device().ok()?.cuda_stream().context().mem_get_info().ok()?;
    Some(total as u64)
}

#[cfg(not(feature = "cuda"))]
fn gpu_memory(_device: &Device) -> Option<u64> {
    None
}

/// Bytes that gradients may take where nothing else is said: a quarter of the device's memory, which also holds weights,
/// pages and steps; 4 GiB if the system does not tell how much that is.
pub(crate) fn gradient_bytes(device: &Device) -> u64 {
    total_memory(device).map_or(4 << 30, |total| total / 4)
}

/// The most bytes of a GPU's memory that were in use at once since the start, what other programs hold of it now
/// included; `None` on the CPU, or if the driver does not tell.
#[cfg(feature = "cuda")]
pub fn peak_memory(device: &Device) -> Option<u64> {
    use candle_core::cuda_backend::cudarc::driver::{result, sys::CUmemPool_attribute as Attribute};

    let stream = device.as_cuda_device().ok()?.cuda_stream();
    let context = stream.context();
    let (free, total) = context.mem_get_info().ok()?;
    let of_pool = |attribute: Attribute| -> Option<u64> {
        let mut bytes = 0u64;
        #[expect(unsafe_code, reason = "the driver's own figures have no safe wrapper")]
        // SAFETY: the device is that of a live context, the pool is its own, and both attributes are 64-bit numbers.
        unsafe {
            let pool = result::device::get_mem_pool(context.cu_device()).ok()?;
            result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()).ok()?;
        }
        Some(bytes)
    };
    // Tensors lie in the pool, which gives back what is free; the rest (weights of kernels, workspaces) stays.
    let now = of_pool(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    let peak = of_pool(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)?;
    Some((total - free) as u64 + peak.saturating_sub(now))
}

/// The most bytes of a GPU's memory that were in use at once since the start; `None`: this build knows no GPU.
#[cfg(not(feature = "cuda"))]
pub fn peak_memory(_device: &Device) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_of_the_order_that_processors_have() {
        for dtype in [DType::F32, DType::BF16, DType::F64] {
            let Speeds { bandwidth, throughput } = Speeds::measure(&Compute { dtype, ..Compute::cpu_f32() }).unwrap();
            assert!((1e8..1e13).contains(&bandwidth), "{bandwidth:e} bytes/s");
            assert!((1e8..1e15).contains(&throughput), "{throughput:e} operations/s in {dtype:?}");
        }
    }

    #[test]
    fn memory_is_that_of_the_machine_or_of_a_smaller_container() {
        assert_eq!(host_memory("MemTotal:   8 kB\nMemFree: 4 kB\n", "max\n"), Some(8192));
        assert_eq!(host_memory("MemTotal:   8 kB\n", "5000\n"), Some(5000));
        assert_eq!(host_memory("", ""), None);
    }

    /// What a GPU is measured by works on any device.
    #[test]
    fn a_device_is_measured_by_copies_and_products_of_tensors() {
        assert!(copy_on_device(&Device::Cpu, 1 << 16).unwrap() > 1e8);
        assert!(product(&Compute::cpu_f32(), 64).unwrap() > 1e7);
        assert_eq!(peak_memory(&Device::Cpu), None);
    }
}
