//! The bytes of a partition before compression: all columns of up to 16,384 rows, whole or as a difference.
//!
//! Numbers are turned into byte planes (all first bytes, all second bytes, ...): the bytes of equal weight are alike
//! over the rows, and compress. A difference names the changed rows of each column by a bitmap, and holds for each
//! number of them what turns the old value into the new one, in the way that came out smallest on a sample.
//! docs/FORMAT.md has the bytes. Deliberately absent: compression and checksums, which are around it.

use everworld_engine::{Chunk, ColumnSchema};
use std::ops::Range;

/// Rows whose bytes are moved together, so that they stay in the cache while the planes are written.
const BLOCK_ROWS: usize = 64;
/// Rows that the choice of a lane's way looks at.
const SAMPLE_ROWS: usize = 1024;
/// A plane that is shorter is compressed together with its neighbour.
const BREAK_BYTES: usize = 2048;

const COLUMN_SAME: u8 = 0;
const COLUMN_SOME: u8 = 1;
const COLUMN_ALL: u8 = 2;

/// How a number of a changed row is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Way {
    /// New less old, wrapping, zigzag: small differences of either sign are small numbers.
    Difference = 0,
    /// New xor old.
    Xor = 1,
    /// The new number.
    Value = 2,
}

const WAYS: [Way; 3] = [Way::Difference, Way::Xor, Way::Value];

/// A column of a partition.
pub(super) type Part<'a> = (&'a ColumnSchema, &'a Chunk);

/// The bytes of a partition, and where in them other kinds of bytes begin: compressed apart they get smaller.
#[derive(Default)]
pub(super) struct Packed {
    pub bytes: Vec<u8>,
    pub breaks: Vec<usize>,
}

impl Packed {
    fn note_break(&mut self) {
        let last = self.breaks.last().copied().unwrap_or(0);
        if self.bytes.len() >= last + BREAK_BYTES {
            self.breaks.push(self.bytes.len());
        }
    }

    fn push_values<V: AsRef<[u8]>>(&mut self, values: &[V]) {
        self.note_break();
        self.bytes.extend_from_slice(&pack_values(values));
        self.note_break();
    }

    /// A plane of each byte of a lane, of the numbers that `number` gives for those rows.
    fn push_lane(&mut self, width: usize, count: usize, number: impl Fn(usize) -> u64) {
        let start = self.bytes.len();
        self.bytes.resize(start + width * count, 0);
        let planes = &mut self.bytes[start..];
        for first in (0..count).step_by(BLOCK_ROWS) {
            for i in first..count.min(first + BLOCK_ROWS) {
                let bytes = number(i).to_le_bytes();
                for (byte, value) in bytes[..width].iter().enumerate() {
                    planes[byte * count + i] = *value;
                }
            }
        }
        self.note_planes(start, width, count);
    }

    /// The same for a lane whose numbers are all 0.
    fn push_zeros(&mut self, width: usize, count: usize) {
        let start = self.bytes.len();
        self.bytes.resize(start + width * count, 0);
        self.note_planes(start, width, count);
    }

    fn note_planes(&mut self, start: usize, width: usize, count: usize) {
        for byte in 1..=width {
            let end = start + byte * count;
            let last = self.breaks.last().copied().unwrap_or(0);
            if end >= last + BREAK_BYTES {
                self.breaks.push(end);
            }
        }
    }
}

/// A partition as a whole.
pub(super) fn pack_full(columns: &[Part<'_>]) -> Packed {
    let mut packed = Packed::default();
    for (schema, chunk) in columns {
        match chunk {
            Chunk::Slow(values) => packed.push_values(values),
            Chunk::Plain(rows) => {
                let row_bytes = schema.row_bytes().unwrap_or(0);
                let count = rows.len().checked_div(row_bytes).unwrap_or(0);
                for (lane, width) in lanes(schema) {
                    packed.push_lane(width, count, |row| number(&rows[row * row_bytes + lane..], width));
                }
            }
        }
    }
    packed
}

/// What turns the old rows of a partition into the new ones; `None` if they are the same. Rows beyond the old ones
/// count as zero, or empty, before.
pub(super) fn pack_delta(
    old: &[Part<'_>],
    new: &[Part<'_>],
    old_rows: usize,
    new_rows: usize,
) -> Option<Packed> {
    let mut packed = Packed::default();
    let mut differs = old_rows != new_rows;
    for ((schema, old), (_, new)) in old.iter().zip(new) {
        let changed = if std::ptr::eq(*old, *new) { Vec::new() } else { changed_rows(schema, old, new) };
        differs |= !changed.is_empty();
        if changed.is_empty() {
            packed.bytes.push(COLUMN_SAME);
            continue;
        }
        if changed.len() == new_rows {
            packed.bytes.push(COLUMN_ALL);
        } else {
            packed.bytes.push(COLUMN_SOME);
            packed.note_break();
            let start = packed.bytes.len();
            packed.bytes.resize(start + new_rows.div_ceil(8), 0);
            changed.iter().for_each(|row| packed.bytes[start + *row as usize / 8] |= 1 << (row % 8));
            packed.note_break();
        }
        match (old, new) {
            (Chunk::Plain(old), Chunk::Plain(new)) => pack_lanes(&mut packed, schema, old, new, &changed),
            (_, Chunk::Slow(values)) => {
                let values: Vec<_> = changed.iter().map(|row| &values[*row as usize]).collect();
                packed.push_values(&values);
            }
            (Chunk::Slow(_), Chunk::Plain(_)) => {
                unreachable!("tables of the same columns have the same kinds")
            }
        }
    }
    differs.then_some(packed)
}

fn pack_lanes(packed: &mut Packed, schema: &ColumnSchema, old: &[u8], new: &[u8], changed: &[u32]) {
    let row_bytes = schema.row_bytes().unwrap_or(0);
    let touched = touched_bytes(row_bytes, old, new, changed);
    for (lane, width) in lanes(schema) {
        // Of a row with many numbers, a memory of many episodes say, most stay as they are.
        if touched[lane..lane + width].iter().all(|byte| *byte == 0) {
            packed.bytes.push(Way::Difference as u8);
            packed.push_zeros(width, changed.len());
            continue;
        }
        let numbers = |i: usize| {
            let offset = changed[i] as usize * row_bytes + lane;
            let before = old.get(offset..offset + width).map_or(0, |bytes| number(bytes, width));
            (before, number(&new[offset..], width))
        };
        let way = smallest_way(width, changed.len(), &numbers);
        packed.bytes.push(way as u8);
        packed.push_lane(width, changed.len(), |i| {
            let (before, after) = numbers(i);
            way.apply(before, after, width)
        });
    }
}

/// For each byte of a row, the bits that differ in any of the changed rows.
fn touched_bytes(row_bytes: usize, old: &[u8], new: &[u8], changed: &[u32]) -> Vec<u8> {
    let mut touched = vec![0u8; row_bytes];
    for row in changed {
        let at = *row as usize * row_bytes..(*row as usize + 1) * row_bytes;
        let after = &new[at.clone()];
        match old.get(at) {
            Some(before) => {
                let bytes = touched.iter_mut().zip(before.iter().zip(after));
                bytes.for_each(|(touched, (before, after))| *touched |= before ^ after);
            }
            None => touched.iter_mut().zip(after).for_each(|(touched, after)| *touched |= after),
        }
    }
    touched
}

/// The way with the fewest bits by the entropy of its byte planes over a sample.
fn smallest_way(width: usize, count: usize, numbers: &impl Fn(usize) -> (u64, u64)) -> Way {
    let step = count.div_ceil(SAMPLE_ROWS).max(1);
    let bits = |way: &Way| {
        let mut histograms = [[0u32; 256]; 8];
        let mut sampled = 0u32;
        for i in (0..count).step_by(step) {
            let (before, after) = numbers(i);
            let bytes = way.apply(before, after, width).to_le_bytes();
            for (histogram, byte) in histograms.iter_mut().zip(&bytes[..width]) {
                histogram[*byte as usize] += 1;
            }
            sampled += 1;
        }
        let planes = histograms[..width].iter();
        planes.map(|histogram| entropy_bits(histogram, sampled)).sum::<f64>()
    };
    let sizes = WAYS.map(|way| bits(&way));
    let smallest = (0..WAYS.len()).min_by(|a, b| sizes[*a].total_cmp(&sizes[*b])).unwrap_or(0);
    WAYS[smallest]
}

fn entropy_bits(histogram: &[u32; 256], total: u32) -> f64 {
    let total = f64::from(total);
    histogram.iter().filter(|n| **n > 0).map(|n| f64::from(*n) * (total / f64::from(*n)).log2()).sum()
}

impl Way {
    fn of(byte: u8) -> Option<Self> {
        WAYS.into_iter().find(|way| *way as u8 == byte)
    }

    fn apply(self, before: u64, after: u64, width: usize) -> u64 {
        match self {
            Self::Difference => {
                let shift = 64 - 8 * width as u32;
                let signed = ((after.wrapping_sub(before) << shift) as i64) >> shift;
                (((signed << 1) ^ (signed >> 63)) as u64) & mask(width)
            }
            Self::Xor => before ^ after,
            Self::Value => after,
        }
    }

    fn undo(self, before: u64, stored: u64, width: usize) -> u64 {
        match self {
            Self::Difference => {
                let signed = (stored >> 1) as i64 ^ -((stored & 1) as i64);
                before.wrapping_add(signed as u64) & mask(width)
            }
            Self::Xor => before ^ stored,
            Self::Value => stored,
        }
    }
}

/// The rows that differ, of which those beyond the old ones were zero or empty.
fn changed_rows(schema: &ColumnSchema, old: &Chunk, new: &Chunk) -> Vec<u32> {
    let mut changed = Vec::new();
    match (old, new) {
        (Chunk::Plain(old), Chunk::Plain(new)) => {
            let row_bytes = schema.row_bytes().unwrap_or(0);
            if row_bytes == 0 {
                return changed;
            }
            let common = old.len().min(new.len());
            for start in (0..common).step_by(BLOCK_ROWS * row_bytes) {
                let end = common.min(start + BLOCK_ROWS * row_bytes);
                if old[start..end] == new[start..end] {
                    continue;
                }
                for offset in (start..end).step_by(row_bytes) {
                    if old[offset..offset + row_bytes] != new[offset..offset + row_bytes] {
                        changed.push((offset / row_bytes) as u32);
                    }
                }
            }
            let appended = new[common..].chunks_exact(row_bytes).zip(common / row_bytes..);
            changed.extend(
                appended.filter(|(row, _)| row.iter().any(|byte| *byte != 0)).map(|(_, row)| row as u32),
            );
        }
        (Chunk::Slow(old), Chunk::Slow(new)) => {
            let before = |row: usize| old.get(row).map_or(&[][..], |value| value);
            changed.extend((0..new.len()).filter(|row| before(*row) != new[*row]).map(|row| row as u32));
        }
        _ => unreachable!("tables of the same columns have the same kinds"),
    }
    changed
}

/// The partition that was packed as a whole.
pub(super) fn unpack_full(schemas: &[ColumnSchema], rows: usize, bytes: &[u8]) -> Result<Vec<Chunk>, String> {
    let mut bytes = Bytes(bytes);
    let mut chunks = Vec::with_capacity(schemas.len());
    for schema in schemas {
        chunks.push(match schema.row_bytes() {
            None => Chunk::Slow(bytes.values(rows, &schema.name)?),
            Some(row_bytes) => {
                if rows.saturating_mul(row_bytes) > bytes.0.len() {
                    return Err("it ends too early".into());
                }
                let mut out = vec![0; rows * row_bytes];
                for (lane, width) in lanes(schema) {
                    let planes = bytes.take(rows * width)?;
                    for first in (0..rows).step_by(BLOCK_ROWS) {
                        for row in first..rows.min(first + BLOCK_ROWS) {
                            for byte in 0..width {
                                out[row * row_bytes + lane + byte] = planes[byte * rows + row];
                            }
                        }
                    }
                }
                Chunk::Plain(out)
            }
        });
    }
    bytes.end()?;
    Ok(chunks)
}

/// Turns the old rows of a partition into the new ones.
pub(super) fn unpack_delta(
    schemas: &[ColumnSchema],
    chunks: &mut [Chunk],
    rows: usize,
    bytes: &[u8],
) -> Result<(), String> {
    let mut bytes = Bytes(bytes);
    for (schema, chunk) in schemas.iter().zip(chunks) {
        resize(chunk, schema, rows);
        let changed: Vec<u32> = match bytes.byte()? {
            COLUMN_SAME => continue,
            COLUMN_ALL => (0..rows as u32).collect(),
            COLUMN_SOME => {
                let bitmap = bytes.take(rows.div_ceil(8))?;
                let set = |row: &u32| bitmap[*row as usize / 8] & (1 << (row % 8)) != 0;
                (0..rows as u32).filter(set).collect()
            }
            other => return Err(format!("column \"{}\" is of kind {other}", schema.name)),
        };
        match chunk {
            Chunk::Slow(values) => {
                let new = bytes.values(changed.len(), &schema.name)?;
                changed.iter().zip(new).for_each(|(row, value)| values[*row as usize] = value);
            }
            Chunk::Plain(out) => unpack_lanes(&mut bytes, schema, out, &changed)?,
        }
    }
    bytes.end()
}

fn unpack_lanes(
    bytes: &mut Bytes<'_>,
    schema: &ColumnSchema,
    out: &mut [u8],
    changed: &[u32],
) -> Result<(), String> {
    let row_bytes = schema.row_bytes().unwrap_or(0);
    for (lane, width) in lanes(schema) {
        let way = bytes.byte()?;
        let way = Way::of(way).ok_or_else(|| format!("column \"{}\" has way {way}", schema.name))?;
        let planes = bytes.take(width * changed.len())?;
        for (i, row) in changed.iter().enumerate() {
            let mut stored = [0; 8];
            for byte in 0..width {
                stored[byte] = planes[byte * changed.len() + i];
            }
            let offset = *row as usize * row_bytes + lane;
            let before = number(&out[offset..], width);
            let after = way.undo(before, u64::from_le_bytes(stored), width).to_le_bytes();
            out[offset..offset + width].copy_from_slice(&after[..width]);
        }
    }
    Ok(())
}

/// Cuts a chunk to that many rows, or extends it by zeros or empty values.
fn resize(chunk: &mut Chunk, schema: &ColumnSchema, rows: usize) {
    match chunk {
        Chunk::Plain(bytes) => bytes.resize(rows * schema.row_bytes().unwrap_or(0), 0),
        Chunk::Slow(values) => values.resize(rows, Vec::new()),
    }
}

/// What is left of a packed partition.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn values(&mut self, count: usize, name: &str) -> Result<Vec<Vec<u8>>, String> {
        match postcard::take_from_bytes::<Vec<Vec<u8>>>(self.0) {
            Ok((values, rest)) if values.len() == count => {
                self.0 = rest;
                Ok(values)
            }
            Ok(_) => Err(format!("column \"{name}\" does not hold {count} values")),
            Err(error) => Err(format!("column \"{name}\" does not decode: {error}")),
        }
    }

    fn end(&self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err("it is longer than it should be".into()) }
    }
}

/// Where in a row each number is, and how wide.
fn lanes(schema: &ColumnSchema) -> impl Iterator<Item = (usize, usize)> + '_ {
    schema.lanes.iter().flatten().scan(0, |offset, width| {
        let range: Range<usize> = *offset..*offset + usize::from(*width);
        *offset = range.end;
        Some((range.start, range.len()))
    })
}

#[inline(always)]
fn number(bytes: &[u8], width: usize) -> u64 {
    let mut number = [0; 8];
    number[..width].copy_from_slice(&bytes[..width]);
    u64::from_le_bytes(number)
}

fn mask(width: usize) -> u64 {
    u64::MAX >> (64 - 8 * width as u32)
}

fn pack_values<V: AsRef<[u8]>>(values: &[V]) -> Vec<u8> {
    let values: Vec<&[u8]> = values.iter().map(AsRef::as_ref).collect();
    postcard::to_allocvec(&values).expect("postcard always encodes a list of byte strings")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schema(lanes: Option<Vec<u8>>) -> ColumnSchema {
        ColumnSchema { name: "c".into(), version: 1, lanes, fields: Vec::new() }
    }

    #[test]
    fn bytes_are_as_documented() {
        let columns = [schema(Some(vec![2, 1])), schema(None), schema(Some(Vec::new()))];
        let old = [
            Chunk::Plain(vec![1, 0, 7, 2, 0, 7]),
            Chunk::Slow(vec![vec![5], Vec::new()]),
            Chunk::Plain(Vec::new()),
        ];
        let new = [
            Chunk::Plain(vec![1, 0, 7, 1, 0, 7, 0, 0, 0]),
            Chunk::Slow(vec![vec![5], vec![6, 7], Vec::new()]),
            Chunk::Plain(Vec::new()),
        ];
        let old_parts: Vec<Part<'_>> = columns.iter().zip(&old).collect();
        let new_parts: Vec<Part<'_>> = columns.iter().zip(&new).collect();
        // Planes of the first number's two bytes, of the second's one; a list of values.
        assert_eq!(pack_full(&old_parts).bytes, [1, 2, 0, 0, 7, 7, 2, 1, 5, 0]);
        // Some rows, the bitmap, -1 as a difference, 0 as a difference; some rows, the bitmap, a list; the same.
        let packed = pack_delta(&old_parts, &new_parts, 2, 3).unwrap();
        assert_eq!(packed.bytes, [1, 0b010, 0, 1, 0, 0, 0, 1, 0b010, 1, 2, 6, 7, 0]);
        assert!(pack_delta(&old_parts, &old_parts, 2, 2).is_none());
    }

    fn chunk(lanes: Option<Vec<u8>>, rows: usize) -> BoxedStrategy<Chunk> {
        match lanes {
            Some(lanes) => {
                let bytes = rows * lanes.iter().map(|width| usize::from(*width)).sum::<usize>();
                prop::collection::vec(prop_oneof![3 => Just(0u8), 1 => any::<u8>()], bytes)
                    .prop_map(Chunk::Plain)
                    .boxed()
            }
            None => prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3), rows)
                .prop_map(Chunk::Slow)
                .boxed(),
        }
    }

    fn pairs() -> impl Strategy<Value = (ColumnSchema, usize, usize, Chunk, Chunk)> {
        let width = prop_oneof![Just(1u8), Just(2), Just(4), Just(8)];
        let lanes = prop::option::of(prop::collection::vec(width, 0..4));
        (lanes, 0usize..150, 0usize..150).prop_flat_map(|(lanes, old, new)| {
            let name = schema(lanes.clone());
            (Just(name), Just(old), Just(new), chunk(lanes.clone(), old), chunk(lanes, new))
        })
    }

    proptest! {
        #[test]
        fn any_rows_come_back((schema, old_rows, new_rows, old, new) in pairs()) {
            let schemas = [schema.clone()];
            let full = pack_full(&[(&schema, &new)]);
            prop_assert_eq!(unpack_full(&schemas, new_rows, &full.bytes), Ok(vec![new.clone()]));
            let mut chunks = vec![old.clone()];
            match pack_delta(&[(&schema, &old)], &[(&schema, &new)], old_rows, new_rows) {
                None => prop_assert_eq!(&old, &new),
                Some(delta) => {
                    prop_assert_eq!(unpack_delta(&schemas, &mut chunks, new_rows, &delta.bytes), Ok(()));
                    prop_assert_eq!(&chunks, &vec![new]);
                }
            }
        }

        #[test]
        fn any_bytes_unpack_or_fail(
            (schema, old_rows, _, old, _) in pairs(),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let _ = unpack_full(std::slice::from_ref(&schema), old_rows, &bytes);
            let _ = unpack_delta(&[schema], &mut [old], old_rows, &bytes);
        }
    }
}
