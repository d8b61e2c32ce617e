//! The header of a snapshot: what it is of, and the list of the records that belong to it.

use super::RECORD_BYTES_MAX;
use everworld_engine::{CHUNK_ROWS, Column, ColumnSchema, Image, StateHash, TableImage, Tick, Uid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use xxhash_rust::xxh3::Xxh3;

/// What a snapshot is of, and where the log goes on from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The line of history.
    pub branch: u32,
    /// The finished tick.
    pub tick: Tick,
    /// The hash of the state.
    pub hash: StateHash,
    /// The last input that the state contains.
    pub applied_seq: u64,
    /// The log record up to which the log must be durable before this snapshot may count (D7).
    pub lsn: u64,
    /// The log's chain value after that record.
    pub chain: u64,
    /// The build that ticked the world.
    pub build_id: [u8; 16],
    /// How many entities there are.
    pub entities: u64,
    /// When it was taken, in milliseconds since 1970: only retention looks at it.
    pub unix_millis: u64,
}

/// The header as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub meta: SnapshotMeta,
    /// The snapshot of the same epoch that the differences refer to; the first one has none.
    pub previous: Option<Tick>,
    /// Names the order of the rows: see [`order_check`].
    pub order: u64,
    /// Entries of the ledger below that number do not count any more.
    pub ledger_floor: u64,
    pub tables: Vec<TableHeader>,
    pub resources: Vec<ResourceHeader>,
    pub records: Vec<RecordHeader>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableHeader {
    /// Names the table in the epoch: one with the same columns keeps its number.
    pub number: u32,
    pub rows: u64,
    pub columns: Vec<ColumnSchema>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ResourceHeader {
    pub name: String,
    pub version: u16,
    /// The snapshot of the same epoch that holds the bytes.
    pub written: Tick,
}

/// A record of the stream: they follow each other in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RecordHeader {
    pub what: What,
    /// Bytes of the record with its envelope.
    pub bytes: u64,
}

/// What a record of the stream is. New ones are appended: the position is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    Full {
        table: u32,
        partition: u32,
    },
    Delta {
        table: u32,
        partition: u32,
    },
    /// The resource at that place of the header's list.
    Resource(u32),
    Host,
    Ledger,
}

impl Header {
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self)
            .expect("a header holds only sized sequences, which postcard always encodes")
    }

    /// The header in verified bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let header: Self = match postcard::take_from_bytes(bytes) {
            Ok((header, [])) => header,
            Ok(_) => return Err("the header is longer than it should be".into()),
            Err(error) => return Err(format!("the header does not decode: {error}")),
        };
        let rows = header.tables.iter().try_fold(0u64, |sum, table| sum.checked_add(table.rows));
        if rows != Some(header.meta.entities) {
            return Err("the tables do not have as many rows as there are entities".into());
        }
        if header.tables.iter().any(|table| table.rows > u64::from(u32::MAX)) {
            return Err("a table has more rows than there can be".into());
        }
        let too_wide = |table: &TableHeader| {
            let row_bytes: u64 =
                table.columns.iter().map(|column| column.row_bytes().unwrap_or(0) as u64).sum();
            row_bytes.saturating_mul(table.rows.min(CHUNK_ROWS as u64)) > RECORD_BYTES_MAX as u64
        };
        if header.tables.iter().any(too_wide) {
            return Err("a partition is larger than a record may be".into());
        }
        if header.records.iter().try_fold(0u64, |sum, record| sum.checked_add(record.bytes)).is_none() {
            return Err("the records are longer than a stream can be".into());
        }
        let columns = header.tables.iter().flat_map(|table| &table.columns);
        let mut widths = columns.flat_map(|column| column.lanes.iter().flatten());
        if let Some(width) = widths.find(|width| !matches!(width, 1 | 2 | 4 | 8)) {
            return Err(format!("a number has {width} bytes"));
        }
        if header.previous.is_some_and(|previous| previous >= header.meta.tick) {
            return Err("it refers to a later snapshot".into());
        }
        Ok(header)
    }

    /// Bytes of the stream.
    pub fn stream_bytes(&self) -> u64 {
        self.records.iter().map(|record| record.bytes).sum()
    }

    /// Whether each of its partitions is there, by the records so far. `there` are those that were after the snapshot before,
    /// and then those that are.
    pub fn is_whole(&self, there: &mut BTreeSet<(u32, u32)>) -> bool {
        let keys = |table: &TableHeader| {
            let number = table.number;
            (0..table.partitions()).map(move |partition| (number, partition))
        };
        let all: BTreeSet<_> = self.tables.iter().flat_map(keys).collect();
        there.extend(self.records.iter().filter_map(|record| match record.what {
            What::Full { table, partition } => Some((table, partition)),
            _ => None,
        }));
        // What goes away and comes back comes whole again.
        there.retain(|key| all.contains(key));
        there.len() == all.len()
    }

    /// The records with their numbers from 1 and their places in the stream.
    pub fn places(&self) -> impl Iterator<Item = RecordPlace> + '_ {
        let stream_bytes = self.stream_bytes();
        self.records.iter().zip(1..).scan(0, move |offset, (record, number)| {
            let place = RecordPlace {
                tick: self.meta.tick,
                number,
                what: record.what,
                offset: *offset,
                bytes: record.bytes,
                stream_bytes,
            };
            *offset += record.bytes;
            Some(place)
        })
    }
}

/// Where a record of a snapshot is.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordPlace {
    pub tick: Tick,
    pub number: u32,
    pub what: What,
    pub offset: u64,
    pub bytes: u64,
    pub stream_bytes: u64,
}

impl TableHeader {
    pub fn partitions(&self) -> u32 {
        self.rows.div_ceil(CHUNK_ROWS as u64) as u32
    }

    /// How many rows a partition has.
    pub fn partition_rows(&self, partition: u32) -> usize {
        (self.rows - u64::from(partition) * CHUNK_ROWS as u64).min(CHUNK_ROWS as u64) as usize
    }
}

/// Names the order of rows in an image: the state's hash does not depend on it, differences between images do.
pub(super) fn order_check(image: &Image) -> u64 {
    let mut hasher = Xxh3::new();
    for table in &image.tables {
        hasher.update(&(table.rows as u64).to_le_bytes());
        for chunk in table.column(Uid::NAME).iter().flat_map(|column| &column.chunks) {
            chunk.runs().for_each(|run| hasher.update(run));
        }
    }
    hasher.digest()
}

/// The columns of a table, without their rows.
pub(super) fn columns_of(table: &TableImage) -> Vec<ColumnSchema> {
    table.columns.iter().map(|column| (*column.schema).clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let column = |name: &str, lanes: Option<Vec<u8>>| ColumnSchema {
            name: name.into(),
            version: 2,
            lanes,
            fields: Vec::new(),
        };
        Header {
            meta: SnapshotMeta {
                branch: 1,
                tick: Tick(2),
                hash: StateHash(300),
                applied_seq: 4,
                lsn: 5,
                chain: 6,
                build_id: [7; 16],
                entities: 8,
                unix_millis: 9,
            },
            previous: Some(Tick(1)),
            order: 10,
            ledger_floor: 11,
            tables: vec![TableHeader {
                number: 12,
                rows: 8,
                columns: vec![column("a", Some(vec![4, 8])), column("b", None)],
            }],
            resources: vec![ResourceHeader { name: "r".into(), version: 3, written: Tick(1) }],
            records: [
                What::Full { table: 12, partition: 0 },
                What::Delta { table: 12, partition: 1 },
                What::Resource(0),
                What::Host,
                What::Ledger,
            ]
            .map(|what| RecordHeader { what, bytes: 40 })
            .into(),
        }
    }

    /// The header as docs/FORMAT.md has it. Whoever changes it raises the envelope's version.
    #[test]
    fn header_is_as_documented() {
        let mut expected = vec![1, 2, 0xAC, 2, 4, 5, 6];
        expected.extend([7; 16]);
        expected.extend([8, 9, 1, 1, 10, 11]);
        expected.extend([1, 12, 8, 2, 1, b'a', 2, 1, 2, 4, 8, 0, 1, b'b', 2, 0, 0]);
        expected.extend([1, 1, b'r', 3, 1]);
        expected.extend([5, 0, 12, 0, 40, 1, 12, 1, 40, 2, 0, 40, 3, 40, 4, 40]);
        assert_eq!(header().encode(), expected);
        assert_eq!(Header::decode(&expected), Ok(header()));
    }

    #[test]
    fn a_partition_that_went_away_is_missing_until_it_is_there_again() {
        let mut there = BTreeSet::new();
        let mut is_whole = |partitions: u64, records: &[u32]| {
            let mut header = header();
            header.tables[0].rows = partitions * CHUNK_ROWS as u64;
            let full = |partition: &u32| What::Full { table: 12, partition: *partition };
            header.records = records.iter().map(full).map(|what| RecordHeader { what, bytes: 40 }).collect();
            header.is_whole(&mut there)
        };
        assert!(!is_whole(3, &[0, 1]));
        assert!(is_whole(1, &[]));
        assert!(!is_whole(3, &[2]), "the second came anew");
        assert!(is_whole(3, &[1]));
        assert!(is_whole(0, &[]));
    }

    #[test]
    fn headers_that_contradict_themselves_are_refused() {
        let decode = |change: &dyn Fn(&mut Header)| {
            let mut header = header();
            change(&mut header);
            Header::decode(&header.encode())
        };
        assert!(decode(&|_| ()).is_ok());
        assert!(decode(&|header| header.meta.entities = 2).is_err());
        assert!(decode(&|header| header.previous = Some(Tick(2))).is_err());
        assert!(decode(&|header| header.tables[0].columns[0].lanes = Some(vec![3])).is_err());
        assert!(decode(&|header| header.records[0].bytes = u64::MAX).is_err());
        let rows = |rows: u64| {
            move |header: &mut Header| {
                header.tables[0].rows = rows;
                header.meta.entities = rows;
            }
        };
        assert!(decode(&rows(u64::MAX)).is_err());
        assert!(decode(&rows(1 << 20)).is_ok());
    }
}
