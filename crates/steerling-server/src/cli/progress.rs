//! The bar that all commands show while something long is read or written.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use steerling::{Error, ModelSource, Runtime, RuntimeOptions};

use super::doctor::memory::installed;

/// Bytes of pages, as the user gives them.
const CACHE: &str = "--kv-cache-mib";

/// A bar of bytes done, in total and a second, and of time, on standard error; nothing where that is no terminal.
/// Call it with bytes done and in total; it vanishes when dropped.
pub(crate) fn bar(label: &str) -> impl FnMut(u64, u64) + use<> {
    let template = "{prefix} [{bar:24}] {bytes}/{total_bytes} {bytes_per_sec} {elapsed}, {eta} left";
    let style =
        ProgressStyle::with_template(template).expect("the template names only keys that exist").progress_chars("█▌░");
    // Nothing is drawn before the first call: what fails at once shows no bar.
    let bar = ProgressBar::new(0).with_style(style).with_prefix(label.to_owned()).with_finish(ProgressFinish::AndClear);
    let mut started = false;
    move |done, total| {
        if !std::mem::replace(&mut started, true) {
            bar.reset();
            // A large tensor takes seconds: the clock should go on.
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        bar.set_length(total);
        bar.set_position(done);
    }
}

/// Loads a model and shows how far it is.
///
/// # Errors
/// Those of [`Runtime::load`], and of pages that this machine can never hold; what is wrong with them names the flag.
pub(crate) fn load(source: &ModelSource, options: &RuntimeOptions) -> steerling::Result<Runtime> {
    check_cache(options)?;
    Runtime::load(source, options, &mut bar("loading")).map_err(|error| match error {
        Error::Invalid { field, message } if field == "kv_bytes" => Error::invalid(CACHE, message),
        other => other,
    })
}

/// Rejects pages beyond the memory of this machine. They are given memory only when they are used, so the default is
/// right for a small machine, too.
fn check_cache(options: &RuntimeOptions) -> steerling::Result<()> {
    let most = installed().unwrap_or(u64::MAX).max(RuntimeOptions::default().kv_bytes);
    if options.kv_bytes <= most || !options.compute()?.device.is_cpu() {
        return Ok(());
    }
    let [asked, most] = [options.kv_bytes, most].map(|bytes| bytes >> 20);
    Err(Error::invalid(CACHE, format!("{asked} MiB is above the maximum of {most} MiB, all memory of this machine")))
}
