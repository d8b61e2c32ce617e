//! The mark: a small file beside the segments that says up to where they are durable.
//!
//! Written after each sync, without one of its own: a lower bound, by which recovery tells damage from a torn
//! tail (D5). Two slots are written in turn, so that a torn write leaves the other.

use super::{DurablePoint, frame::array, segment::LOG_FORMAT};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of one slot.
pub(super) const SLOT_BYTES: usize = 64;
/// Bytes of the file.
pub(super) const MARK_BYTES: usize = 2 * SLOT_BYTES;

const MAGIC: &[u8; 8] = b"EVRWMRK\0";

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub world: u64,
    pub point: DurablePoint,
    /// The segment and the offset behind the record of that point.
    pub segment: u64,
    pub offset: u64,
}

/// What stands where a slot may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    Valid(Mark),
    Newer(u32),
    /// Empty, torn or damaged: it says nothing.
    Invalid,
}

impl Mark {
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&LOG_FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.world.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.point.lsn.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.point.chain.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.segment.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.offset.to_le_bytes());
        let check = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; SLOT_BYTES]) -> SlotState {
        if &bytes[..8] != MAGIC || xxh3_64(&bytes[..56]) != u64::from_le_bytes(array(bytes, 56)) {
            return SlotState::Invalid;
        }
        let format = u32::from_le_bytes(array(bytes, 8));
        if format > LOG_FORMAT {
            return SlotState::Newer(format);
        }
        SlotState::Valid(Self {
            world: u64::from_le_bytes(array(bytes, 16)),
            point: DurablePoint {
                lsn: u64::from_le_bytes(array(bytes, 24)),
                chain: u64::from_le_bytes(array(bytes, 32)),
            },
            segment: u64::from_le_bytes(array(bytes, 40)),
            offset: u64::from_le_bytes(array(bytes, 48)),
        })
    }
}
