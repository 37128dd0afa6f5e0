use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Edges by number, as a receiver meets them: (sequence, what is said). For each window size `w`.
#[test]
fn every_edge_of_the_window_in_order() {
    for w in [32u64, 33, 63, 64, 65, 1000, 1024, 4096, 65_536] {
        let mut window = ReplayWindow::new(w as u32, false).unwrap();
        let table = [
            (0, Err(Replayed::TooOld)),
            (1, Ok(Order::Newest)),
            (1, Err(Replayed::Duplicate)),
            (9, Ok(Order::Newest)),
            (8, Ok(Order::Late)),
            (7, Ok(Order::Late)),
            (7, Err(Replayed::Duplicate)),
            (w, Ok(Order::Newest)),
            (w - 1, Ok(Order::Late)),
            (w - 1, Err(Replayed::Duplicate)),
            (2, Ok(Order::Late)),
            (2, Err(Replayed::Duplicate)),
            (w + 9, Ok(Order::Newest)),
            (9, Err(Replayed::TooOld)),
            (10, Ok(Order::Late)),
            (10, Err(Replayed::Duplicate)),
            (4 * w, Ok(Order::Newest)),
            (3 * w, Err(Replayed::TooOld)),
            (3 * w + 1, Ok(Order::Late)),
            (4 * w - 1, Ok(Order::Late)),
            (u64::from(u32::MAX), Ok(Order::Newest)),
            (u64::from(u32::MAX), Err(Replayed::Duplicate)),
            (u64::from(u32::MAX) - w, Err(Replayed::TooOld)),
            (u64::from(u32::MAX) - w + 1, Ok(Order::Late)),
            (4 * w, Err(Replayed::TooOld)),
        ];
        for (step, (sequence, expected)) in table.into_iter().enumerate() {
            let result = window.check(sequence as u32).and_then(|c| window.accept(&c));
            assert_eq!(result, expected, "window {w}, step {step}: {sequence}");
        }
    }
}

#[test]
fn forwards_all_are_new_and_backwards_only_the_window_is() {
    for w in [32u32, 64, 100, 1024] {
        let mut window = ReplayWindow::new(w, false).unwrap();
        for n in 1..=3 * w {
            assert_eq!(take(&mut window, n), Ok(Order::Newest));
        }
        for n in 1..=3 * w {
            assert!(take(&mut window, n).is_err());
        }
        let mut window = ReplayWindow::new(w, false).unwrap();
        for n in (1..=3 * w).rev() {
            assert_eq!(take(&mut window, n).is_ok(), n > 2 * w, "{n}");
        }
    }
}

fn take(window: &mut ReplayWindow, low: u32) -> Result<Order, Replayed> {
    window.check(low).and_then(|candidate| window.accept(&candidate))
}

#[test]
fn checking_alone_changes_nothing() {
    let window = ReplayWindow::resume(64, true, 5000).unwrap();
    for _ in 0..3 {
        assert_eq!(window.check(4990).unwrap().sequence(), 4990);
        assert_eq!(window.check(70_000).unwrap().sequence(), 70_000);
    }
    assert_eq!(window.highest(), 5000);
}

#[test]
fn sizes_outside_the_limits_are_refused() {
    for size in [1, 31, 65_537, u32::MAX] {
        assert_eq!(ReplayWindow::new(size, false).unwrap_err(), WindowSize(size));
    }
}

#[test]
fn without_a_window_everything_passes_and_the_high_half_is_the_nearest() {
    let mut window = ReplayWindow::new(0, false).unwrap();
    for n in [5, 5, 1, u32::MAX, 1] {
        assert!(take(&mut window, n).is_ok());
    }
    let mut window = ReplayWindow::new(0, true).unwrap();
    for (low, full) in [
        (5u32, 5u64),
        (u32::MAX / 3, u64::from(u32::MAX / 3)),
        (u32::MAX / 3 * 2, u64::from(u32::MAX / 3 * 2)),
        (u32::MAX, u64::from(u32::MAX)),
        (7, EPOCH + 7),
        (u32::MAX, u64::from(u32::MAX)),
        (9, EPOCH + 9),
    ] {
        let candidate = window.check(low).unwrap();
        assert_eq!(candidate.sequence(), full);
        window.accept(&candidate).unwrap();
    }
}

/// The slow form of the rule: every number ever accepted, and the definition of the window.
#[derive(Default)]
struct Oracle {
    seen: BTreeSet<u64>,
    highest: u64,
}

impl Oracle {
    /// RFC 4303 Appendix A2: of the numbers with this low half, the lowest that is not left of the
    /// window.
    fn infer(&self, low: u32, size: u64) -> Option<u64> {
        // The left edge may lie before the beginning of time.
        let left = i128::from(self.highest) - i128::from(size) + 1;
        let epoch = i128::from(EPOCH);
        let first = left.div_euclid(epoch) * epoch + i128::from(low);
        let full = if first < left { first + epoch } else { first };
        u64::try_from(full).ok()
    }

    fn take(&mut self, sequence: u64, size: u64) -> Result<(), Replayed> {
        if sequence == 0 || sequence + size <= self.highest {
            return Err(Replayed::TooOld);
        }
        if !self.seen.insert(sequence) {
            return Err(Replayed::Duplicate);
        }
        self.highest = self.highest.max(sequence);
        Ok(())
    }
}

/// Numbers near each other and near the ends of epochs, with jumps between.
fn steps() -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(
        prop_oneof![
            8 => -80i64..80,
            4 => -2000i64..2000,
            2 => -70_000i64..70_000,
            1 => 0i64..(1 << 33),
        ],
        1..200,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn thirty_two_bit_numbers_agree_with_a_set(size in 32u32..=65_536, steps in steps()) {
        let size = size.min(2048).max(size / 32);
        let mut window = ReplayWindow::new(size, false).unwrap();
        let mut oracle = Oracle::default();
        let mut at = 1i64;
        for step in steps {
            at = (at + step).clamp(0, i64::from(u32::MAX));
            let expected = oracle.take(at as u64, u64::from(size));
            prop_assert_eq!(take(&mut window, at as u32).map(drop), expected);
            prop_assert_eq!(window.highest(), oracle.highest);
        }
    }

    #[test]
    fn sixty_four_bit_numbers_agree_with_a_set(
        size in prop_oneof![32u32..200, 32u32..=65_536],
        start in prop_oneof![0u64..3, EPOCH - 100..EPOCH + 100, 5 * EPOCH - 70_000..5 * EPOCH + 70_000],
        steps in steps(),
    ) {
        let size_wide = u64::from(size);
        let mut window = ReplayWindow::resume(size, true, start).unwrap();
        let mut oracle = Oracle { highest: start, ..Oracle::default() };
        let mut at = start as i64;
        for step in steps {
            at = (at + step).max(0);
            let low = at as u32;
            let inferred = oracle.infer(low, size_wide);
            let expected = match inferred {
                Some(full) => oracle.take(full, size_wide).map(|()| full),
                None => Err(Replayed::TooOld),
            };
            let result = window.check(low).and_then(|candidate| {
                let full = candidate.sequence();
                window.accept(&candidate).map(|_| full)
            });
            prop_assert_eq!(result, expected, "low {:#x} at {:#x}", low, window.highest());
            prop_assert_eq!(window.highest(), oracle.highest);
        }
    }
}

/// The published step lists (`tests/vectors/replay_sequences.json`, which names its origin).
mod published {
    use super::*;
    use serde_json::Value;

    /// What the receiver would count for a packet whose true number is `sequence`.
    fn receive(window: &mut ReplayWindow, sequence: u64, authentic: bool) -> &'static str {
        let Ok(candidate) = window.check(sequence as u32) else { return "replay" };
        // The ICV covers the high half, so a wrong guess does not verify.
        if !authentic || candidate.sequence() != sequence {
            return "integrity";
        }
        match window.accept(&candidate) {
            Ok(_) => "accept",
            Err(_) => "replay",
        }
    }

    #[test]
    fn step_lists_give_the_published_verdicts() {
        let file: Value =
            serde_json::from_str(include_str!("../../tests/vectors/replay_sequences.json"))
                .unwrap();
        let mut ran = 0;
        for case in file["cases"].as_array().unwrap() {
            // "Lost" packets are not a statistic of this gateway.
            let Some(extended) = case["esn"].as_bool() else { continue };
            let size = case["window"].as_u64().unwrap() as u32;
            let mut window = ReplayWindow::new(size, extended).unwrap();
            for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
                let name = format!("{} step {index}", case["id"]);
                if let Some(state) = step["set_state"].as_u64() {
                    window = ReplayWindow::resume(size, extended, state).unwrap();
                    continue;
                }
                run(&mut window, step, &name);
            }
            ran += 1;
        }
        assert_eq!(ran, 6);
    }

    fn run(window: &mut ReplayWindow, step: &Value, name: &str) {
        let authentic = step["key"].is_null();
        if let Some(burst) = step["burst"].as_array() {
            for (sequence, expected) in burst.iter().zip(step["expect_each"].as_array().unwrap()) {
                let verdict = receive(window, sequence.as_u64().unwrap(), true);
                assert_eq!(verdict, expected.as_str().unwrap(), "{name}");
            }
            return;
        }
        // Runts and what a sender does are tested with whole packets.
        let Some(from) = step["from"].as_u64().filter(|_| step["shape"].is_null()) else { return };
        let sequences: Vec<_> = match (step["to_excl"].as_u64(), step["repeat"].as_u64()) {
            (Some(to), None) => (from..to).collect(),
            (None, Some(repeat)) => (0..repeat).map(|_| from).collect(),
            _ => panic!("{name}: unknown step"),
        };
        let verdicts: Vec<_> =
            sequences.iter().map(|&sequence| receive(window, sequence, authentic)).collect();
        let count = |verdict| verdicts.iter().filter(|&&v| v == verdict).count() as u64;
        match step["expect"].as_str().unwrap() {
            "mixed" => {
                assert_eq!(Some(count("replay")), step["replay"].as_u64(), "{name}");
                assert_eq!(Some(count("integrity")), step["integrity"].as_u64(), "{name}");
                assert_eq!(count("accept"), 0, "{name}");
            }
            "first-accept-rest-replay" => {
                assert_eq!(verdicts[0], "accept", "{name}");
                assert!(verdicts[1..].iter().all(|&v| v == "replay"), "{name}");
            }
            "drop" => assert_eq!(count("accept"), 0, "{name}"),
            expected => {
                assert!(verdicts.iter().all(|&v| v == expected), "{name}: {verdicts:?}")
            }
        }
    }
}
