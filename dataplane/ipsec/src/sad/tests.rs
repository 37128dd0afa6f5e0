use super::*;
use crate::aead::Lodging;
use crate::algorithm::{Cipher, KeyMaterial};
use crate::esp::inbound::InboundSa;
use crate::esp::outbound::OutboundSa;
use crate::flow::FlowKey;
use crate::sa::{
    HeaderRules, Lifetime, Mode, PairId, Protocol, SaError, SaParameters, Spi, Transform,
};
use crate::selector::{AddressRange, Ports, Selector};
use crate::spi::{CoreId, MAX_SLOTS, QUARANTINE, SpiAllocator, SpiError};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

fn parameters(spi: Spi) -> SaParameters {
    let all = AddressRange::prefix([0, 0, 0, 0].into(), 0).unwrap();
    SaParameters {
        pair: PairId(1),
        spi,
        protocol: Protocol::Esp,
        mode: Mode::Tunnel,
        local: [192, 0, 2, 1].into(),
        remote: [192, 0, 2, 2].into(),
        encap: None,
        transform: Transform {
            cipher: Cipher::AesGcm(16),
            cipher_key: KeyMaterial::new(vec![7; 20]),
            integrity: None,
        },
        esn: false,
        replay_window: 32,
        selectors: vec![Selector {
            local: all,
            remote: all,
            protocol: None,
            local_ports: Ports::Any,
            remote_ports: Ports::Any,
        }],
        later_fragments: false,
        lifetime: Lifetime::default(),
        headers: HeaderRules::default(),
    }
}

fn inbound(spi: Spi) -> Box<InboundSa> {
    Box::new(InboundSa::new(&parameters(spi)).unwrap())
}

fn core(index: usize) -> CoreId {
    CoreId::new(index).unwrap()
}

#[test]
fn an_spi_says_its_core_and_slot() {
    let spi = Spi::new((3 << 26) | (5 << 6) | 7).unwrap();
    assert_eq!((spi.core(), spi.slot()), (core(3), 5));
}

#[test]
fn spis_are_unique_not_reserved_and_of_the_core_asked_for() {
    let now = Instant::now();
    let mut allocator = SpiAllocator::new(3, 1000, usize::MAX);
    let mut seen = HashSet::new();
    for n in 0..2900usize {
        let core = core(n % 3);
        let spi = allocator.allocate(core, now, n as u8).unwrap();
        assert!(spi.get() >= 256 && spi.core() == core && spi.slot() < 1000);
        assert!(seen.insert(spi));
    }
    assert_eq!((allocator.in_use(), allocator.allocated()), (2900, 2900));
}

#[test]
fn refusals_are_told_apart_and_counted() {
    let now = Instant::now();
    let mut allocator = SpiAllocator::new(2, 8, 10);
    for _ in 0..8 {
        allocator.allocate(core(1), now, 0).unwrap();
    }
    assert_eq!(allocator.allocate(core(1), now, 0), Err(SpiError::Full));
    assert_eq!(allocator.allocate(core(2), now, 0), Err(SpiError::NoSuchCore));
    allocator.allocate(core(0), now, 0).unwrap();
    let last = allocator.allocate(core(0), now, 0).unwrap();
    assert_eq!(allocator.allocate(core(0), now, 0), Err(SpiError::Limit));
    assert_eq!(allocator.refused(), 3);
    assert!(allocator.release(last, now));
    assert!(!allocator.release(last, now));
    allocator.allocate(core(0), now, 0).unwrap();
}

#[test]
fn a_released_spi_rests_and_comes_back_with_another_generation() {
    let now = Instant::now();
    let mut allocator = SpiAllocator::new(2, 1, usize::MAX);
    let first = allocator.allocate(core(1), now, 63).unwrap();
    allocator.release(first, now);
    let almost = now + QUARANTINE - Duration::from_nanos(1);
    assert_eq!(allocator.allocate(core(1), almost, 0), Err(SpiError::Full));
    let second = allocator.allocate(core(1), now + QUARANTINE, 0).unwrap();
    assert_eq!((second.core(), second.slot()), (first.core(), first.slot()));
    assert_ne!(second, first);
    assert!(!allocator.release(first, now), "the old one is not taken for the new one");
}

#[test]
fn a_table_takes_only_its_own_spis_once() {
    let mut sad = InboundSad::new(core(1), 16);
    let spi = |core: u32, slot: u32, generation: u32| {
        Spi::new((core << 26) | (slot << 6) | generation).unwrap()
    };
    assert_eq!(sad.reserve(spi(0, 5, 0)), Err(SadError::OtherCore));
    assert_eq!(sad.reserve(spi(1, 16, 0)), Err(SadError::OutOfRange));
    sad.insert(inbound(spi(1, 3, 1))).unwrap();
    assert_eq!(sad.insert(inbound(spi(1, 3, 1))).unwrap_err().0, SadError::InUse);
    assert_eq!(sad.insert(inbound(spi(1, 3, 2))).unwrap_err().0, SadError::InUse);
    assert_eq!(sad.reserve(spi(1, 3, 1)), Err(SadError::InUse));
    assert!(!sad.remove(spi(1, 3, 2)));
    assert!(sad.remove(spi(1, 3, 1)));
    assert!(sad.is_empty());
}

#[test]
fn a_table_over_a_range_takes_no_other_slots() {
    let spi = |slot: u32| Spi::new((63 << 26) | (slot << 6) | 1).unwrap();
    let top = MAX_SLOTS as u32 - 1;
    let mut sad = InboundSad::over(core(63), MAX_SLOTS - 2..MAX_SLOTS);
    for slot in [0, 1, 2, top - 2] {
        assert_eq!(sad.reserve(spi(slot)), Err(SadError::OutOfRange));
        assert!(matches!(sad.lookup(spi(slot).get()), Lookup::Unknown));
        assert!(!sad.remove(spi(slot)));
    }
    sad.insert(inbound(spi(top))).unwrap();
    assert!(matches!(sad.lookup(spi(top).get()), Lookup::Live(_)));
    assert!(matches!(sad.lookup(spi(top - 1).get()), Lookup::Unknown));
}

#[derive(Clone, Debug)]
enum Change {
    Reserve(u8, u8),
    Insert(u8, u8),
    Remove(u8, u8),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_inbound_table_is_a_map(
        changes in prop::collection::vec(
            (0u8..3, 0u8..8, 0u8..3).prop_map(|(kind, slot, generation)| match kind {
                0 => Change::Reserve(slot, generation),
                1 => Change::Insert(slot, generation),
                _ => Change::Remove(slot, generation),
            }),
            1..60,
        ),
    ) {
        let spi = |slot: u8, generation: u8| {
            Spi::new((2 << 26) | (u32::from(slot) << 6) | u32::from(generation)).unwrap()
        };
        let mut sad = InboundSad::new(core(2), 8);
        let mut map: HashMap<Spi, bool> = HashMap::new();
        for change in changes {
            match change {
                Change::Reserve(slot, generation) => {
                    let spi = spi(slot, generation);
                    let taken = map.keys().any(|other| other.slot() == spi.slot() && *other != spi);
                    let expected = !taken && map.get(&spi) != Some(&true);
                    prop_assert_eq!(sad.reserve(spi).is_ok(), expected);
                    if expected {
                        map.insert(spi, false);
                    }
                }
                Change::Insert(slot, generation) => {
                    let spi = spi(slot, generation);
                    let taken = map.keys().any(|other| other.slot() == spi.slot() && *other != spi);
                    let expected = !taken && map.get(&spi) != Some(&true);
                    prop_assert_eq!(sad.insert(inbound(spi)).is_ok(), expected);
                    if expected {
                        map.insert(spi, true);
                    }
                }
                Change::Remove(slot, generation) => {
                    let spi = spi(slot, generation);
                    let expected = map.remove(&spi) == Some(true);
                    prop_assert_eq!(sad.remove(spi), expected);
                }
            }
            for (slot, generation) in (0..8).flat_map(|s| (0..3).map(move |g| (s, g))) {
                let spi = spi(slot, generation);
                let found = match sad.lookup(spi.get()) {
                    Lookup::Live(sa) => {
                        prop_assert_eq!(sa.spi(), spi);
                        Some(true)
                    }
                    Lookup::Larval => Some(false),
                    Lookup::Unknown => None,
                };
                prop_assert_eq!(found, map.get(&spi).copied());
            }
            prop_assert_eq!(sad.len(), map.values().filter(|live| **live).count());
        }
    }

    #[test]
    fn any_spi_can_be_looked_up(spi in any::<u32>()) {
        let sad = InboundSad::new(core(0), 64);
        prop_assert!(matches!(sad.lookup(spi), Lookup::Unknown));
    }
}

#[test]
fn outbound_sas_are_where_they_were_put_and_carry_what_their_selectors_say() {
    let mut parameters = parameters(Spi::new(4096).unwrap());
    parameters.selectors[0].remote = AddressRange::host([10, 1, 0, 9].into());
    let outbound = || Box::new(OutboundSa::new(&parameters).unwrap());
    let mut sad = OutboundSad::new(2);
    sad.insert(Slot(1), outbound()).unwrap();
    assert_eq!(sad.insert(Slot(1), outbound()).unwrap_err().0, SadError::InUse);
    assert_eq!(sad.insert(Slot(2), outbound()).unwrap_err().0, SadError::OutOfRange);
    assert_eq!(sad.iter().map(|(slot, _)| slot).collect::<Vec<_>>(), [Slot(1)]);
    let key = |remote: [u8; 4]| FlowKey {
        local: [10, 0, 0, 1].into(),
        remote: remote.into(),
        protocol: 17,
        ports: Some((1, 2)),
    };
    assert!(sad.get(Slot(1)).unwrap().carries(&key([10, 1, 0, 9])));
    assert!(!sad.get(Slot(1)).unwrap().carries(&key([10, 1, 0, 8])));
    assert!(sad.remove(Slot(1)));
    assert!(!sad.remove(Slot(1)) && sad.is_empty());
}

#[test]
fn parameters_that_do_not_fit_are_refused_with_the_reason() {
    let spi = Spi::new(4096).unwrap();
    let refused = |edit: &dyn Fn(&mut SaParameters)| {
        let mut parameters = parameters(spi);
        edit(&mut parameters);
        let inbound = InboundSa::new(&parameters).map(drop);
        match OutboundSa::new(&parameters).map(drop) {
            // The window concerns the receiver alone.
            Ok(()) => assert!(matches!(inbound, Err(SaError::Window(_)))),
            Err(error) => assert_eq!(inbound, Err(error)),
        }
        inbound.unwrap_err()
    };
    let key = |bytes: usize| KeyMaterial::new(vec![1; bytes]);
    let gcm = Cipher::AesGcm(16);
    for bytes in [0, 4, 16, 19, 21, 32, 40] {
        let error = refused(&|p| p.transform.cipher_key = key(bytes));
        assert_eq!(error, SaError::CipherKeyLength { cipher: gcm, got: bytes });
    }
    let error = refused(&|p| p.transform.cipher = Cipher::AesGcm(10));
    assert_eq!(error, SaError::IcvLength(Cipher::AesGcm(10)));
    let hmac = crate::algorithm::Integrity::HmacSha256_128;
    let error = refused(&|p| p.transform.integrity = Some((hmac, key(32))));
    assert_eq!(error, SaError::UnwantedIntegrity(gcm));
    let cbc = |p: &mut SaParameters| {
        p.transform.cipher = Cipher::AesCbc;
        p.transform.cipher_key = key(16);
    };
    assert_eq!(refused(&cbc), SaError::MissingIntegrity(Cipher::AesCbc));
    let error = refused(&|p| {
        cbc(p);
        p.transform.integrity = Some((hmac, key(20)));
    });
    assert_eq!(error, SaError::IntegrityKeyLength { integrity: hmac, got: 20 });
    // RFC 2451 §2.3: two equal thirds make it single DES.
    let error = refused(&|p| {
        p.transform.cipher = Cipher::TripleDesCbc;
        p.transform.cipher_key = key(24);
        p.transform.integrity = Some((hmac, key(32)));
    });
    assert_eq!(error, SaError::WeakKey(Cipher::TripleDesCbc));
    assert_eq!(
        refused(&|p| p.replay_window = 65_537),
        SaError::Window(crate::replay::WindowSize(65_537))
    );
    assert_eq!(refused(&|p| p.remote = [0u16; 8].into()), SaError::AddressFamilies);
    assert_eq!(refused(&|p| p.selectors.clear()), SaError::NoSelectors);
    let ah = |p: &mut SaParameters| {
        p.protocol = Protocol::Ah;
        p.transform.cipher = Cipher::Null;
        p.transform.cipher_key = key(0);
    };
    assert_eq!(refused(&|p| p.protocol = Protocol::Ah), SaError::CipherWithAh);
    assert_eq!(refused(&ah), SaError::MissingIntegrity(Cipher::Null));
    let error = refused(&|p| {
        ah(p);
        p.encap = Some(crate::sa::UdpEncap { local_port: 4500, remote_port: 4500 });
    });
    assert_eq!(error, SaError::EncapWithAh);
    assert_eq!(Spi::new(255), None);
}

/// What a worker holds for a pair of AES-GCM SAs with a window of 1024: both runtime forms where they lie in the tables, with keys and
/// window in them, and a selector each.
#[test]
fn a_pair_of_sas_takes_less_than_three_kib() {
    let forms = size_of::<InboundSa>() + size_of::<OutboundSa>() + 2 * size_of::<Lodging>();
    let selectors = 2 * size_of::<Selector>();
    assert!(forms + selectors <= 3072, "{forms} and {selectors}");
}

/// What is in memory where something lies or lay. Read as a file: what is left there belongs to nobody.
fn memory(address: usize, len: usize) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; len];
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    memory.read_exact_at(&mut bytes, address as u64).unwrap();
    bytes
}

/// Neither key nor salt of an SA is left where it came from once it lies in its table, nor there once it is removed; with and without
/// an engine whose keys lie beside the rest.
#[test]
fn nothing_of_a_key_or_salt_is_left_behind() {
    let (key, salt) = ([0xd7u8, 0x31, 0x8e, 0x42].repeat(4), [0x9c, 0x65, 0xf3, 0x1a]);
    let core = CoreId::new(1).unwrap();
    let spi = SpiAllocator::new(2, 16, 16).allocate(core, Instant::now(), 1).unwrap();
    let mut parameters = parameters(spi);
    parameters.transform.cipher_key = KeyMaterial::new([&key[..], &salt].concat());
    let has = |memory: &[u8], what: &[u8]| memory.windows(what.len()).any(|w| w == what);

    let mut sad = OutboundSad::new(4);
    let mut from = Box::new(Some(OutboundSa::new(&parameters).unwrap()));
    let came_from = (core::ptr::from_ref(&*from).addr(), size_of_val(&*from));
    let spent = sad.insert_from(Slot(2), &mut from).unwrap();
    let sa = sad.get(Slot(2)).unwrap();
    let lies = (core::ptr::from_ref(sa).addr(), size_of_val(sa));
    let lodged = has(&memory(lies.0, lies.1), &salt);
    assert_eq!((lodged, lodged), (spent.is_some(), has(&memory(lies.0, lies.1), &key)));
    let left = memory(came_from.0, came_from.1);
    assert!(from.is_none() && !has(&left, &salt) && !has(&left, &key));
    let keys = (sad.extents()[1].start() + 2 * size_of::<Lodging>(), size_of::<Lodging>());
    assert_eq!(lodged, has(&memory(keys.0, keys.1), &key));
    sad.remove(Slot(2));
    let left = [memory(lies.0, lies.1), memory(keys.0, keys.1)].concat();
    assert!(!has(&left, &salt) && !has(&left, &key));

    let mut sad = InboundSad::new(core, 16);
    let mut from = Box::new(Some(InboundSa::new(&parameters).unwrap()));
    let came_from = (core::ptr::from_ref(&*from).addr(), size_of_val(&*from));
    let spent = sad.insert_from(&mut from).unwrap();
    let sa = sad.get(spi).unwrap();
    let lies = (core::ptr::from_ref(sa).addr(), size_of_val(sa));
    let lodged = has(&memory(lies.0, lies.1), &salt);
    assert_eq!((lodged, lodged), (spent.is_some(), has(&memory(lies.0, lies.1), &key)));
    let left = memory(came_from.0, came_from.1);
    assert!(from.is_none() && !has(&left, &salt) && !has(&left, &key));
    let keys = sad.extents()[1].start() + spi.slot() * size_of::<Lodging>();
    assert_eq!(lodged, has(&memory(keys, size_of::<Lodging>()), &key));
    sad.remove(spi);
    let left = [memory(lies.0, lies.1), memory(keys, size_of::<Lodging>())].concat();
    assert!(!has(&left, &salt) && !has(&left, &key));
}

/// A key is the same key where it came to lie, with every length and in every engine.
#[test]
fn a_lodged_key_seals_as_it_did_before() {
    use crate::aead::{Aad, Engine, GcmKey, Key, KeyStart, Keys, SealJob, seal_burst};
    for engine in Engine::available() {
        for key_len in [16, 24, 32] {
            let new = || GcmKey::with_engine(engine, &vec![7; key_len]).unwrap();
            let (mut lodging, mut start) = (Box::new(Lodging::EMPTY), KeyStart::EMPTY);
            let Some(lodged) = lodging.take_in(&mut start, &new()) else { continue };
            let seal = |key: Key<'_>, len| {
                let (mut data, mut tag) = (vec![3; len], [0; 16]);
                let job = SealJob::in_place(key, [9; 12], Aad::from([1; 8]), &mut data, &mut tag);
                seal_burst(&mut [job.unwrap()]);
                (data, tag)
            };
            let own = new();
            // Whatever length it was asked for: the packet may have another.
            let lens = [0, 1, 68, 128, 129, 300, 1500];
            for (asked, len) in lens.iter().flat_map(|asked| lens.map(|len| (*asked, len))) {
                let own = seal((&own).into(), len);
                for keys in [Keys::Near, Keys::Far, Keys::Farther] {
                    let there = lodging.key(&start, lodged, asked, keys);
                    assert_eq!(seal(there, len), own, "{keys:?} {asked} {len}");
                }
            }
            let lies = (core::ptr::from_ref(&*lodging).addr(), size_of_val(&*lodging));
            assert!(memory(lies.0, lies.1).iter().any(|byte| *byte != 0));
            lodging.clear();
            assert!(memory(lies.0, lies.1).iter().all(|byte| *byte == 0));
        }
    }
}
