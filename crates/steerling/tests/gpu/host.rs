//! Compiles the kernels with a host for their threads, and runs launches there.

use std::ffi::{CStr, CString, c_char, c_void};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use libloading::Library;
use steerling::gpu::host::{HostArg, run_with};

/// `run_kernel` of `host_end.h`.
type RunKernel = unsafe extern "C" fn(*const c_char, *const u32, u32, *mut *mut c_void, u32) -> *const c_char;

/// Kernels keep the state of a block in static memory: one launch at a time.
static LIBRARY: OnceLock<Mutex<Library>> = OnceLock::new();

/// Compiles the kernels, once, and runs launches on the CPU with them from then on.
pub(crate) fn compile() {
    LIBRARY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (source, library) = (dir.path().join("kernels.cpp"), dir.path().join("kernels.so"));
        let text = [include_str!("host.h"), steerling::gpu::SOURCE, include_str!("host_end.h")].concat();
        std::fs::write(&source, text).unwrap();
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        // Contraction would round where the plain version does not; unrolling is a matter of the GPU.
        let flags = ["-std=c++20", "-O2", "-shared", "-fPIC", "-fno-strict-aliasing", "-ffp-contract=off"];
        let output = Command::new(&compiler)
            .args(flags)
            .args(["-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function", "-U_FORTIFY_SOURCE", "-o"])
            .args([&library, &source])
            .output()
            .unwrap_or_else(|error| panic!("the kernels are tested with a C++ compiler ({compiler}): {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        #[expect(unsafe_code, reason = "loads what was just compiled")]
        // SAFETY: its initialisers list the kernels and do nothing else.
        let loaded = unsafe { Library::new(&library) }.unwrap();
        Mutex::new(loaded)
    });
    run_with(run);
}

fn run(kernel: &str, grid: [u32; 3], block: u32, args: &mut [HostArg]) -> Result<(), String> {
    let library = LIBRARY.get().expect("launches run once the kernels are compiled");
    let library = library.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let name = CString::new(kernel).unwrap();
    // Pointers are passed by reference, as the driver does it.
    let mut pointers: Vec<*mut c_void> = args.iter_mut().map(pointer).collect();
    let by_reference = |(arg, pointer): (&mut HostArg, &mut *mut c_void)| -> *mut c_void {
        match arg {
            HostArg::Word(word) => std::ptr::from_mut(word).cast(),
            HostArg::Buffer(_) | HostArg::Null => std::ptr::from_mut(pointer).cast(),
        }
    };
    let mut values: Vec<*mut c_void> = args.iter_mut().zip(&mut pointers).map(by_reference).collect();
    #[expect(unsafe_code, reason = "calls the compiled kernels")]
    // SAFETY: the function has this type; name, grid and arguments live until it returns, and it checks their number. That
    // kernels stay within their buffers is what these tests are about.
    let failed = unsafe {
        let run_kernel = library.get::<RunKernel>(b"run_kernel").unwrap();
        run_kernel(name.as_ptr(), grid.as_ptr(), block, values.as_mut_ptr(), values.len() as u32)
    };
    if failed.is_null() {
        return Ok(());
    }
    #[expect(unsafe_code, reason = "reads the message")]
    // SAFETY: what is not null is a static string.
    Err(unsafe { CStr::from_ptr(failed) }.to_string_lossy().into_owned())
}

fn pointer(arg: &mut HostArg) -> *mut c_void {
    match arg {
        HostArg::Buffer(bytes) => bytes.as_mut_ptr().cast(),
        HostArg::Null | HostArg::Word(_) => std::ptr::null_mut(),
    }
}
