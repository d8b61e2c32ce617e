//! The bytes of a partition before compression: all columns of up to 16,384 rows, whole or as a difference.
//!
//! Numbers are turned into byte planes (all first bytes, all second bytes, ...): the bytes of equal weight are alike
//! over the rows, and compress. A difference names the changed rows of each column by a bitmap, and holds for each
//! number of them what turns the old value into the new one, in the way that came out smallest on a sample. Of rows
//! that are arrays, the episodes of a memory say, it names and holds the changed elements.
//! docs/FORMAT.md has the bytes. Deliberately absent: compression and checksums, which are around it.

use super::envelope::Likeness;
use everworld_engine::{Chunk, ColumnSchema, each_difference, math::bits_of};
use std::{borrow::Cow, cell::RefCell, mem, ops::Range, sync::LazyLock};

/// Numbers are moved by code for their width.
macro_rules! by_width {
    ($width:expr, $Of:ident => $body:expr) => {
        by_width!(@ [1 u8, 2 u16, 4 u32, 8 u64] $width, $Of, $body)
    };
    (@ [$($known:literal $number:ty),+] $width:expr, $Of:ident, $body:expr) => {
        match $width {
            $($known => {
                type $Of = $number;
                $body
            })+
            other => unreachable!("a number of {other} bytes: schemas are checked when they are read"),
        }
    };
}

/// And by code for their way: asked for each number it would take longer than the number.
macro_rules! by_way {
    ($way:expr, $apply:ident => $body:expr) => {
        match $way {
            Way::Difference => {
                let $apply = |before, number| Way::Difference.$apply(before, number);
                $body
            }
            Way::Xor => {
                let $apply = |before, number| Way::Xor.$apply(before, number);
                $body
            }
            Way::Value => {
                let $apply = |before, number| Way::Value.$apply(before, number);
                $body
            }
        }
    };
}

/// An unsigned number of a lane, whatever it means.
trait Number: Copy + Default {
    const BYTES: usize;

    /// The number that a row has there.
    fn read(row: &[u8]) -> Self;
    fn write(self, row: &mut [u8]);
    /// Its byte of that weight.
    fn byte(self, at: usize) -> u8;
    fn with_byte(self, at: usize, byte: u8) -> Self;
    /// `self` less `before`, wrapping, zigzag.
    fn less(self, before: Self) -> Self;
    /// What `self` is that much more than, of [`Number::less`].
    fn more(self, difference: Self) -> Self;
    fn xor(self, other: Self) -> Self;
}

macro_rules! numbers {
    ($($unsigned:ty, $signed:ty;)+) => {
        $(impl Number for $unsigned {
            const BYTES: usize = size_of::<Self>();

            #[inline(always)]
            fn read(row: &[u8]) -> Self {
                let mut bytes = [0; size_of::<Self>()];
                bytes.copy_from_slice(&row[..size_of::<Self>()]);
                Self::from_le_bytes(bytes)
            }

            #[inline(always)]
            fn write(self, row: &mut [u8]) {
                row[..size_of::<Self>()].copy_from_slice(&self.to_le_bytes());
            }

            #[inline(always)]
            fn byte(self, at: usize) -> u8 {
                (self >> (8 * at)) as u8
            }

            #[inline(always)]
            fn with_byte(self, at: usize, byte: u8) -> Self {
                self | Self::from(byte) << (8 * at)
            }

            #[inline(always)]
            fn less(self, before: Self) -> Self {
                let signed = self.wrapping_sub(before) as $signed;
                ((signed << 1) ^ (signed >> (Self::BITS - 1))) as Self
            }

            #[inline(always)]
            fn more(self, difference: Self) -> Self {
                self.wrapping_add((difference >> 1) ^ (difference & 1).wrapping_neg())
            }

            #[inline(always)]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }
        })+
    };
}

numbers! {
    u8, i8;
    u16, i16;
    u32, i32;
    u64, i64;
}

/// So many numbers are moved at once: of each plane then a register of any machine, not byte by byte.
const AT_ONCE: usize = 16;

/// Writes so many numbers of a lane into its planes.
#[inline(always)]
fn split<N: Number>(numbers: &[N; AT_ONCE], planes: &mut [u8], count: usize, first: usize) {
    for at in 0..N::BYTES {
        let plane = &mut planes[at * count + first..][..AT_ONCE];
        for (byte, number) in plane.iter_mut().zip(numbers) {
            *byte = number.byte(at);
        }
    }
}

/// Reads so many numbers of a lane from its planes.
#[inline(always)]
fn join<N: Number>(planes: &[u8], count: usize, first: usize) -> [N; AT_ONCE] {
    let mut numbers = [N::default(); AT_ONCE];
    for at in 0..N::BYTES {
        let plane = &planes[at * count + first..][..AT_ONCE];
        for (number, byte) in numbers.iter_mut().zip(plane) {
            *number = number.with_byte(at, *byte);
        }
    }
    numbers
}

/// The same of one.
#[inline(always)]
fn join_one<N: Number>(planes: &[u8], count: usize, at: usize) -> N {
    (0..N::BYTES).fold(N::default(), |number, byte| number.with_byte(byte, planes[byte * count + at]))
}

/// Bytes of rows that are moved together, number by number: what does not stay in the cache meanwhile is fetched again for
/// each number of a row.
const BLOCK_BYTES: usize = 16 << 10;

/// So many rows of that size are moved together.
fn block_rows(row_bytes: usize) -> usize {
    (BLOCK_BYTES / row_bytes.max(1)).clamp(16, 1024)
}
/// Rows that the choice of a lane's way looks at.
const SAMPLE_ROWS: usize = 1024;
/// A plane that is shorter is compressed together with its neighbour.
const BREAK_BYTES: usize = 2048;

const COLUMN_SAME: u8 = 0;
const COLUMN_SOME: u8 = 1;
const COLUMN_ALL: u8 = 2;
/// Since version 3.
const COLUMN_ELEMENTS: u8 = 3;

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
pub(super) struct Packed {
    pub bytes: Vec<u8>,
    pub breaks: Vec<usize>,
    pub likeness: Likeness,
}

/// So many buffers a thread keeps from one partition to the next: memory that the system gives anew, page by page, for each
/// of them takes a good part of the time.
const SPARE_MAX: usize = 3;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn spare_buffer() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

fn give_back(mut buffer: Vec<u8>) {
    SPARE.with_borrow_mut(|spare| {
        if buffer.capacity() > 0 && spare.len() < SPARE_MAX {
            buffer.clear();
            spare.push(buffer);
        }
    });
}

impl Drop for Packed {
    fn drop(&mut self) {
        give_back(mem::take(&mut self.bytes));
    }
}

impl Packed {
    fn new(likeness: Likeness) -> Self {
        Self { bytes: spare_buffer(), breaks: Vec::new(), likeness }
    }

    fn note_break(&mut self) {
        let last = self.breaks.last().copied().unwrap_or(0);
        if self.bytes.len() >= last + BREAK_BYTES {
            self.breaks.push(self.bytes.len());
        }
    }

    fn push_values<V: AsRef<[u8]>>(&mut self, values: &[V]) {
        self.likeness = Likeness::Repeats;
        self.note_break();
        self.bytes.extend_from_slice(&pack_values(values));
        self.note_break();
    }

    /// Room for a plane of each byte of a lane, zeros so far. Returns where they begin.
    fn push_planes(&mut self, width: usize, count: usize) -> usize {
        let start = self.bytes.len();
        self.bytes.resize(start + width * count, 0);
        self.note_planes(start, width, count);
        start
    }

    /// Writes the numbers of those lanes into their planes, of so many rows, of which each begins at `offset`.
    fn fill_planes(
        &mut self,
        planes: &[Planes],
        row_bytes: usize,
        (old, new): (&[u8], &[u8]),
        count: usize,
        offset: impl Fn(usize) -> usize,
    ) {
        let block = block_rows(row_bytes);
        for first in (0..count).step_by(block) {
            for Planes { lane, width, way, start } in planes {
                by_width!(*width, Of => by_way!(way, apply => {
                    let planes = &mut self.bytes[*start..*start + Of::BYTES * count];
                    let stored = |i: usize| {
                        let (before, after) = both::<Of>(old, new, offset(i) + lane);
                        apply(before, after)
                    };
                    let (end, mut i) = (count.min(first + block), first);
                    while i + AT_ONCE <= end {
                        let mut numbers = [Of::default(); AT_ONCE];
                        numbers.iter_mut().zip(i..).for_each(|(number, i)| *number = stored(i));
                        split(&numbers, planes, count, i);
                        i += AT_ONCE;
                    }
                    for i in i..end {
                        let number = stored(i);
                        (0..Of::BYTES).for_each(|at| planes[at * count + i] = number.byte(at));
                    }
                }));
            }
        }
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

/// What a number was and is; what was not there was zero.
#[inline(always)]
fn both<N: Number>(old: &[u8], new: &[u8], at: usize) -> (N, N) {
    (old.get(at..at + N::BYTES).map_or(N::default(), N::read), N::read(&new[at..]))
}

/// Where the planes of a lane begin, and what they hold.
struct Planes {
    lane: usize,
    width: usize,
    way: Way,
    start: usize,
}

/// A partition as a whole.
pub(super) fn pack_full(columns: &[Part<'_>]) -> Packed {
    let mut packed = Packed::new(Likeness::Repeats);
    for (schema, chunk) in columns {
        match (chunk, chunk.plain()) {
            (Chunk::Slow(values), _) => packed.push_values(values),
            (_, None) => unreachable!("what is not slow has plain rows"),
            (_, Some(rows)) => {
                let row_bytes = schema.row_bytes().unwrap_or(0);
                let count = rows.len().checked_div(row_bytes).unwrap_or(0);
                let planes: Vec<Planes> = lanes(lane_widths(schema))
                    .map(|(lane, width)| {
                        let start = packed.push_planes(width, count);
                        Planes { lane, width, way: Way::Value, start }
                    })
                    .collect();
                packed.fill_planes(&planes, row_bytes, (&[], &rows), count, |row| row * row_bytes);
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
    let mut packed = Packed::new(Likeness::Noise);
    let mut differs = old_rows != new_rows;
    for ((schema, old), (_, new)) in old.iter().zip(new) {
        let changed = if std::ptr::eq(*old, *new) { Vec::new() } else { changed_rows(schema, old, new) };
        differs |= !changed.is_empty();
        if changed.is_empty() {
            packed.bytes.push(COLUMN_SAME);
            continue;
        }
        let rows = ChangedRows::of(schema, old, new, &changed);
        let elements = rows.as_ref().and_then(|rows| Elements::of(schema, rows));
        match &elements {
            Some(elements) => packed.bytes.extend([COLUMN_ELEMENTS, elements.per_row as u8]),
            None if changed.len() == new_rows => packed.bytes.push(COLUMN_ALL),
            None => packed.bytes.push(COLUMN_SOME),
        }
        if elements.is_some() || changed.len() < new_rows {
            packed.note_break();
            let start = packed.bytes.len();
            packed.bytes.resize(start + new_rows.div_ceil(8), 0);
            changed.iter().for_each(|row| packed.bytes[start + *row as usize / 8] |= 1 << (row % 8));
            packed.note_break();
        }
        match (new, &rows) {
            (Chunk::Slow(values), _) => {
                let values: Vec<_> = changed.iter().map(|row| &values[*row as usize]).collect();
                packed.push_values(&values);
            }
            (_, None) => unreachable!("tables of the same columns have the same kinds"),
            (_, Some(rows)) => match elements {
                Some(elements) => {
                    packed.bytes.extend_from_slice(&elements.masks);
                    packed.note_break();
                    pack_lanes(&mut packed, elements.lanes, &rows.old, &rows.new, &elements.changed);
                }
                None => pack_lanes(&mut packed, lane_widths(schema), &rows.old, &rows.new, &rows.at),
            },
        }
    }
    differs.then_some(packed)
}

/// Changed rows as they were and are, and where in these bytes each of them is.
struct ChangedRows<'c> {
    old: Cow<'c, [u8]>,
    new: Cow<'c, [u8]>,
    at: Cow<'c, [u32]>,
}

impl Drop for ChangedRows<'_> {
    fn drop(&mut self) {
        for bytes in [&mut self.old, &mut self.new] {
            if let Cow::Owned(bytes) = mem::take(bytes) {
                give_back(bytes);
            }
        }
    }
}

impl<'c> ChangedRows<'c> {
    /// `None` for a slow column.
    fn of(schema: &ColumnSchema, old: &'c Chunk, new: &'c Chunk, changed: &'c [u32]) -> Option<Self> {
        if let (Chunk::Plain(old), Chunk::Plain(new)) = (old, new) {
            return Some(Self { old: old.into(), new: new.into(), at: changed.into() });
        }
        // The few that changed are put side by side, rather than all in one piece.
        let row_bytes = schema.row_bytes()?;
        let zeros = vec![0; row_bytes];
        let gather = |chunk: &'c Chunk| -> Vec<u8> {
            let row = |row: &u32| chunk.row(*row as usize, row_bytes).unwrap_or(&zeros);
            let mut bytes = spare_buffer();
            bytes.reserve(changed.len() * row_bytes);
            changed.iter().for_each(|at| bytes.extend_from_slice(row(at)));
            bytes
        };
        let at: Vec<u32> = (0..changed.len() as u32).collect();
        Some(Self { old: gather(old).into(), new: gather(new).into(), at: at.into() })
    }
}

/// The changed elements of rows that are arrays.
struct Elements<'s> {
    /// The lanes of an element.
    lanes: &'s [u8],
    per_row: usize,
    /// A bit for each element of a changed row, in whole bytes: the first bytes of all rows, the second ones, ...
    masks: Vec<u8>,
    /// By number among the elements of all rows.
    changed: Vec<u32>,
}

impl<'s> Elements<'s> {
    /// `None` where the rows are better told as a whole.
    fn of(schema: &'s ColumnSchema, ChangedRows { old, new, at: rows }: &ChangedRows<'_>) -> Option<Self> {
        let (lanes, per_row) = schema.elements()?;
        let (bytes, planes) = (bytes_of(lanes), per_row.div_ceil(8));
        let mut masks = vec![0; rows.len() * planes];
        let zeros = vec![0; bytes * per_row];
        let mut changed = Vec::new();
        let most = rows.len() * per_row / 2;
        for (i, row) in rows.iter().enumerate() {
            let first = *row as usize * per_row;
            let at = first * bytes..(first + per_row) * bytes;
            each_difference(old.get(at.clone()).unwrap_or(&zeros), &new[at], bytes, |element| {
                masks[element / 8 * rows.len() + i] |= 1 << (element % 8);
                changed.push((first + element) as u32);
            });
            if changed.len() > most {
                return None;
            }
        }
        Some(Self { lanes, per_row, masks, changed })
    }
}

/// What turns old numbers into new ones, lane by lane, of rows or elements with those lanes.
fn pack_lanes(packed: &mut Packed, widths: &[u8], old: &[u8], new: &[u8], changed: &[u32]) {
    let row_bytes = bytes_of(widths);
    let touched = touched_bytes(row_bytes, old, new, changed);
    let offset = |i: usize| changed[i] as usize * row_bytes;
    let mut planes = Vec::new();
    for (lane, width) in lanes(widths) {
        // Of a row with many numbers most may stay as they are.
        let stays = touched[lane..lane + width].iter().all(|byte| *byte == 0);
        let way = if stays {
            Way::Difference
        } else {
            by_width!(width, Of => smallest_way::<Of>(changed.len(), |i| both(old, new, offset(i) + lane)))
        };
        packed.bytes.push(way as u8);
        let start = packed.push_planes(width, changed.len());
        if !stays {
            planes.push(Planes { lane, width, way, start });
        }
    }
    packed.fill_planes(&planes, row_bytes, (old, new), changed.len(), offset);
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
fn smallest_way<N: Number>(count: usize, numbers: impl Fn(usize) -> (N, N)) -> Way {
    let step = count.div_ceil(SAMPLE_ROWS).max(1);
    let sample: Vec<(N, N)> = (0..count).step_by(step).map(numbers).collect();
    let bits = |way: &Way| {
        let mut histograms = [[0u16; 256]; 8];
        for (before, after) in &sample {
            let number = way.apply(*before, *after);
            for (at, histogram) in histograms[..N::BYTES].iter_mut().enumerate() {
                histogram[usize::from(number.byte(at))] += 1;
            }
        }
        histograms[..N::BYTES].iter().map(entropy_bits).sum::<f64>()
    };
    let sizes = WAYS.map(|way| bits(&way));
    let smallest = (0..WAYS.len()).min_by(|a, b| sizes[*a].total_cmp(&sizes[*b])).unwrap_or(0);
    WAYS[smallest]
}

/// The bits that a plane's bytes need, less what depends only on how many there are.
fn entropy_bits(histogram: &[u16; 256]) -> f64 {
    static BITS: LazyLock<Vec<f64>> = LazyLock::new(|| {
        let bits = |n: usize| if n == 0 { 0.0 } else { -(n as f64) * (n as f64).log2() };
        (0..=SAMPLE_ROWS).map(bits).collect()
    });
    let bits = &*BITS;
    histogram.iter().map(|n| bits[usize::from(*n)]).sum()
}

impl Way {
    fn of(byte: u8) -> Option<Self> {
        WAYS.into_iter().find(|way| *way as u8 == byte)
    }

    #[inline(always)]
    fn apply<N: Number>(self, before: N, after: N) -> N {
        match self {
            Self::Difference => after.less(before),
            Self::Xor => before.xor(after),
            Self::Value => after,
        }
    }

    #[inline(always)]
    fn undo<N: Number>(self, before: N, stored: N) -> N {
        match self {
            Self::Difference => before.more(stored),
            Self::Xor => before.xor(stored),
            Self::Value => stored,
        }
    }
}

/// The rows that differ, of which those beyond the old ones were zero or empty.
fn changed_rows(schema: &ColumnSchema, old: &Chunk, new: &Chunk) -> Vec<u32> {
    let mut changed = Vec::new();
    match (old, new) {
        (Chunk::Slow(old), Chunk::Slow(new)) => {
            let before = |row: usize| old.get(row).map_or(&[][..], |value| value);
            changed.extend((0..new.len()).filter(|row| before(*row) != new[*row]).map(|row| row as u32));
        }
        (Chunk::Slow(_), _) | (_, Chunk::Slow(_)) => {
            unreachable!("tables of the same columns have the same kinds")
        }
        _ => {
            let row_bytes = schema.row_bytes().unwrap_or(0);
            if row_bytes == 0 {
                return changed;
            }
            old.each_difference(new, row_bytes, |row| changed.push(row as u32));
            let is_set =
                |row: &usize| new.row(*row, row_bytes).is_some_and(|row| row.iter().any(|byte| *byte != 0));
            changed.extend((old.rows(row_bytes)..new.rows(row_bytes)).filter(is_set).map(|row| row as u32));
        }
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
                let mut planes = Vec::new();
                for (lane, width) in lanes(lane_widths(schema)) {
                    let of_lane = bytes.take(rows * width)?;
                    // Of what is empty in every row, as free places of an array are, nothing is to be written.
                    if !are_zero(of_lane) {
                        planes.push((lane, width, of_lane));
                    }
                }
                let block = block_rows(row_bytes);
                for first in (0..rows).step_by(block) {
                    for (lane, width, planes) in &planes {
                        by_width!(*width, Of => {
                            let (end, mut row) = (rows.min(first + block), first);
                            while row + AT_ONCE <= end {
                                for (number, row) in join::<Of>(planes, rows, row).into_iter().zip(row..) {
                                    number.write(&mut out[row * row_bytes + lane..]);
                                }
                                row += AT_ONCE;
                            }
                            for row in row..end {
                                join_one::<Of>(planes, rows, row).write(&mut out[row * row_bytes + lane..]);
                            }
                        });
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
        let kind = bytes.byte()?;
        let per_row = if kind == COLUMN_ELEMENTS { Some(bytes.byte()?) } else { None };
        let changed: Vec<u32> = match kind {
            COLUMN_SAME => continue,
            COLUMN_ALL => (0..rows as u32).collect(),
            COLUMN_SOME | COLUMN_ELEMENTS => {
                let bitmap = bytes.take(rows.div_ceil(8))?;
                let mut changed = Vec::with_capacity(rows);
                for (i, byte) in bitmap.iter().enumerate() {
                    changed.extend(bits_of((*byte).into()).map(|bit| (i * 8 + bit) as u32));
                }
                // The last byte may have more bits than there are rows.
                changed.truncate(changed.partition_point(|row| (*row as usize) < rows));
                changed
            }
            other => return Err(format!("column \"{}\" is of kind {other}", schema.name)),
        };
        match (chunk, per_row) {
            (Chunk::Shared(_), _) => unreachable!("what is read is plain"),
            (Chunk::Slow(_), Some(_)) => return Err(format!("column \"{}\" has no elements", schema.name)),
            (Chunk::Slow(values), None) => {
                let new = bytes.values(changed.len(), &schema.name)?;
                changed.iter().zip(new).for_each(|(row, value)| values[*row as usize] = value);
            }
            (Chunk::Plain(out), None) => {
                unpack_lanes(&mut bytes, schema, lane_widths(schema), out, &changed)?;
            }
            (Chunk::Plain(out), Some(per_row)) => {
                let (lanes, elements) = unpack_elements(&mut bytes, schema, per_row.into(), &changed)?;
                unpack_lanes(&mut bytes, schema, lanes, out, &elements)?;
            }
        }
    }
    bytes.end()
}

/// The lanes of an element, and the changed elements of those rows.
fn unpack_elements<'s>(
    bytes: &mut Bytes<'_>,
    schema: &'s ColumnSchema,
    per_row: usize,
    rows: &[u32],
) -> Result<(&'s [u8], Vec<u32>), String> {
    let lanes = lane_widths(schema);
    let of_one = lanes.len().checked_div(per_row).filter(|of_one| {
        *of_one > 0
            && of_one * per_row == lanes.len()
            && lanes.chunks_exact(*of_one).all(|one| *one == lanes[..*of_one])
    });
    let Some(of_one) = of_one else {
        return Err(format!("column \"{}\" does not have {per_row} alike elements", schema.name));
    };
    let masks = bytes.take(rows.len() * per_row.div_ceil(8))?;
    let mut elements = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        for (plane, masks) in masks.chunks_exact(rows.len()).enumerate() {
            let below = bits_of(masks[i].into()).map(|bit| plane * 8 + bit).filter(|bit| *bit < per_row);
            elements.extend(below.map(|element| (*row as usize * per_row + element) as u32));
        }
    }
    Ok((&lanes[..of_one], elements))
}

fn unpack_lanes(
    bytes: &mut Bytes<'_>,
    schema: &ColumnSchema,
    widths: &[u8],
    out: &mut [u8],
    changed: &[u32],
) -> Result<(), String> {
    let row_bytes = bytes_of(widths);
    let mut planes = Vec::new();
    for (lane, width) in lanes(widths) {
        let way = bytes.byte()?;
        let way = Way::of(way).ok_or_else(|| format!("column \"{}\" has way {way}", schema.name))?;
        let of_lane = bytes.take(width * changed.len())?;
        // Of rows with many numbers most stay as they are.
        if way == Way::Value || !are_zero(of_lane) {
            planes.push((lane, width, way, of_lane));
        }
    }
    let mut first = 0;
    for rows in changed.chunks(block_rows(row_bytes)) {
        for (lane, width, way, planes) in &planes {
            by_width!(*width, Of => by_way!(way, undo => {
                let mut put = |row: u32, stored: Of| {
                    let number = &mut out[row as usize * row_bytes + lane..][..Of::BYTES];
                    undo(Of::read(number), stored).write(number);
                };
                let (some, rest) = rows.as_chunks::<AT_ONCE>();
                for (rows, i) in some.iter().zip((first..).step_by(AT_ONCE)) {
                    let stored = join::<Of>(planes, changed.len(), i);
                    rows.iter().zip(stored).for_each(|(row, stored)| put(*row, stored));
                }
                for (row, i) in rest.iter().zip(first + some.len() * AT_ONCE..) {
                    put(*row, join_one(planes, changed.len(), i));
                }
            }));
        }
        first += rows.len();
    }
    Ok(())
}

/// Looked at many at once.
fn are_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|bytes| bytes.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Cuts a chunk to that many rows, or extends it by zeros or empty values.
fn resize(chunk: &mut Chunk, schema: &ColumnSchema, rows: usize) {
    match chunk {
        Chunk::Plain(bytes) => bytes.resize(rows * schema.row_bytes().unwrap_or(0), 0),
        Chunk::Shared(_) => unreachable!("what is read is plain"),
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

/// How wide each number of a row is; of a slow column none.
fn lane_widths(schema: &ColumnSchema) -> &[u8] {
    schema.lanes.as_deref().unwrap_or_default()
}

fn bytes_of(widths: &[u8]) -> usize {
    widths.iter().map(|width| usize::from(*width)).sum()
}

/// Where in a row each number is, and how wide.
fn lanes(widths: &[u8]) -> impl Iterator<Item = (usize, usize)> + '_ {
    widths.iter().scan(0, |offset, width| {
        let range: Range<usize> = *offset..*offset + usize::from(*width);
        *offset = range.end;
        Some((range.start, range.len()))
    })
}

fn pack_values<V: AsRef<[u8]>>(values: &[V]) -> Vec<u8> {
    let values: Vec<&[u8]> = values.iter().map(AsRef::as_ref).collect();
    postcard::to_allocvec(&values).expect("postcard always encodes a list of byte strings")
}

#[cfg(test)]
mod tests {
    use super::*;
    use everworld_engine::SharedRows;
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

    #[test]
    fn elements_are_as_documented() {
        // Nine elements of a byte and two.
        let array = schema(Some([1, 2].repeat(9)));
        let old = vec![0; 2 * 27];
        let mut new = old.clone();
        (new[27 + 3], new[27 + 24], new[27 + 26]) = (7, 1, 2);
        let (old, new) = (Chunk::Plain(old), Chunk::Plain(new));
        let packed = pack_delta(&[(&array, &old)], &[(&array, &new)], 2, 2).unwrap();
        // Nine a row; the second row; its second and ninth element; 7 and 1 as values, 0 and 512 in planes.
        let differences = [3, 9, 0b10, 0b10, 0b1, 0, 14, 2, 0, 0, 0, 0, 4];
        assert_eq!(packed.bytes, differences);
        let mut chunks = vec![old];
        let array = [array];
        unpack_delta(&array, &mut chunks, 2, &packed.bytes).unwrap();
        assert_eq!(chunks, [new]);
        for (at, wrong) in [(1, 0), (1, 2), (1, 18), (1, 27)] {
            let mut bytes = differences;
            bytes[at] = wrong;
            assert!(unpack_delta(&array, &mut chunks, 2, &bytes).unwrap_err().contains("alike elements"));
        }
    }

    /// Few of the numbers of an array change: they alone are told.
    #[test]
    fn one_element_of_many_takes_its_own_bytes() {
        let array = schema(Some([4, 4, 2, 2].repeat(16)));
        let old: Vec<u8> = (0..1000 * 192u32).map(|i| i as u8).collect();
        let mut new = old.clone();
        (0..1000).step_by(5).for_each(|row| new[row * 192 + (row % 16) * 12 + 4] ^= 0x55);
        let (old, new) = (Chunk::Plain(old), Chunk::Plain(new));
        let packed = pack_delta(&[(&array, &old)], &[(&array, &new)], 1000, 1000).unwrap();
        assert_eq!(packed.bytes.len(), 2 + 125 + 200 * 2 + 4 + 200 * 12);
    }

    fn shared(chunk: &Chunk, row_bytes: usize) -> Chunk {
        Chunk::Shared(SharedRows::new(row_bytes, chunk.plain().unwrap().into_owned()))
    }

    fn chunk(lanes: Option<Vec<u8>>, rows: usize) -> BoxedStrategy<Chunk> {
        match lanes {
            Some(lanes) => {
                let bytes = rows * lanes.iter().map(|width| usize::from(*width)).sum::<usize>();
                prop::collection::vec(prop_oneof![9 => Just(0u8), 1 => any::<u8>()], bytes)
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
        let lanes = prop::option::of((prop::collection::vec(width, 0..4), prop_oneof![Just(1), 1..20usize]));
        let lanes = lanes.prop_map(|lanes| lanes.map(|(one, count)| one.repeat(count)));
        (lanes, 0usize..150, 0usize..150).prop_flat_map(|(lanes, old, new)| {
            let name = schema(lanes.clone());
            (Just(name), Just(old), Just(new), chunk(lanes.clone(), old), chunk(lanes, new))
        })
    }

    proptest! {
        #[test]
        fn any_rows_come_back((schema, old_rows, new_rows, old, new) in pairs(), is_shared: bool) {
            let schemas = [schema.clone()];
            let full = pack_full(&[(&schema, &new)]);
            prop_assert_eq!(unpack_full(&schemas, new_rows, &full.bytes), Ok(vec![new.clone()]));
            let mut chunks = vec![old.clone()];
            // As they lie in a mirror.
            let (old, new) = match schema.row_bytes() {
                Some(row_bytes) if is_shared && row_bytes > 0 => {
                    prop_assert_eq!(&pack_full(&[(&schema, &shared(&new, row_bytes))]).bytes, &full.bytes);
                    (shared(&old, row_bytes), shared(&new, row_bytes))
                }
                _ => (old, new),
            };
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
