//! The most memory that was used at once.

use serde::Serialize;
use steerling::Runtime;
use steerling::device::peak_memory;

/// High-water marks in MiB, where the system or the driver tells.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Peaks {
    /// Resident memory of this process.
    pub(super) peak_memory_mib: Option<u64>,
    /// Memory of the GPU, that of other programs included.
    pub(super) peak_device_memory_mib: Option<u64>,
}

impl Peaks {
    /// So far.
    pub(super) fn so_far(runtime: &Runtime) -> Self {
        let device = peak_memory(&runtime.model().backbone().compute().device);
        Self { peak_memory_mib: resident_mib(), peak_device_memory_mib: device.map(|bytes| bytes >> 20) }
    }
}

/// `VmHWM` of this process.
fn resident_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}
