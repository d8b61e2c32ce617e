//! docs/FORMAT.md, read by hand: a change of these bytes is a new format.

use crate::support::{BUILD, WORLD, dir, input, mark, open, segment};
use everworld_engine::Tick;
use everworld_persistence::{LOG_FORMAT, Record, SEGMENT_BYTES_MIN, sim::SimDisk};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

#[test]
fn segments_frames_and_mark_are_as_documented() {
    assert_eq!(LOG_FORMAT, 1);
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    log.append(&Record::Horizon { tick: Tick(300) }).unwrap();
    let first = log.commit().unwrap();
    log.append(&Record::Seal { tick: Tick(1), up_to_seq: 2 }).unwrap();
    let second = log.commit().unwrap();

    let bytes = disk.file(&segment(1)).unwrap();
    assert_eq!(bytes.len() as u64, SEGMENT_BYTES_MIN);
    let chain = xxh3_64_with_seed(b"everworld log", WORLD);
    assert_eq!(&bytes[..16], b"EVRWSEG\0\x01\0\0\0\0\0\0\0");
    assert_eq!(u64_at(&bytes, 16), WORLD);
    assert_eq!(bytes[24..40], BUILD);
    assert_eq!([40, 48, 56, 64].map(|at| u64_at(&bytes, at)), [1, 1, chain, SEGMENT_BYTES_MIN]);
    assert!(bytes[72..120].iter().all(|byte| *byte == 0));
    assert_eq!(u64_at(&bytes, 120), xxh3_64(&bytes[..120]));

    let mut previous = chain;
    for (start, payload, kind, lsn, point) in [(128, &[0xAC, 2], 4, 1, first), (176, &[1, 2], 3, 2, second)] {
        let frame = &bytes[start..start + 48];
        assert_eq!(frame[16..20], [2, 0, 0, 0]);
        assert_eq!(frame[20..22], [kind, 1]);
        assert_eq!(frame[22..24], chain.to_le_bytes()[..2]);
        assert_eq!([u64_at(frame, 24), u64_at(frame, 32)], [lsn, lsn - 1]);
        assert_eq!(&frame[40..42], payload);
        assert_eq!(frame[42..], [0; 6]);
        let check = xxh3_64_with_seed(&frame[16..], chain);
        assert_eq!(u64_at(frame, 0), check);
        previous = xxh3_64(&[previous.to_le_bytes(), check.to_le_bytes()].concat());
        assert_eq!(u64_at(frame, 8), previous);
        assert_eq!((point.lsn, point.chain), (lsn, previous));
    }
    assert!(bytes[224..].iter().all(|byte| *byte == 0));
    assert_eq!(disk.file(&segment(2)).unwrap(), vec![0; SEGMENT_BYTES_MIN as usize]);

    let marks = disk.file(&mark()).unwrap();
    assert_eq!(marks.len(), 128);
    for (slot, point, offset) in [(&marks[..64], first, 176), (&marks[64..], second, 224)] {
        assert_eq!(&slot[..16], b"EVRWMRK\0\x01\0\0\0\0\0\0\0");
        let fields = [16, 24, 32, 40, 48].map(|at| u64_at(slot, at));
        assert_eq!(fields, [WORLD, point.lsn, point.chain, 1, offset]);
        assert_eq!(u64_at(slot, 56), xxh3_64(&slot[..56]));
    }
}

#[test]
fn a_full_segment_ends_and_the_next_goes_on() {
    let disk = SimDisk::default();
    let (mut log, _) = open(&disk).unwrap();
    log.append(&input(1, 60_000)).unwrap();
    let before = log.commit().unwrap();
    log.append(&input(2, 60_000)).unwrap();
    log.commit().unwrap();
    let first = disk.file(&segment(1)).unwrap();
    let length = u32::from_le_bytes(first[144..148].try_into().unwrap()) as usize;
    let end = &first[128 + 40 + length.next_multiple_of(8)..][..40];
    assert_eq!((end[20], u64_at(end, 24), u64_at(end, 8)), (0xFF, 2, before.chain));
    let second = disk.file(&segment(2)).unwrap();
    assert_eq!([40, 48, 56].map(|at| u64_at(&second, at)), [2, 2, before.chain]);
    assert_eq!(
        u64_at(&second, 128),
        xxh3_64_with_seed(&second[144..128 + 40 + length.next_multiple_of(8)], before.chain)
    );
    assert!(disk.file(&dir().join("00000003.seg")).is_some());
}
