//! The whole state of a world at a finished tick, outside bevy: what mirror, store, hash and restore share.
//!
//! Chunks are shared and immutable: an image is cheap to clone and safe to read from any thread (T2).

use crate::{
    column::{Column, SlowColumn},
    explain::EntityRow,
    hash::{StateHash, column_salt, hash_plain_rows, hash_resource, hash_row, hash_state},
    ids::{Tick, Uid},
    input::TakenInputs,
    random::Draws,
    registry::Registry,
    schema::StoredField,
    slab::SharedRows,
    state::StateResource,
};
use bytemuck::Pod;
use rayon::prelude::*;
use serde::{Deserialize, Serialize, Serializer};
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

/// Rows of a chunk, the unit of a partition in the mirror and on disk. Measured: 4,096 cost the store 50 % more,
/// 65,536 save 3 %.
pub const CHUNK_ROWS: usize = 16_384;

/// Rows of fewer alike elements are looked at as a whole.
const ELEMENTS_MIN: usize = 4;

/// The state of a world at a finished tick.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The finished tick.
    pub tick: Tick,
    /// The hash of all that follows, see [`Image::compute_hash`].
    pub hash: StateHash,
    /// Entities, by the set of columns that they have.
    pub tables: Vec<TableImage>,
    /// Registered resources, the Uid counter and the pending inputs among them, by name.
    pub resources: Vec<ResourceImage>,
}

/// Entities that have the same columns.
#[derive(Clone, Debug, PartialEq)]
pub struct TableImage {
    /// How many entities.
    pub rows: usize,
    /// Their columns by name; one of them is `uid`.
    pub columns: Vec<ColumnImage>,
}

/// A column of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnImage {
    /// What its rows are.
    pub schema: Arc<ColumnSchema>,
    /// Its rows, [`CHUNK_ROWS`] in each chunk but the last.
    pub chunks: Vec<Arc<Chunk>>,
}

/// What the rows of a column are: all that is needed to store them without knowing the component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ColumnSchema {
    /// The column's name.
    pub name: String,
    /// The component's version.
    pub version: u16,
    /// For a plain column the widths of its numbers (1, 2, 4 or 8 bytes) in the order of the row's bytes;
    /// for a slow column `None`.
    pub lanes: Option<Vec<u8>>,
    /// Its fields by name, so that another build can bring its rows along. No part of the hash.
    pub fields: Vec<StoredField>,
}

impl ColumnSchema {
    /// Bytes of a row, for a plain column.
    pub fn row_bytes(&self) -> Option<usize> {
        self.lanes.as_ref().map(|lanes| lanes.iter().map(|width| usize::from(*width)).sum())
    }

    /// The lanes of an element and how many elements a row is made of, where rows are arrays: of at least four and at most
    /// 255 elements with the same lanes.
    pub fn elements(&self) -> Option<(&[u8], usize)> {
        let lanes = self.lanes.as_deref()?;
        let is_period = |of: &usize| {
            lanes.len().is_multiple_of(*of) && lanes.chunks_exact(*of).all(|other| *other == lanes[..*of])
        };
        let period = (1..=lanes.len() / ELEMENTS_MIN).find(is_period)?;
        let count = lanes.len() / period;
        u8::try_from(count).is_ok().then_some((&lanes[..period], count))
    }
}

/// Some consecutive rows of a column. Equal is what has the same rows, however they lie.
#[derive(Clone, Debug)]
pub enum Chunk {
    /// Rows of equal size, one after the other.
    Plain(Vec<u8>),
    /// The same, of which images of several ticks share what did not change.
    Shared(SharedRows),
    /// One postcard value per row.
    Slow(Vec<Vec<u8>>),
}

/// A registered resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceImage {
    /// The resource's name.
    pub name: String,
    /// The resource's version.
    pub version: u16,
    /// Its value, by postcard. Images of ticks between which it did not change share it.
    pub bytes: Arc<[u8]>,
}

/// Why an image is not a state of this world.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The image is of another schema and cannot be brought along, see [`crate::migrate_image`].
    #[error("the stored state does not fit this build: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Misfits(Vec<crate::migrate::Misfit>),
    /// The image has a column that the world does not know.
    #[error("unknown column \"{0}\"")]
    UnknownColumn(String),
    /// The column exists in another version or layout.
    #[error(
        "column \"{name}\" is stored as version {stored}, this build has version {known} (or another layout)"
    )]
    ColumnDiffers {
        /// The column.
        name: String,
        /// The version in the image.
        stored: u16,
        /// The version in this build.
        known: u16,
    },
    /// A registered resource is missing, unknown or of another version.
    #[error("resource \"{0}\" is missing, unknown or of another version")]
    Resource(String),
    /// A stored value does not decode.
    #[error("could not decode {what}: {detail}")]
    Decode {
        /// The column or resource.
        what: String,
        /// The decoder's words.
        detail: String,
    },
    /// Rows, chunks and Uids do not fit together.
    #[error("malformed table: {0}")]
    Malformed(String),
    /// The state that was built from the image has another hash than the image says.
    #[error("the restored state has hash {found}, expected {expected}")]
    Hash {
        /// What the image says.
        expected: StateHash,
        /// What came out.
        found: StateHash,
    },
}

impl Chunk {
    /// The bytes of its rows.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Plain(bytes) => bytes.len(),
            Self::Shared(rows) => rows.bytes(),
            Self::Slow(values) => values.iter().map(Vec::len).sum(),
        }
    }

    /// The bytes of all plain rows, as one or more slices of whole rows; none for a slow chunk.
    pub fn runs(&self) -> impl Iterator<Item = &[u8]> {
        let (plain, shared) = match self {
            Self::Plain(bytes) => (Some(bytes.as_slice()), None),
            Self::Shared(rows) => (None, Some(rows.runs())),
            Self::Slow(_) => (None, None),
        };
        plain.into_iter().chain(shared.into_iter().flatten())
    }

    /// The bytes of all plain rows in one piece, copied where they are shared; none for a slow chunk.
    pub fn plain(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Plain(bytes) => Some(Cow::Borrowed(bytes)),
            Self::Shared(_) => {
                let mut all = Vec::with_capacity(self.bytes());
                self.runs().for_each(|run| all.extend_from_slice(run));
                Some(Cow::Owned(all))
            }
            Self::Slow(_) => None,
        }
    }

    /// Whether these are the bytes of all plain rows.
    pub(crate) fn has_rows(&self, mut bytes: &[u8]) -> bool {
        self.runs().all(|run| bytes.split_off(..run.len()) == Some(run)) && bytes.is_empty()
    }

    /// The plain row, or the postcard value.
    pub fn row(&self, row: usize, row_bytes: usize) -> Option<&[u8]> {
        match self {
            Self::Plain(bytes) => bytes.get(row * row_bytes..(row + 1) * row_bytes),
            Self::Shared(rows) => rows.row(row),
            Self::Slow(values) => values.get(row).map(Vec::as_slice),
        }
    }

    /// Calls `see` for each row that both have and that differs; what they share is not looked at.
    pub fn each_difference(&self, other: &Self, row_bytes: usize, mut see: impl FnMut(usize)) {
        match (self, other) {
            (Self::Shared(a), Self::Shared(b)) => a.each_difference(b, see),
            (Self::Plain(a), Self::Plain(b)) if row_bytes > 0 => {
                // Most are alike: many at once.
                let blocks = a.chunks(row_bytes * 64).zip(b.chunks(row_bytes * 64));
                for (block, (a, b)) in blocks.enumerate().filter(|(_, (a, b))| a != b) {
                    each_difference(a, b, row_bytes, |row| see(block * 64 + row));
                }
            }
            _ => {
                let rows = self.rows(row_bytes).min(other.rows(row_bytes));
                (0..rows).filter(|row| self.row(*row, row_bytes) != other.row(*row, row_bytes)).for_each(see);
            }
        }
    }

    /// How many rows it has.
    pub fn rows(&self, row_bytes: usize) -> usize {
        match self {
            Self::Slow(values) => values.len(),
            _ => self.bytes().checked_div(row_bytes).unwrap_or(0),
        }
    }
}

impl PartialEq for Chunk {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Slow(a), Self::Slow(b)) => a == b,
            _ => self.plain() == other.plain(),
        }
    }
}

impl Eq for Chunk {}

/// Bytes as rows.
fn plain_rows<T: Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    // A buffer of bytes need not be aligned for numbers, though it nearly always is.
    bytemuck::try_cast_slice(bytes)
        .map_or_else(|_| Cow::Owned(bytemuck::pod_collect_to_vec(bytes)), Cow::Borrowed)
}

/// Calls `see` for each piece of so many bytes in which both differ, as far as both go.
#[inline]
pub fn each_difference(a: &[u8], b: &[u8], size: usize, mut see: impl FnMut(usize)) {
    // Numbers are compared as such, not by a call for each.
    macro_rules! sized {
        ($($SIZE:literal)+) => {
            match size {
                0 => {}
                $($SIZE => {
                    let pieces = a.as_chunks::<$SIZE>().0.iter().zip(b.as_chunks::<$SIZE>().0);
                    pieces.enumerate().filter(|(_, (a, b))| a != b).for_each(|(i, _)| see(i));
                })+
                _ => {
                    let pieces = a.chunks_exact(size).zip(b.chunks_exact(size));
                    pieces.enumerate().filter(|(_, (a, b))| a != b).for_each(|(i, _)| see(i));
                }
            }
        };
    }
    sized!(1 2 4 8 12 16 20 24 32);
}

/// The hash of a chunk of plain rows.
pub(crate) fn hash_chunk(uids: &[u64], salt: u64, chunk: &Chunk, row_bytes: usize) -> u64 {
    let mut rest = uids;
    chunk.runs().fold(0, |sum, run| {
        // Rows without bytes come in one run.
        let rows = run.len().checked_div(row_bytes).unwrap_or(rest.len());
        let (of_run, after) = rest.split_at(rows);
        rest = after;
        sum.wrapping_add(hash_plain_rows(of_run, salt, run, row_bytes))
    })
}

/// The Uids in a chunk of the Uid column.
pub(crate) fn uids_of(chunk: &Chunk) -> Cow<'_, [u64]> {
    match chunk {
        Chunk::Plain(bytes) => plain_rows(bytes),
        _ => Cow::Borrowed(&[]),
    }
}

impl TableImage {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&ColumnImage> {
        self.columns.iter().find(|column| column.schema.name == name)
    }

    /// The Uids of the rows of a chunk.
    pub(crate) fn chunk_uids(&self, chunk: usize) -> Cow<'_, [u64]> {
        self.column(Uid::NAME).map_or(Cow::Borrowed(&[]), |column| uids_of(&column.chunks[chunk]))
    }

    /// The Uids of all rows, in their order.
    pub fn uids(&self) -> impl Iterator<Item = Uid> {
        let chunks = 0..self.rows.div_ceil(CHUNK_ROWS);
        chunks.flat_map(|chunk| self.chunk_uids(chunk).into_owned()).map(Uid::new)
    }

    /// The rows of a plain column; `None` where the table does not have it, as this build has it.
    pub fn rows_of<T: Column>(&self) -> Option<Vec<T>> {
        let column = self.column(T::NAME)?;
        let fits = column.schema.version == T::VERSION && column.schema.row_bytes() == Some(size_of::<T>());
        let mut rows = Vec::with_capacity(if fits { self.rows } else { return None });
        for run in column.chunks.iter().flat_map(|chunk| chunk.runs()) {
            rows.extend_from_slice(&plain_rows(run));
        }
        Some(rows)
    }

    /// The bytes of a row of a column that is as this build has it.
    fn bytes_of(&self, name: &str, version: u16, row: usize) -> Option<&[u8]> {
        let column = self.column(name).filter(|column| column.schema.version == version)?;
        let chunk = column.chunks.get(row / CHUNK_ROWS)?;
        chunk.row(row % CHUNK_ROWS, column.schema.row_bytes().unwrap_or(0))
    }

    /// A row of a plain column; `None` where the table does not have it, as this build has it.
    pub fn row_of<T: Column>(&self, row: usize) -> Option<T> {
        bytemuck::try_pod_read_unaligned(self.bytes_of(T::NAME, T::VERSION, row)?).ok()
    }

    /// A row of a slow column; `None` where the table does not have it, as this build has it.
    pub fn slow_row_of<T: SlowColumn>(&self, row: usize) -> Option<T> {
        postcard::from_bytes(self.bytes_of(T::NAME, T::VERSION, row)?).ok()
    }

    /// The Uid of a row.
    pub fn uid(&self, row: usize) -> Option<Uid> {
        let chunk = self.column(Uid::NAME)?.chunks.get(row / CHUNK_ROWS)?;
        let Chunk::Plain(bytes) = &**chunk else { return None };
        let at = row % CHUNK_ROWS * 8;
        Some(Uid::new(bytemuck::pod_read_unaligned(bytes.get(at..at + 8)?)))
    }

    /// Checks that every column has one row per entity, in chunks of the right size.
    pub fn check(&self) -> Result<(), ImageError> {
        let malformed = |text: String| Err(ImageError::Malformed(text));
        if self.column(Uid::NAME).is_none() {
            return malformed("a table without Uids".into());
        }
        for (at, column) in self.columns.iter().enumerate() {
            let name = &column.schema.name;
            if self.columns[..at].iter().any(|other| other.schema.name == *name) {
                return malformed(format!("two columns are named \"{name}\""));
            }
            if column.chunks.len() != self.rows.div_ceil(CHUNK_ROWS) {
                return malformed(format!(
                    "column \"{name}\" has {} chunks for {} rows",
                    column.chunks.len(),
                    self.rows
                ));
            }
            for (i, chunk) in column.chunks.iter().enumerate() {
                let expected = CHUNK_ROWS.min(self.rows - i * CHUNK_ROWS);
                let fits = match (&**chunk, column.schema.row_bytes()) {
                    (Chunk::Slow(values), None) => values.len() == expected,
                    (Chunk::Slow(_), Some(_)) | (_, None) => false,
                    (chunk, Some(row_bytes)) => chunk.bytes() == expected * row_bytes,
                };
                if !fits {
                    return malformed(format!(
                        "chunk {i} of column \"{name}\" does not have {expected} rows"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// See [`Image::entity_json`].
struct ComponentsJson<'i> {
    image: &'i Image,
    registry: &'i Registry,
    table: &'i TableImage,
    row: usize,
}

impl Serialize for ComponentsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let components = self.registry.components().filter_map(|(_, info)| {
            let column = self.table.column(info.name)?;
            Some((info.name, info.cell_json(self.image.row(column, self.row))))
        });
        serializer.collect_map(components)
    }
}

impl Image {
    /// How many entities there are.
    pub fn entities(&self) -> usize {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// The bytes of rows and resources, as they lie in memory.
    pub fn bytes(&self) -> usize {
        let chunks = self.tables.iter().flat_map(|table| &table.columns).flat_map(|column| &column.chunks);
        let rows: usize = chunks.map(|chunk| chunk.bytes()).sum();
        rows + self.resources.iter().map(|resource| resource.bytes.len()).sum::<usize>()
    }

    /// The table and row of an entity, by a scan over the Uids.
    pub fn find(&self, uid: Uid) -> Option<(&TableImage, usize)> {
        self.tables.iter().find_map(|table| {
            let column = table.column(Uid::NAME)?;
            column.chunks.iter().enumerate().find_map(|(i, chunk)| match &**chunk {
                Chunk::Plain(bytes) => {
                    let row = bytes.chunks_exact(8).position(|row| row == uid.get().to_le_bytes())?;
                    Some((table, i * CHUNK_ROWS + row))
                }
                Chunk::Shared(_) | Chunk::Slow(_) => None,
            })
        })
    }

    /// The bytes of a row of a column: the plain row, or the postcard value.
    pub fn row<'a>(&self, column: &'a ColumnImage, row: usize) -> &'a [u8] {
        let bytes = column.schema.row_bytes().unwrap_or(0);
        let found = column.chunks[row / CHUNK_ROWS].row(row % CHUNK_ROWS, bytes);
        found.expect("a table has as many rows as it says")
    }

    /// The components of an entity as JSON, by name.
    pub fn entity_row(&self, registry: &Registry, table: &TableImage, row: usize) -> EntityRow {
        let columns = registry.components().filter_map(|(_, info)| {
            let column = table.column(info.name)?;
            Some((info.name.to_owned(), info.to_json(self.row(column, row))))
        });
        columns.collect()
    }

    /// The same, written as it is read.
    pub fn entity_json<'i>(
        &'i self,
        registry: &'i Registry,
        table: &'i TableImage,
        row: usize,
    ) -> impl Serialize + 'i {
        ComponentsJson { image: self, registry, table, row }
    }

    /// The number of the last input that this state has taken from the log; 0 when that is not readable.
    pub fn taken_seq(&self) -> u64 {
        self.value::<TakenInputs>().map_or(0, |inputs| inputs.up_to_seq)
    }

    /// The value of a resource; `None` where there is none, as this build has it.
    pub fn value<R: StateResource>(&self) -> Option<R> {
        let resource = self.resource(R::NAME).filter(|resource| resource.version == R::VERSION)?;
        postcard::from_bytes(&resource.bytes).ok()
    }

    /// The resource of that name.
    pub fn resource(&self, name: &str) -> Option<&ResourceImage> {
        self.resources.iter().find(|resource| resource.name == name)
    }

    /// The hash of the whole state, from scratch; in parallel on a thread of a pool.
    pub fn compute_hash(&self) -> StateHash {
        let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
        for table in &self.tables {
            let uids: Vec<_> =
                (0..table.rows.div_ceil(CHUNK_ROWS)).map(|chunk| table.chunk_uids(chunk)).collect();
            for column in &table.columns {
                let schema = &column.schema;
                let salt = column_salt(&schema.name, schema.version);
                let sum_chunk = |(chunk, uids): (&Arc<Chunk>, &Cow<'_, [u64]>)| match &**chunk {
                    Chunk::Plain(_) | Chunk::Shared(_) => {
                        hash_chunk(uids, salt, chunk, schema.row_bytes().unwrap_or(0))
                    }
                    Chunk::Slow(values) => {
                        let rows = uids.iter().zip(values);
                        rows.fold(0u64, |sum, (uid, value)| sum.wrapping_add(hash_row(*uid, salt, value)))
                    }
                };
                let pairs: Vec<_> = column.chunks.iter().zip(&uids).collect();
                // The mirror's thread is on no pool: rayon would start its global one for it.
                let sum: u64 = if rayon::current_thread_index().is_some() {
                    pairs.into_par_iter().map(sum_chunk).reduce(|| 0, u64::wrapping_add)
                } else {
                    pairs.into_iter().map(sum_chunk).fold(0, u64::wrapping_add)
                };
                let total = sums.entry(&schema.name).or_default();
                *total = total.wrapping_add(sum);
            }
        }
        let resources =
            self.resources.iter().map(|resource| (resource.name.as_str(), hash_resource(&resource.bytes)));
        hash_state(self.tick, sums, resources)
    }

    /// The same state with the rows of each table in another order: what heavy mode and the tests of W3 restore.
    pub fn shuffled(&self, seed: u64) -> Self {
        let mut image = self.clone();
        for (number, table) in image.tables.iter_mut().enumerate() {
            let mut draws = Draws::new(seed, self.tick.0, number as u64, 0);
            let mut order: Vec<usize> = (0..table.rows).collect();
            draws.shuffle(&mut order);
            for column in &mut table.columns {
                let source = column.clone();
                let of = |group: &[usize]| -> Chunk {
                    match source.schema.lanes {
                        Some(_) => Chunk::Plain(
                            group.iter().flat_map(|row| self.row(&source, *row)).copied().collect(),
                        ),
                        None => {
                            Chunk::Slow(group.iter().map(|row| self.row(&source, *row).to_vec()).collect())
                        }
                    }
                };
                column.chunks = order.chunks(CHUNK_ROWS).map(|group| Arc::new(of(group))).collect();
            }
        }
        image
    }
}
