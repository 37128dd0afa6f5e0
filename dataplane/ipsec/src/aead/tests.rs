use super::*;

#[test]
fn seal_and_open_a_burst() {
    for engine in Engine::available() {
        let key = GcmKey::with_engine(engine, &[7; 16]).unwrap();
        let mut frames = [[1u8; 80], [2; 80], [3; 80]];
        let mut burst: Vec<_> = frames
            .iter_mut()
            .map(|f| {
                let (data, tag) = f.split_at_mut(64);
                SealJob::in_place(&key, [9; 12], Aad::from([5; 8]), data, tag).unwrap()
            })
            .collect();
        seal_burst(&mut burst);
        frames[1][3] ^= 1;
        let mut burst: Vec<_> = frames
            .iter_mut()
            .map(|f| {
                let (data, tag) = f.split_at_mut(64);
                OpenJob::in_place(&key, [9; 12], Aad::from([5; 8]), data, tag).unwrap()
            })
            .collect();
        open_burst(&mut burst);
        let verdicts: Vec<_> = burst.iter().map(OpenJob::verdict).collect();
        assert_eq!(verdicts, [Ok(()), Err(Unauthentic), Ok(())]);
        assert_eq!(frames[0][..64], [1; 64]);
        assert_eq!(frames[1][..64], [0; 64]);
        assert_eq!(frames[2][..64], [3; 64]);
    }
}
