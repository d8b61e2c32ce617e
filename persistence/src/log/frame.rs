//! The bytes around one record: a fixed header with its own checksum and the running chain.
//!
//! A frame can be verified twice: by itself (`check`, seeded per segment, so that frames are recognised
//! behind a damaged one and payloads that imitate frames are not), and in its place (`chain`).

use crate::sim;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Bytes before a frame's payload.
pub const FRAME_HEADER_BYTES: usize = 40;
/// The kind of the frame that ends a segment. It is no record and has the lsn that comes next.
pub(super) const KIND_END: u8 = 0xFF;
/// Bytes of the frame that ends a segment; as many are kept free in each.
pub(super) const END_BYTES: usize = FRAME_HEADER_BYTES;

const CHECKED_FROM: usize = 16;

/// A frame whose own checksum was verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub kind: u8,
    pub version: u8,
    pub lsn: u64,
    /// The highest lsn that was known to be durable when this frame was written.
    pub durable_lsn: u64,
    pub chain: u64,
    pub payload: &'a [u8],
    /// Bytes of the whole frame.
    pub bytes: usize,
    check: u64,
}

/// Bytes of a frame with such a payload.
pub(super) fn frame_bytes(payload_bytes: usize) -> usize {
    FRAME_HEADER_BYTES + payload_bytes.next_multiple_of(8)
}

/// The chain value before the first record of a world's log.
pub(super) fn first_chain(world: u64) -> u64 {
    xxh3_64_with_seed(b"everworld log", world)
}

/// What is put into a frame besides its payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameFields {
    pub kind: u8,
    pub version: u8,
    pub lsn: u64,
    pub durable_lsn: u64,
    /// The chain value before this frame.
    pub previous_chain: u64,
    /// The segment's seed.
    pub seed: u64,
}

/// Appends a frame and returns the chain value after it.
pub(super) fn push_frame(out: &mut Vec<u8>, fields: FrameFields, payload: &[u8]) -> u64 {
    let start = out.len();
    let length = u32::try_from(payload.len()).expect("a record fits in a segment, which is below 4 GiB");
    out.extend_from_slice(&[0; CHECKED_FROM]);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[fields.kind, fields.version]);
    out.extend_from_slice(&tag(fields.seed).to_le_bytes());
    out.extend_from_slice(&fields.lsn.to_le_bytes());
    out.extend_from_slice(&fields.durable_lsn.to_le_bytes());
    out.extend_from_slice(payload);
    out.resize(start + frame_bytes(payload.len()), 0);
    let check = xxh3_64_with_seed(&out[start + CHECKED_FROM..], fields.seed);
    let chain = chain_after(fields.kind, fields.previous_chain, check);
    out[start..start + 8].copy_from_slice(&check.to_le_bytes());
    out[start + 8..start + 16].copy_from_slice(&chain.to_le_bytes());
    chain
}

impl<'a> Frame<'a> {
    /// The frame at the beginning of `bytes`, if it is one of the segment with that seed.
    pub fn decode(bytes: &'a [u8], seed: u64) -> Option<Self> {
        let header = bytes.get(..FRAME_HEADER_BYTES)?;
        let length = u32::from_le_bytes(array(header, 16)) as usize;
        // The tag keeps a hostile payload from making a search hash it over and over.
        if u16::from_le_bytes(array(header, 22)) != tag(seed) || length > bytes.len() {
            return None;
        }
        let whole = bytes.get(..frame_bytes(length))?;
        let check = u64::from_le_bytes(array(header, 0));
        if xxh3_64_with_seed(&whole[CHECKED_FROM..], seed) != check && !sim::checksums_are_skipped() {
            return None;
        }
        let frame = Self {
            kind: header[20],
            version: header[21],
            lsn: u64::from_le_bytes(array(header, 24)),
            durable_lsn: u64::from_le_bytes(array(header, 32)),
            chain: u64::from_le_bytes(array(header, 8)),
            payload: &whole[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length],
            bytes: whole.len(),
            check,
        };
        (frame.durable_lsn < frame.lsn).then_some(frame)
    }

    /// Whether this is the frame that belongs after that chain value, with that lsn.
    pub fn follows(&self, next_lsn: u64, chain: u64) -> bool {
        self.lsn == next_lsn && self.chain == chain_after(self.kind, chain, self.check)
    }

    /// Whether this frame ends its segment.
    pub fn is_end(&self) -> bool {
        self.kind == KIND_END
    }
}

/// Each record moves the chain on; the end of a segment does not, so that the chain at an lsn is one value.
fn chain_after(kind: u8, chain: u64, check: u64) -> u64 {
    if kind == KIND_END {
        return chain;
    }
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&chain.to_le_bytes());
    bytes[8..].copy_from_slice(&check.to_le_bytes());
    xxh3_64(&bytes)
}

fn tag(seed: u64) -> u16 {
    seed as u16
}

/// The `N` bytes at an offset that lies within `bytes`.
pub(super) fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    bytes[offset..offset + N].try_into().expect("the slice has N bytes")
}
