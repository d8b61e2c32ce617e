//! The growing end of a log, in memory: gives each record its lsn and its place, and nothing else.
//!
//! No I/O happens here. A record is placed only in space that is already reserved, so that one which was
//! accepted can no longer fail for want of space.

use super::{
    DurablePoint,
    frame::{END_BYTES, FRAME_HEADER_BYTES, FrameFields, KIND_END, frame_bytes, push_frame},
    segment::{SEGMENT_HEADER_BYTES, SegmentHeader},
};

/// Where the next frame goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    pub segment: u64,
    /// The offset in it.
    pub offset: u64,
    /// Bytes of the segment.
    pub segment_bytes: u64,
    /// What the checksums of the segment's frames are seeded with.
    pub seed: u64,
    /// The last record that was placed, and the chain value after it.
    pub last: DurablePoint,
}

/// Bytes to be written at one place. A run at offset 0 begins a segment.
#[derive(Debug)]
pub(super) struct Run {
    pub segment: u64,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// A kind, its version and its payload.
pub(super) type Encoded = (u8, u8, Vec<u8>);

/// The end of a log.
#[derive(Debug)]
pub(super) struct Tail {
    pub cursor: Cursor,
    /// Segments after the cursor's up to this one are reserved.
    pub reserved_to: u64,
    /// What the last commit made durable.
    pub durable: DurablePoint,
    world: u64,
    build_id: [u8; 16],
    /// The size of segments that are reserved from now on.
    segment_bytes: u64,
    runs: Vec<Run>,
}

/// Why records were not placed.
pub(super) enum PlaceError {
    /// Another segment must be reserved first.
    NotReserved,
    TooLarge {
        bytes: usize,
        max: usize,
    },
}

impl Tail {
    /// The build that writes it.
    pub fn build_id(&self) -> [u8; 16] {
        self.build_id
    }

    pub fn new(cursor: Cursor, reserved_to: u64, world: u64, build_id: [u8; 16], segment_bytes: u64) -> Self {
        Self { cursor, reserved_to, durable: cursor.last, world, build_id, segment_bytes, runs: Vec::new() }
    }

    /// Places all records one after the other, or none of them. Returns the lsn of the last.
    pub fn place(&mut self, records: &[Encoded]) -> Result<u64, PlaceError> {
        let cursor = self.cursor;
        let lengths = (self.runs.len(), self.runs.last().map_or(0, |run| run.bytes.len()));
        for (kind, version, payload) in records {
            if let Err(error) = self.place_one(*kind, *version, payload) {
                self.cursor = cursor;
                self.runs.truncate(lengths.0);
                if let Some(run) = self.runs.last_mut() {
                    run.bytes.truncate(lengths.1);
                }
                return Err(error);
            }
        }
        Ok(self.cursor.last.lsn)
    }

    /// What was placed since the last call, to be written.
    pub fn take_runs(&mut self) -> Vec<Run> {
        std::mem::take(&mut self.runs)
    }

    /// Whether something waits to be written.
    pub fn is_dirty(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Whether no segment is reserved ahead.
    pub fn needs_segment(&self) -> bool {
        self.reserved_to <= self.cursor.segment
    }

    /// Whether no segment is reserved ahead and less than an eighth of this one would be free behind the records.
    pub fn is_nearly_full(&self, records: &[Encoded]) -> bool {
        let needed: usize = records.iter().map(|(_, _, payload)| frame_bytes(payload.len())).sum();
        let room = self.cursor.segment_bytes - self.cursor.segment_bytes / 8;
        self.needs_segment() && self.cursor.offset + needed as u64 > room
    }

    /// The largest payload that fits in a segment.
    pub fn payload_bytes_max(&self) -> usize {
        self.segment_bytes as usize - SEGMENT_HEADER_BYTES - FRAME_HEADER_BYTES - END_BYTES
    }

    fn place_one(&mut self, kind: u8, version: u8, payload: &[u8]) -> Result<(), PlaceError> {
        let max = self.payload_bytes_max();
        if payload.len() > max {
            return Err(PlaceError::TooLarge { bytes: payload.len(), max });
        }
        let needed = (frame_bytes(payload.len()) + END_BYTES) as u64;
        if self.cursor.offset + needed > self.cursor.segment_bytes {
            self.begin_segment()?;
        }
        self.push(kind, version, self.cursor.last.lsn + 1, payload);
        self.cursor.last.lsn += 1;
        Ok(())
    }

    /// Places the end of this segment and the beginning of the next.
    pub fn begin_segment(&mut self) -> Result<(), PlaceError> {
        if self.needs_segment() {
            return Err(PlaceError::NotReserved);
        }
        self.push(KIND_END, 1, self.cursor.last.lsn + 1, &[]);
        let header = SegmentHeader {
            world: self.world,
            build_id: self.build_id,
            number: self.cursor.segment + 1,
            first_lsn: self.cursor.last.lsn + 1,
            chain: self.cursor.last.chain,
            segment_bytes: self.segment_bytes,
        };
        self.runs.push(Run { segment: header.number, offset: 0, bytes: header.encode().to_vec() });
        self.cursor.segment = header.number;
        self.cursor.offset = SEGMENT_HEADER_BYTES as u64;
        self.cursor.segment_bytes = header.segment_bytes;
        self.cursor.seed = header.chain;
        Ok(())
    }

    fn push(&mut self, kind: u8, version: u8, lsn: u64, payload: &[u8]) {
        let Cursor { segment, offset, seed, last, .. } = self.cursor;
        if self.runs.last().is_none_or(|run| run.segment != segment) {
            self.runs.push(Run { segment, offset, bytes: Vec::new() });
        }
        let run = self.runs.last_mut().expect("a run was pushed if there was none");
        let durable_lsn = self.durable.lsn;
        let fields = FrameFields { kind, version, lsn, durable_lsn, previous_chain: last.chain, seed };
        self.cursor.last.chain = push_frame(&mut run.bytes, fields, payload);
        self.cursor.offset = run.offset + run.bytes.len() as u64;
    }
}
