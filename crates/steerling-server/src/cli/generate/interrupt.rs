//! Ctrl-C: the first ends the generation after its step, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use console::Term;

/// What shells make of a process that SIGINT ended.
pub(super) const EXIT_CODE: i32 = 130;

/// Whether Ctrl-C was pressed.
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on Ctrl-C does not end the process at once.
    ///
    /// # Errors
    /// If the system lets nobody listen to signals.
    pub(super) fn watch() -> Result<Self> {
        let seen = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot listen to Ctrl-C")?;
        let flag = seen.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                if tokio::signal::ctrl_c().await.is_err() {
                    return;
                }
                flag.store(true, Ordering::Relaxed);
                if tokio::signal::ctrl_c().await.is_ok() {
                    _ = Term::stdout().show_cursor();
                    std::process::exit(EXIT_CODE);
                }
            });
        });
        Ok(Self(seen))
    }

    pub(super) fn seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
