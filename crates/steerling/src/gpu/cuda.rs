//! Launches on a GPU.

use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg, sys};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts, sys as nvrtc};
use candle_core::cuda_backend::{CudaDevice, CudaStorage};
use candle_core::{DType, Device, Shape, Storage, Tensor};
use half::bf16;

use super::launch::{Arg, Launch};
use crate::{Error, Result};

/// The compiled kernels. All GPUs of a machine are taken to be of one kind.
static PTX: OnceLock<String> = OnceLock::new();

fn ptx(device: &CudaDevice) -> Result<&'static str> {
    if let Some(ptx) = PTX.get() {
        return Ok(ptx);
    }
    #[expect(unsafe_code, reason = "only opens NVRTC's library")]
    // SAFETY: loading the library runs its initialisers, and nothing else of it is called.
    let present = unsafe { nvrtc::is_culib_present() };
    if !present {
        let message =
            "kernels are compiled at start by NVRTC, whose library (libnvrtc) is not on this machine's library path";
        return Err(Error::Unsupported(message.into()));
    }
    let failed = |error: &dyn std::fmt::Display| candle_core::Error::msg(format!("kernels: {error}"));
    let (major, minor) =
        device.cuda_stream().context().compute_capability().map_err(|error| failed(&format!("{error:?}")))?;
    let options = CompileOptions {
        options: vec![format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++17".into()],
        ..CompileOptions::default()
    };
    let ptx = compile_ptx_with_opts(super::SOURCE, options).map_err(|error| failed(&format!("{error:?}")))?;
    Ok(PTX.get_or_init(|| ptx.to_src()))
}

/// Compiles the kernels, and lets freed memory stay with the process: a step frees and takes the same sizes again.
pub(super) fn prepare(device: &CudaDevice) -> Result<()> {
    device.get_or_load_custom_func("row_stats", "steerling", ptx(device)?)?;
    keep_memory(device)
}

fn keep_memory(device: &CudaDevice) -> Result<()> {
    let failed = |error: sys::CUresult| candle_core::Error::msg(format!("memory pool: {error:?}"));
    let ordinal = device.cuda_stream().context().ordinal() as i32;
    let mut pool = std::ptr::null_mut();
    let mut all = u64::MAX;
    #[expect(unsafe_code, reason = "candle has no call for the pool's threshold")]
    // SAFETY: the driver is initialised, as `device` exists; both calls write to or read from the locals they are given, of
    // the types that the attribute has.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, ordinal).result().map_err(|error| failed(error.0))?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let value = std::ptr::from_mut(&mut all).cast();
        sys::cuMemPoolSetAttribute(pool, attribute, value).result().map_err(|error| failed(error.0))?;
        // Everything runs on one stream of one thread, so events that order streams only cost time.
        device.disable_event_tracking();
    }
    Ok(())
}

/// A tensor with undefined contents.
pub(super) fn unwritten(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    #[expect(unsafe_code, reason = "clearing what is written at once would be a launch more for each kernel")]
    // SAFETY: the contents are numbers, of which every pattern of bits is one, and the callers' kernels write all of them.
    unsafe {
        Ok(Tensor::empty(shape, dtype, device)?)
    }
}

/// An argument as the driver takes it.
enum Value {
    Pointer(u64),
    U32(u32),
    F32(f32),
}

pub(super) fn launch(device: &CudaDevice, launch: &Launch) -> Result<()> {
    let values = launch.args.iter().map(value).collect::<Result<Vec<_>>>()?;
    let function = device.get_or_load_custom_func(&launch.kernel, "steerling", ptx(device)?)?;
    let mut builder = function.builder();
    for value in &values {
        match value {
            Value::Pointer(pointer) => builder.arg(pointer),
            Value::U32(number) => builder.arg(number),
            Value::F32(number) => builder.arg(number),
        };
    }
    let [x, y, z] = launch.grid;
    let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (launch.block, 1, 1), shared_mem_bytes: 0 };
    #[expect(unsafe_code, reason = "the only way to launch a kernel")]
    // SAFETY: the arguments have the number and types of the kernel's parameters, which the tests check by running every launch
    // on the host; the pointers are those of live, contiguous tensors on this device, which a stream frees only behind
    // what was queued before. Kernels stay within the shapes that come along.
    unsafe {
        builder.launch(config).map_err(|error| candle_core::Error::msg(format!("{}: {error:?}", launch.kernel)))?;
    }
    Ok(())
}

fn value(arg: &Arg) -> Result<Value> {
    Ok(match *arg {
        Arg::Null => Value::Pointer(0),
        Arg::U32(number) => Value::U32(number),
        Arg::F32(number) => Value::F32(number),
        Arg::Read(tensor) | Arg::Write(tensor) => {
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else {
                return Err(candle_core::Error::msg("a kernel's tensors are on one device").into());
            };
            let offset = layout.start_offset() * tensor.dtype().size_in_bytes();
            Value::Pointer(pointer(storage, tensor.dtype())? + offset as u64)
        }
    })
}

fn pointer(storage: &CudaStorage, dtype: DType) -> Result<u64> {
    let stream = storage.device().cuda_stream();
    Ok(match dtype {
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0,
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
        other => return Err(Error::Unsupported(format!("kernels on {other:?}"))),
    })
}
