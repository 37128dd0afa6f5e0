use super::*;

#[test]
fn a_job_is_refused_for_what_it_is() {
    let key = GcmKey::new(&[1; 16]).unwrap();
    for len in 0..=20 {
        let expected = matches!(len, 8 | 12 | 16);
        let mut tag = vec![0; len];
        let job = SealJob::in_place(&key, [0; 12], Aad::EMPTY, &mut [], &mut tag);
        assert_eq!(job.is_ok(), expected, "{len}");
        let job = OpenJob::in_place(&key, [0; 12], Aad::EMPTY, &mut [], &tag);
        assert_eq!(job.err(), (!expected).then_some(JobError::TagLength), "{len}");
    }
    let (mut dst, mut tag) = ([0; 4], [0; 16]);
    let job = SealJob::out_of_place(&key, [0; 12], Aad::EMPTY, &[0; 3], &mut dst, &mut tag);
    assert_eq!(job.err(), Some(JobError::LengthMismatch));
    assert_eq!(open_one(&key, [0; 12], &[], &mut [1], &[0; 16]), Err(Unauthentic.into()));
}

#[test]
fn a_key_has_one_of_three_lengths() {
    for engine in Engine::available() {
        for len in 0..=40 {
            let key = GcmKey::with_engine(engine, &vec![0; len]);
            assert_eq!(key.is_ok(), KEY_LENGTHS.contains(&len), "{len}");
        }
    }
}

#[test]
fn engines_are_found_by_name_and_the_portable_one_is_last() {
    let all: Vec<_> = Engine::available().collect();
    assert_eq!(all.first(), Some(&Engine::best()));
    assert_eq!(all.last(), Some(&Engine::PORTABLE));
    for engine in all {
        assert_eq!(Engine::named(engine.name()), Some(engine));
    }
    assert_eq!(Engine::named("abacus"), None);
}

#[test]
fn a_job_is_unauthentic_until_it_ran() {
    let key = GcmKey::new(&[1; 16]).unwrap();
    let mut tag = [0; 16];
    seal_one(&key, [2; 12], b"header", &mut [], &mut tag).unwrap();
    let mut burst = [OpenJob::in_place(&key, [2; 12], Aad::new(b"header"), &mut [], &tag).unwrap()];
    assert_eq!(burst[0].verdict(), Err(Unauthentic));
    open_burst(&mut burst);
    assert_eq!(burst[0].verdict(), Ok(()));
}

#[test]
fn a_burst_of_none_is_nothing() {
    seal_burst(&mut []);
    open_burst(&mut []);
}
