//! The header of a segment file, and the names of the files.
//!
//! The place of magic, format and checksum is the same in all versions, so that a later one can be refused
//! by name instead of being taken for damage.

use super::frame::array;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a segment before its first frame.
pub const SEGMENT_HEADER_BYTES: usize = 128;
/// The smallest segment.
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The segment that is used unless told otherwise.
pub const SEGMENT_BYTES_DEFAULT: u64 = 4 << 20;
/// The largest segment; nothing larger is read into memory.
pub const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// The format of segments and of the mark file that this build writes.
pub const LOG_FORMAT: u32 = 1;

const MAGIC: &[u8; 8] = b"EVRWSEG\0";

/// What a segment says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub world: u64,
    /// The build that began the segment.
    pub build_id: [u8; 16],
    pub number: u64,
    /// The lsn of its first record.
    pub first_lsn: u64,
    /// The chain value before its first frame, which also seeds the checksums of its frames.
    pub chain: u64,
    pub segment_bytes: u64,
}

/// What stands where a header may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderState {
    /// Only zeros: the segment is reserved.
    Unused,
    Valid(SegmentHeader),
    /// Valid, but of that later format.
    Newer(u32),
    Invalid,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&LOG_FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.world.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.build_id);
        bytes[40..48].copy_from_slice(&self.number.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.first_lsn.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.chain.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.segment_bytes.to_le_bytes());
        let check = xxh3_64(&bytes[..120]);
        bytes[120..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> HeaderState {
        let Some(bytes) = bytes.get(..SEGMENT_HEADER_BYTES) else { return HeaderState::Invalid };
        if bytes.iter().all(|byte| *byte == 0) {
            return HeaderState::Unused;
        }
        if &bytes[..8] != MAGIC || xxh3_64(&bytes[..120]) != u64::from_le_bytes(array(bytes, 120)) {
            return HeaderState::Invalid;
        }
        let format = u32::from_le_bytes(array(bytes, 8));
        if format > LOG_FORMAT {
            return HeaderState::Newer(format);
        }
        let header = Self {
            world: u64::from_le_bytes(array(bytes, 16)),
            build_id: array(bytes, 24),
            number: u64::from_le_bytes(array(bytes, 40)),
            first_lsn: u64::from_le_bytes(array(bytes, 48)),
            chain: u64::from_le_bytes(array(bytes, 56)),
            segment_bytes: u64::from_le_bytes(array(bytes, 64)),
        };
        let sizes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        let sound = sizes.contains(&header.segment_bytes)
            && header.segment_bytes.is_multiple_of(8)
            && header.first_lsn > 0;
        if sound { HeaderState::Valid(header) } else { HeaderState::Invalid }
    }
}

/// The file of a segment.
pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.seg"))
}

/// The number of the segment in a file of that name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".seg")?.parse().ok()?;
    // Only the one name that this build would give: "1.seg" and "+0000001.seg" are not ours.
    (format!("{number:08}.seg") == name && number > 0).then_some(number)
}
