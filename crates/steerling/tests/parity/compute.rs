//! Where these tests compute, and how far numbers may be off there.
//!
//! `STEERLING_TEST_DEVICE` (`cpu`, `cuda`, `cuda:N`) and `STEERLING_TEST_DTYPE` (`f32`, `f64`) choose; without them it is
//! float32 on the CPU. float64 takes the operations that a GPU takes, not the kernels. What 16 bits promise is tested in
//! [`crate::half`], on the same device.

use std::sync::LazyLock;

use candle_core::{DType, Device, Tensor};
use steerling::backbone::Compute;
use steerling::canvas::Commit;
use steerling::{DeviceChoice, RuntimeOptions};

/// One device for all models: a GPU takes long to open.
static COMPUTE: LazyLock<Compute> = LazyLock::new(crate::device);

/// The device and type that the environment asks for.
pub(crate) fn by_environment() -> Compute {
    let variable = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let device: DeviceChoice = variable("STEERLING_TEST_DEVICE", "cpu").parse().unwrap();
    let dtype = match variable("STEERLING_TEST_DTYPE", "f32").as_str() {
        "f32" => DType::F32,
        "f64" => DType::F64,
        other => panic!("STEERLING_TEST_DTYPE: `{other}` is not f32 or f64"),
    };
    let device = RuntimeOptions { device, ..RuntimeOptions::default() }.compute().unwrap().device;
    Compute { device, dtype, gpu_on_host: false }
}

/// Where these tests compute.
pub(crate) fn compute() -> Compute {
    COMPUTE.clone()
}

/// The same device in another type.
pub(crate) fn compute_in(dtype: DType) -> Compute {
    Compute { dtype, ..compute() }
}

/// Whether nothing depends on who shares a batch, to the bit: the CPU kernels promise it, products of other shapes elsewhere
/// take sums in another order.
pub(crate) fn is_strict() -> bool {
    COMPUTE.has_kernels()
}

/// What a tolerance of float32 on the CPU becomes: a GPU takes sums in another order, and in another one for every number
/// of rows.
pub(crate) fn within<T: From<f32> + std::ops::Mul<Output = T>>(tolerance: T) -> T {
    tolerance * T::from(if COMPUTE.device.is_cpu() { 1.0 } else { 10.0 })
}

/// A tensor where any other can be held against it.
pub(crate) fn on_host(x: &Tensor) -> Tensor {
    x.to_device(&Device::Cpu).unwrap()
}

/// Fails unless two generations are the same: to the bit where that is promised; elsewhere up to a commit that two
/// candidates of nearly equal confidence contended for. Whether they are the same to the end.
pub(crate) fn same_commits(what: &str, ours: &[Commit], theirs: &[Commit]) -> bool {
    same_commits_within(what, ours, theirs, within(1e-4))
}

/// The same for confidences that may be off by so much where they are not equal to the bit.
pub(crate) fn same_commits_within(what: &str, ours: &[Commit], theirs: &[Commit], tolerance: f32) -> bool {
    if is_strict() {
        assert_eq!(ours, theirs, "{what}");
        return true;
    }
    for (ours, theirs) in ours.iter().zip(theirs) {
        let off = (ours.confidence - theirs.confidence).abs();
        assert!(off <= tolerance, "{what}: {ours:?} for {theirs:?}");
        if (ours.position, ours.id) != (theirs.position, theirs.id) {
            return false;
        }
    }
    assert_eq!(ours.len(), theirs.len(), "{what}");
    true
}
