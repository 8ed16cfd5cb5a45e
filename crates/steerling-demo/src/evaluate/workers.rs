//! Several runtimes of one model that share out a list of jobs.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::ProgressBar;
use rayon::{ThreadPool, ThreadPoolBuilder};
use steerling::{DeviceChoice, DtypeChoice, Error, ModelSource, Result, Runtime, RuntimeOptions};

use crate::concepts::CONCEPTS;

/// Pages for two dozen whole contexts of a model of the demo's size.
const KV_BYTES: u64 = 256 << 20;

/// Runtimes of one model, each with a thread of its own: the model is so small that its products are not worth sharing.
pub(super) struct Workers {
    workers: Vec<(Runtime, ThreadPool)>,
    progress: ProgressBar,
}

impl Workers {
    /// Loads the model `threads` times, on the CPU in float32, so that the same numbers come out on every machine
    /// with the same instructions.
    ///
    /// # Errors
    /// Those of [`Runtime::load`]; [`Error::Checkpoint`] for a model that does not have the demo's known concepts;
    /// [`Error::Unsupported`] if a thread cannot be started.
    pub(super) fn load(dir: &Path, threads: usize, progress: ProgressBar) -> Result<Self> {
        let options = RuntimeOptions {
            device: DeviceChoice::Cpu,
            dtype: DtypeChoice::F32,
            kv_bytes: KV_BYTES,
            ..RuntimeOptions::default()
        };
        let source = ModelSource::Directory(dir.to_owned());
        let load = |_| {
            let pool = ThreadPoolBuilder::new().num_threads(1).build();
            let pool = pool.map_err(|error| Error::Unsupported(format!("{threads} threads: {error}")))?;
            Ok((Runtime::load(&source, &options, &mut |_, _| ())?, pool))
        };
        let workers = Self { workers: (0..threads.max(1)).map(load).collect::<Result<_>>()?, progress };
        let known = workers.runtime().catalog().known_len();
        if known != CONCEPTS.len() {
            let message = format!("has {known} known concepts, the demo model has {}", CONCEPTS.len());
            return Err(Error::Checkpoint { path: dir.to_owned(), message });
        }
        Ok(workers)
    }

    /// One of the runtimes.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.workers[0].0
    }

    /// Names what is being done.
    pub(super) fn stage(&self, name: &'static str) {
        self.progress.set_message(name);
    }

    /// Does jobs, at most `batch` of them at a time, and returns their results in order.
    ///
    /// Which runtime does a batch makes no difference: a row's arithmetic does not depend on what else is computed.
    ///
    /// # Errors
    /// The first error of `work`; batches that nobody has begun by then are not begun.
    pub(super) fn run<T: Sync, R: Send>(
        &mut self,
        jobs: &[T],
        batch: usize,
        work: impl Fn(&mut Runtime, &[T]) -> Result<Vec<R>> + Sync,
    ) -> Result<Vec<R>> {
        // A short list is shared out as well.
        let batch = batch.min(jobs.len().div_ceil(self.workers.len())).max(1);
        let batches: Vec<&[T]> = jobs.chunks(batch).collect();
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<(usize, Result<Vec<R>>)>> = Mutex::new(Vec::new());
        self.progress.set_length(jobs.len() as u64);
        self.progress.set_position(0);
        std::thread::scope(|scope| {
            for (runtime, pool) in &mut self.workers {
                scope.spawn(|| {
                    pool.install(|| {
                        while let Some((index, jobs)) = take(&next, &batches) {
                            let result = work(runtime, jobs);
                            if result.is_err() {
                                next.store(batches.len(), Ordering::Relaxed);
                            }
                            results.lock().expect("no worker panics while it adds a result").push((index, result));
                            self.progress.inc(jobs.len() as u64);
                        }
                    });
                });
            }
        });
        let mut results = results.into_inner().expect("a worker's panic has ended the scope already");
        results.sort_by_key(|(index, _)| *index);
        let mut all = Vec::with_capacity(jobs.len());
        for (_, result) in results {
            all.extend(result?);
        }
        Ok(all)
    }
}

fn take<'a, T>(next: &AtomicUsize, batches: &[&'a [T]]) -> Option<(usize, &'a [T])> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    batches.get(index).map(|jobs| (index, *jobs))
}
