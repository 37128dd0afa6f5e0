//! The pool that does public-key work, away from the control thread and the workers.

use af_xdp::wait::EventFd;
use crossbeam::channel::{Receiver, Sender, unbounded};
use ike::job::{Job, JobDone};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A rayon pool and the way back from it. How many jobs there are at a time is bounded by the
/// engine, which makes one per exchange of an IKE SA at most.
pub(crate) struct Jobs {
    pool: rayon::ThreadPool,
    done: (Sender<JobDone>, Receiver<JobDone>),
    bell: Arc<EventFd>,
    pending: usize,
}

impl Jobs {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// The system's, when it has no thread or descriptor left.
    pub(crate) fn new(threads: usize) -> io::Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|n| format!("public-key-{n}"))
            .build()
            .map_err(io::Error::other)?;
        Ok(Self { pool, done: unbounded(), bell: Arc::new(EventFd::new()?), pending: 0 })
    }

    /// Threads of the pool.
    pub(crate) fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Jobs given to the pool that have not come back.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Gives a job to the pool.
    pub(crate) fn submit(&mut self, job: Job) {
        self.pending += 1;
        let (done, bell) = (self.done.0.clone(), Arc::clone(&self.bell));
        self.pool.spawn(move || {
            // The receiver lives as long as the pool.
            let _ = done.send(job.run());
            bell.ring();
        });
    }

    /// The next finished job.
    pub(crate) fn poll(&mut self) -> Option<JobDone> {
        let done = self.done.1.try_recv().ok().or_else(|| {
            // Cleared before the last look, so that a job done after it makes the descriptor
            // readable.
            self.bell.clear();
            self.done.1.try_recv().ok()
        })?;
        self.pending -= 1;
        Some(done)
    }

    /// Readable when a job is done.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
