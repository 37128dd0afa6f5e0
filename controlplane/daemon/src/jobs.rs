//! The pool that does public-key work, away from the control thread and the workers, and threads for what may wait.
//!
//! What Kerberos does may take as long as a KDC takes, so it is not the pool's. Nor may a KDC that is silent use up what
//! peers with a ticket need: calls that ask it have threads of their own number. The engine's deadline ends the
//! negotiation; the thread ends when the library gives up, and its result is then nobody's.

use af_xdp::wait::EventFd;
use crossbeam::channel::{Receiver, Sender, unbounded};
use ike::job::{Job, JobDone};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Calls at a time that may wait for a KDC. Beyond, the negotiation fails at once: when a KDC is silent, more threads
/// would only wait too.
const MAX_SLOW: usize = 16;

/// Other calls to Kerberos at a time: they take a millisecond.
const MAX_QUICK: usize = 32;

/// A rayon pool and the way back from it. How many jobs there are at a time is bounded by the
/// engine, which makes one per exchange of an IKE SA at most.
pub(crate) struct Jobs {
    pool: rayon::ThreadPool,
    done: (Sender<JobDone>, Receiver<JobDone>),
    bell: Arc<EventFd>,
    pending: usize,
    slow: Arc<AtomicUsize>,
    quick: Arc<AtomicUsize>,
}

/// One of the threads that may be: counted from before it starts until it ends, whatever happens in it.
struct Place(Arc<AtomicUsize>);

impl Place {
    /// `None` when there are as many as may be. Only the control thread takes places.
    fn take(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        if count.load(Ordering::Relaxed) >= most {
            return None;
        }
        count.fetch_add(1, Ordering::Relaxed);
        Some(Self(Arc::clone(count)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
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
        Ok(Self {
            pool,
            done: unbounded(),
            bell: Arc::new(EventFd::new()?),
            pending: 0,
            slow: Arc::default(),
            quick: Arc::default(),
        })
    }

    /// Threads of the pool.
    pub(crate) fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Jobs given to the pool that have not come back.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Gives a job to the pool, or to a thread of its own where it may wait.
    pub(crate) fn submit(&mut self, job: Job) {
        let (done, bell) = (self.done.0.clone(), Arc::clone(&self.bell));
        if let Some(slow) = job.waits() {
            let place = match slow {
                true => Place::take(&self.slow, MAX_SLOW),
                false => Place::take(&self.quick, MAX_QUICK),
            };
            let mut job = Some(job);
            if let Some(place) = place {
                let (sender, bell, given) = (done.clone(), Arc::clone(&bell), job.take());
                let started = thread::Builder::new().name("kerberos".to_owned()).spawn(move || {
                    let _ = given.map(|job| sender.send(job.run()));
                    drop(place);
                    bell.ring();
                });
                if let Err(error) = started {
                    // The job went with the thread: its deadline ends the negotiation.
                    tracing::warn!(%error, "no thread for Kerberos");
                }
            }
            if let Some(job) = job {
                tracing::warn!("Kerberos is busy: a negotiation is refused");
                let _ = done.send(job.refuse());
                bell.ring();
            }
            return;
        }
        self.pending += 1;
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
        if !done.waited() {
            self.pending -= 1;
        }
        Some(done)
    }

    /// Readable when a job is done.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
