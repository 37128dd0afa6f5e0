//! Sleep and wake.

use crate::wake::{Flag, may_sleep, must_ring};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// The workers' flag, as loom sees it.
struct Modelled(AtomicBool);

impl Flag for Modelled {
    fn set(&self, value: bool) {
        self.0.store(value, Ordering::Relaxed);
    }
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
    fn peek(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// Producers push; the worker decides to sleep. Whatever the order, when it sleeps on a queue that is not empty, one of them
/// rings, once.
fn explore(producers: usize, preemption_bound: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemption_bound;
    model.check(move || {
        let asleep = Arc::new(Modelled(AtomicBool::new(false)));
        let queue = Arc::new(AtomicUsize::new(0));
        let bell = Arc::new(AtomicUsize::new(0));
        let producers: Vec<_> = (0..producers)
            .map(|_| {
                let (asleep, queue, bell) = (asleep.clone(), queue.clone(), bell.clone());
                loom::thread::spawn(move || {
                    queue.fetch_add(1, Ordering::Relaxed);
                    if must_ring(&*asleep) {
                        bell.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let sleeps = may_sleep(&*asleep, || queue.load(Ordering::Relaxed) > 0);
        for producer in producers {
            producer.join().unwrap();
        }
        if sleeps {
            assert_eq!(bell.load(Ordering::Relaxed), 1);
        }
    });
}

#[test]
fn a_push_is_never_slept_through() {
    explore(1, None);
}

/// All interleavings of three threads take minutes; those with two preemptions are where such errors are.
#[test]
fn of_two_pushes_one_rings() {
    explore(2, Some(2));
}
