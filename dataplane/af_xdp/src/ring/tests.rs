//! The ring against a `VecDeque`, and under loom.

#[cfg(not(loom))]
mod sequential {
    use super::super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Push(u32),
        Publish,
        Pop(u32),
        Release,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (1u32..12).prop_map(Op::Push),
            Just(Op::Publish),
            (1u32..12).prop_map(Op::Pop),
            Just(Op::Release),
        ]
    }

    proptest! {
        /// The oracle: what is pushed, published, popped and given back, as four counts over one deque.
        #[test]
        fn a_ring_is_a_bounded_queue(
            log in 0u32..5,
            first in prop_oneof![Just(0u32), (u32::MAX - 40)..=u32::MAX],
            ops in proptest::collection::vec(op(), 1..200),
        ) {
            let size = 1u32 << log;
            let (mut producer, mut consumer) = heap_from::<u64>(size, first);
            let mut hidden = VecDeque::new();
            let mut shown = VecDeque::new();
            let (mut next, mut held) = (0u64, 0u32);
            for op in ops {
                match op {
                    Op::Push(n) => for _ in 0..n {
                        let used = hidden.len() + shown.len() + held as usize;
                        let full = used == size as usize;
                        prop_assert_eq!(producer.push(next).is_err(), full);
                        if !full { hidden.push_back(next); next += 1; }
                    },
                    Op::Publish => { producer.publish(); shown.append(&mut hidden); }
                    Op::Pop(n) => for _ in 0..n {
                        let expect = shown.pop_front();
                        prop_assert_eq!(consumer.pop(), expect);
                        held += u32::from(expect.is_some());
                    },
                    Op::Release => { consumer.release(); held = 0; }
                }
                let free = size - held - hidden.len() as u32 - shown.len() as u32;
                prop_assert_eq!(producer.room(u32::MAX), free);
                prop_assert_eq!(consumer.ready(u32::MAX) as usize, shown.len());
                prop_assert_eq!(producer.pending(), size - free);
            }
        }
    }

    #[test]
    fn a_wild_producer_word_yields_nothing() {
        let (producer, mut consumer) = heap::<u64>(8);
        for word in [9, 1 << 31, u32::MAX] {
            producer.memory().producer().store(word, Ordering::Release);
            assert_eq!((consumer.ready(1), consumer.pop()), (0, None));
        }
    }

    #[test]
    fn a_wild_consumer_word_frees_nothing() {
        let (mut producer, consumer) = heap::<u64>(8);
        for _ in 0..8 {
            producer.push(1).unwrap();
        }
        for word in [9, 1 << 31, u32::MAX] {
            consumer.memory().consumer().store(word, Ordering::Release);
            assert_eq!(producer.room(1), 0);
            assert_eq!(producer.push(2), Err(2));
        }
    }

    #[test]
    fn two_threads_lose_and_swap_nothing() {
        const N: u64 = if cfg!(miri) { 300 } else { 200_000 };
        let (mut producer, mut consumer) = heap::<u64>(64);
        let sender = std::thread::spawn(move || {
            let mut next = 0;
            while next < N {
                let n = producer.room(16).min(16);
                for _ in 0..n {
                    producer.push(next).unwrap();
                    next += 1;
                }
                producer.publish();
                if n == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut expect = 0;
        while expect < N {
            let n = consumer.ready(16).min(16);
            for _ in 0..n {
                assert_eq!(consumer.pop(), Some(expect));
                expect += 1;
            }
            consumer.release();
            if n == 0 {
                std::thread::yield_now();
            }
        }
        sender.join().unwrap();
    }
}

#[cfg(loom)]
mod interleavings {
    use super::super::*;

    /// Every interleaving of a producer and a consumer on a ring that is full and empty in turn: each
    /// value arrives once and in order, and loom's cells see no slot touched by both ends.
    #[test]
    fn publication_hands_over_whole_slots() {
        loom::model(|| {
            let (mut producer, mut consumer) = heap_from::<u32>(2, u32::MAX);
            let sender = loom::thread::spawn(move || {
                let mut next = 0;
                while next < 3 {
                    if producer.push(next).is_ok() {
                        next += 1;
                        producer.publish();
                    } else {
                        loom::thread::yield_now();
                    }
                }
            });
            let mut expect = 0;
            while expect < 3 {
                match consumer.pop() {
                    Some(value) => {
                        assert_eq!(value, expect);
                        expect += 1;
                        consumer.release();
                    }
                    None => loom::thread::yield_now(),
                }
            }
            sender.join().unwrap();
        });
    }
}
