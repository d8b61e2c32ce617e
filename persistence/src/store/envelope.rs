//! What is around each record in the store: version, lengths and a checksum of everything, and the compression.
//!
//! redb does not verify checksums on reads, and a damaged zstd frame may decode to wrong rows: so nothing that
//! is stored is believed before it was verified here (D5).

use super::RECORD_BYTES_MAX;
use crate::sim;
use std::{io, mem};
use xxhash_rust::xxh3::Xxh3;
use zstd::{
    bulk::Decompressor,
    zstd_safe::{
        CCtx, CParameter, InBuffer, OutBuffer, ParamSwitch, compress_bound, zstd_sys::ZSTD_EndDirective,
    },
};

/// The version of the envelope, and with it of all that is inside.
pub(super) const ENVELOPE_VERSION: u16 = 3;
/// The oldest version that is read. What version 2 wrote is read as version 3 reads it: that one has more to say.
const ENVELOPE_VERSION_MIN: u16 = 2;
/// Bytes before a record's payload.
pub(super) const ENVELOPE_BYTES: usize = 32;

const CODEC_ZSTD: u8 = 1;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The header of a snapshot.
    Header = 1,
    /// A partition as a whole.
    Full = 2,
    /// What turns a partition of the snapshot before into that of this one.
    Delta = 3,
    Resource = 4,
    /// The host's own state.
    Host = 5,
    /// Entries of the ledger.
    Ledger = 6,
}

/// Where a record stands: goes into its checksum, so that it is believed nowhere else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub table: &'static str,
    pub tick: u64,
    /// Its number in the snapshot, from 1; 0 for the snapshot's header.
    pub record: u32,
}

/// Why a stored record is not believed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    Newer(u16),
    Damaged(String),
}

/// What the bytes of a record are like. Only for how they are compressed; a reader does not ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// Strings of bytes come again.
    Repeats,
    /// Some bytes are more frequent than others, but what looks like a repetition is chance: what numbers have changed by.
    Noise,
}

const REPEATS_LEVEL: i32 = 1;
/// Looks for repetitions here and there, and makes something of how frequent each byte is. Of the differences of a town it makes
/// as much as level 1 in six tenths of the time, and they unpack in three quarters.
const NOISE_LEVEL: i32 = -1000;

/// Seals records; keeps the compressor's memory, and that of the last record.
pub(super) struct Sealer {
    compressor: CCtx<'static>,
    sealed: Vec<u8>,
}

impl Sealer {
    pub fn new() -> io::Result<Self> {
        let mut compressor = CCtx::try_create().ok_or(io::ErrorKind::OutOfMemory)?;
        // Below level 0 zstd would leave literals as they are.
        let literals = CParameter::LiteralCompressionMode(ParamSwitch::Enable);
        compressor.set_parameter(literals).map_err(zstd_error)?;
        Ok(Self { compressor, sealed: Vec::new() })
    }

    /// The record as it is stored. At `breaks` the content changes its kind: what is before and after is compressed
    /// by tables of its own.
    pub fn seal(
        &mut self,
        place: Place,
        kind: Kind,
        raw: &[u8],
        breaks: &[usize],
        likeness: Likeness,
    ) -> io::Result<&[u8]> {
        let mut sealed = mem::take(&mut self.sealed);
        sealed.clear();
        // Each break costs a block's header, and at the worst the block's bytes as they are.
        sealed.reserve(ENVELOPE_BYTES + compress_bound(raw.len()) + 64 * (breaks.len() + 1));
        sealed.resize(ENVELOPE_BYTES, 0);
        let level = match likeness {
            Likeness::Repeats => REPEATS_LEVEL,
            Likeness::Noise => NOISE_LEVEL,
        };
        self.compressor.set_parameter(CParameter::CompressionLevel(level)).map_err(zstd_error)?;
        self.compressor.set_pledged_src_size(Some(raw.len() as u64)).map_err(zstd_error)?;
        let mut start = 0;
        for end in breaks.iter().copied().chain([raw.len()]) {
            let directive = if end == raw.len() {
                ZSTD_EndDirective::ZSTD_e_end
            } else {
                ZSTD_EndDirective::ZSTD_e_flush
            };
            self.compress(&mut sealed, &raw[start..end], directive)?;
            start = end;
            if end == raw.len() {
                break;
            }
        }
        let stored_bytes = sealed.len() - ENVELOPE_BYTES;
        sealed[..2].copy_from_slice(&ENVELOPE_VERSION.to_le_bytes());
        sealed[2] = kind as u8;
        sealed[3] = CODEC_ZSTD;
        sealed[8..16].copy_from_slice(&(raw.len() as u64).to_le_bytes());
        sealed[16..24].copy_from_slice(&(stored_bytes as u64).to_le_bytes());
        let check = checksum(place, &sealed);
        sealed[24..ENVELOPE_BYTES].copy_from_slice(&check.to_le_bytes());
        self.sealed = sealed;
        Ok(&self.sealed)
    }

    fn compress(&mut self, out: &mut Vec<u8>, raw: &[u8], directive: ZSTD_EndDirective) -> io::Result<()> {
        let mut input = InBuffer::around(raw);
        loop {
            let present = out.len();
            if out.capacity() - present < 4096 {
                out.reserve(4096);
            }
            let left = {
                let mut output = OutBuffer::around_pos(out, present);
                self.compressor.compress_stream2(&mut output, &mut input, directive).map_err(zstd_error)?
            };
            if left == 0 && input.pos() == raw.len() {
                return Ok(());
            }
        }
    }
}

fn zstd_error(code: usize) -> io::Error {
    io::Error::other(zstd::zstd_safe::get_error_name(code))
}

/// Opens records; keeps the decompressor's memory, and that of a content that was given back.
pub(super) struct Opener {
    decompressor: Decompressor<'static>,
    spare: Vec<u8>,
}

impl Opener {
    pub fn new() -> io::Result<Self> {
        Ok(Self { decompressor: Decompressor::new()?, spare: Vec::new() })
    }

    /// Takes back what is not needed any more: the next content lies there, in memory that is there already.
    pub fn give_back(&mut self, content: Vec<u8>) {
        self.spare = content;
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
        if checksum(place, sealed) != u64_at(sealed, 24) && !sim::checksums_are_skipped() {
            return damaged("its checksum does not fit".into());
        }
        let version = u16::from_le_bytes([sealed[0], sealed[1]]);
        if version > ENVELOPE_VERSION {
            return Err(OpenError::Newer(version));
        }
        if version < ENVELOPE_VERSION_MIN {
            return damaged(format!("it is of version {version}, which no released build wrote"));
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
        let mut raw = mem::take(&mut self.spare);
        raw.clear();
        raw.reserve_exact(raw_bytes as usize);
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

/// To how many bytes a record says that it unpacks; nothing is verified yet.
pub(super) fn raw_bytes(sealed: &[u8]) -> u64 {
    sealed.get(..ENVELOPE_BYTES).map_or(0, |header| u64_at(header, 8))
}

fn checksum(place: Place, sealed: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&(place.table.len() as u64).to_le_bytes());
    hasher.update(place.table.as_bytes());
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

    const PLACE: Place = Place { table: "stream", tick: 2, record: 3 };

    fn open(place: Place, kind: Kind, max: usize, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        Opener::new().unwrap().open(place, kind, max, sealed)
    }

    fn seal(raw: &[u8]) -> Vec<u8> {
        Sealer::new().unwrap().seal(PLACE, Kind::Resource, raw, &[], Likeness::Repeats).unwrap().to_vec()
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
        let other =
            [Place { table: "snapshots", ..PLACE }, Place { tick: 0, ..PLACE }, Place { record: 0, ..PLACE }];
        for place in other {
            assert!(open(place, Kind::Resource, 9, &sealed).is_err(), "{place:?}");
        }
        assert!(open(PLACE, Kind::Host, 9, &sealed).is_err());
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
    fn breaks_do_not_change_the_content() {
        let raw: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        // One after the other, as records come.
        let mut sealer = Sealer::new().unwrap();
        for breaks in [vec![], vec![1], vec![0, 5000, 5001, 200_000], vec![300_000]] {
            for likeness in [Likeness::Repeats, Likeness::Noise] {
                let sealed = sealer.seal(PLACE, Kind::Full, &raw, &breaks, likeness).unwrap().to_vec();
                assert_eq!(open(PLACE, Kind::Full, raw.len(), &sealed).as_ref(), Ok(&raw), "{breaks:?}");
            }
        }
    }

    /// What repeats is found, and what does not takes no more than how frequent its bytes are.
    #[test]
    fn each_likeness_is_good_at_its_own() {
        let mut sealer = Sealer::new().unwrap();
        let mut bytes_of =
            |raw: &[u8], likeness| sealer.seal(PLACE, Kind::Delta, raw, &[], likeness).unwrap().len();
        let text = "somewhat longer words of a language that repeats itself ".repeat(2000);
        assert!(bytes_of(text.as_bytes(), Likeness::Repeats) < text.len() / 100);
        // One of sixteen bytes, four bits each: half of it, and little more.
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 28) as u8
        };
        let noise: Vec<u8> = (0..100_000).map(|_| next()).collect();
        assert!(bytes_of(&noise, Likeness::Noise) < 51_000);
    }

    #[test]
    fn a_later_version_is_named() {
        let later = forge(|sealed| sealed[0] = 4);
        assert_eq!(open(PLACE, Kind::Resource, 1 << 20, &later), Err(OpenError::Newer(4)));
        let never = forge(|sealed| sealed[0] = 1);
        assert!(matches!(open(PLACE, Kind::Resource, 1 << 20, &never), Err(OpenError::Damaged(_))));
    }
}
