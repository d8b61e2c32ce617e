//! What is around each record in the store: version, lengths and a checksum of everything, and the compression.
//!
//! redb does not verify checksums on reads, and a damaged zstd frame may decode to wrong rows: so nothing that
//! is stored is believed before it was verified here (D5).

use super::RECORD_BYTES_MAX;
use std::io;
use xxhash_rust::xxh3::Xxh3;
use zstd::bulk::{Compressor, Decompressor};

/// The version of the envelope, and with it of all that is inside.
pub(super) const ENVELOPE_VERSION: u16 = 1;
/// Bytes before a record's payload.
pub(super) const ENVELOPE_BYTES: usize = 32;

const CODEC_ZSTD: u8 = 1;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Keyframe = 1,
    PlainChunk = 2,
    SlowChunk = 3,
    Resource = 4,
}

/// Where a record stands: goes into its checksum, so that it is believed nowhere else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub table: &'static str,
    pub branch: u32,
    pub tick: u64,
    /// Its number in the keyframe; 0 for the keyframe's header.
    pub record: u32,
}

/// Why a stored record is not believed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    Newer(u16),
    Damaged(String),
}

/// Seals records; keeps the compressor's memory.
pub(super) struct Sealer {
    compressor: Compressor<'static>,
}

impl Sealer {
    pub fn new() -> io::Result<Self> {
        Ok(Self { compressor: Compressor::new(1)? })
    }

    /// The record as it is stored.
    pub fn seal(&mut self, place: Place, kind: Kind, raw: &[u8]) -> io::Result<Vec<u8>> {
        let mut sealed = vec![0; ENVELOPE_BYTES];
        sealed.extend_from_slice(&self.compressor.compress(raw)?);
        let stored_bytes = sealed.len() - ENVELOPE_BYTES;
        sealed[..2].copy_from_slice(&ENVELOPE_VERSION.to_le_bytes());
        sealed[2] = kind as u8;
        sealed[3] = CODEC_ZSTD;
        sealed[8..16].copy_from_slice(&(raw.len() as u64).to_le_bytes());
        sealed[16..24].copy_from_slice(&(stored_bytes as u64).to_le_bytes());
        let check = checksum(place, &sealed);
        sealed[24..ENVELOPE_BYTES].copy_from_slice(&check.to_le_bytes());
        Ok(sealed)
    }
}

/// Opens records; keeps the decompressor's memory.
pub(super) struct Opener {
    decompressor: Decompressor<'static>,
}

impl Opener {
    pub fn new() -> io::Result<Self> {
        Ok(Self { decompressor: Decompressor::new()? })
    }

    /// The content of a stored record, if it is what it should be and not larger than `raw_bytes_max`.
    pub fn open(
        &mut self,
        place: Place,
        kind: Kind,
        raw_bytes_max: usize,
        sealed: &[u8],
    ) -> Result<Vec<u8>, OpenError> {
        let damaged = |detail: String| Err(OpenError::Damaged(detail));
        if sealed_bytes(sealed) != Some(sealed.len()) {
            return damaged("its length is not what it says".into());
        }
        if checksum(place, sealed) != u64_at(sealed, 24) {
            return damaged("its checksum does not fit".into());
        }
        let version = u16::from_le_bytes([sealed[0], sealed[1]]);
        if version > ENVELOPE_VERSION {
            return Err(OpenError::Newer(version));
        }
        if (sealed[2], sealed[3]) != (kind as u8, CODEC_ZSTD) {
            return damaged(format!("it is of kind {} and codec {}", sealed[2], sealed[3]));
        }
        let payload = &sealed[ENVELOPE_BYTES..];
        let raw_bytes = u64_at(sealed, 8);
        // Both sizes are claims until the cap has passed: only then is memory taken for them.
        if raw_bytes > raw_bytes_max.min(RECORD_BYTES_MAX) as u64 {
            return damaged(format!("it unpacks to {raw_bytes} bytes, at most {raw_bytes_max} are expected"));
        }
        if !matches!(zstd::zstd_safe::get_frame_content_size(payload), Ok(Some(size)) if size == raw_bytes) {
            return damaged("its compressed size is another one than it says".into());
        }
        let mut raw = Vec::with_capacity(raw_bytes as usize);
        match self.decompressor.decompress_to_buffer(payload, &mut raw) {
            Ok(_) if raw.len() as u64 == raw_bytes => Ok(raw),
            Ok(_) => damaged("it unpacks to another size than it says".into()),
            Err(error) => damaged(format!("it does not unpack: {error}")),
        }
    }
}

/// The length of a record of which the beginning is there, if that may be a record.
pub(super) fn sealed_bytes(sealed: &[u8]) -> Option<usize> {
    let stored = usize::try_from(u64_at(sealed.get(..ENVELOPE_BYTES)?, 16)).ok()?;
    // zstd needs a little more than the content itself in the worst case.
    (stored <= RECORD_BYTES_MAX + (RECORD_BYTES_MAX >> 7) + 1024).then_some(ENVELOPE_BYTES + stored)
}

fn checksum(place: Place, sealed: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&(place.table.len() as u64).to_le_bytes());
    hasher.update(place.table.as_bytes());
    hasher.update(&place.branch.to_le_bytes());
    hasher.update(&place.tick.to_le_bytes());
    hasher.update(&place.record.to_le_bytes());
    hasher.update(&sealed[..24]);
    hasher.update(&sealed[ENVELOPE_BYTES..]);
    hasher.digest()
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("the slice has 8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { table: "records", branch: 1, tick: 2, record: 3 };

    fn open(place: Place, kind: Kind, max: usize, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        Opener::new().unwrap().open(place, kind, max, sealed)
    }

    fn seal(raw: &[u8]) -> Vec<u8> {
        Sealer::new().unwrap().seal(PLACE, Kind::Resource, raw).unwrap()
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let raw: Vec<u8> = (0..100u8).map(|i| i / 3).collect();
        let sealed = seal(&raw);
        assert_eq!(open(PLACE, Kind::Resource, 100, &sealed), Ok(raw));
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(PLACE, Kind::Resource, 100, &damaged).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(open(PLACE, Kind::Resource, 100, &sealed[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_record_is_believed_in_its_place_only() {
        let sealed = seal(b"x");
        let other = [
            Place { table: "keyframes", ..PLACE },
            Place { branch: 0, ..PLACE },
            Place { tick: 0, ..PLACE },
            Place { record: 0, ..PLACE },
        ];
        for place in other {
            assert!(open(place, Kind::Resource, 9, &sealed).is_err(), "{place:?}");
        }
        assert!(open(PLACE, Kind::SlowChunk, 9, &sealed).is_err());
    }

    /// A sealed record as someone would forge it: with a correct checksum.
    fn forge(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut sealed = seal(&vec![0; 1 << 20]);
        change(&mut sealed);
        let check = checksum(PLACE, &sealed);
        sealed[24..32].copy_from_slice(&check.to_le_bytes());
        sealed
    }

    #[test]
    fn bombs_are_refused_before_they_take_memory() {
        let bomb = forge(|_| ());
        assert!(bomb.len() < 200, "a mebibyte of zeros packs well");
        assert!(matches!(open(PLACE, Kind::Resource, 1000, &bomb), Err(OpenError::Damaged(_))));
        let huge = forge(|sealed| sealed[8..16].fill(0xFF));
        assert!(matches!(open(PLACE, Kind::Resource, usize::MAX, &huge), Err(OpenError::Damaged(_))));
        let understated = forge(|sealed| sealed[8..16].copy_from_slice(&1000u64.to_le_bytes()));
        assert!(matches!(open(PLACE, Kind::Resource, 1000, &understated), Err(OpenError::Damaged(_))));
    }

    #[test]
    fn a_later_version_is_named() {
        let later = forge(|sealed| sealed[0] = 2);
        assert_eq!(open(PLACE, Kind::Resource, 1 << 20, &later), Err(OpenError::Newer(2)));
    }
}
