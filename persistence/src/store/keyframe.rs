//! The header of a keyframe: what it is of, and the list of the records that belong to it.

use everworld_engine::{CHUNK_ROWS, Chunk, ColumnImage, ColumnSchema, Image, StateHash, Tick};
use serde::{Deserialize, Serialize};

/// What a keyframe is of, and where the log goes on from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyframeMeta {
    /// The line of history.
    pub branch: u32,
    /// The finished tick.
    pub tick: Tick,
    /// The hash of the state.
    pub hash: StateHash,
    /// The last input that the state contains.
    pub applied_seq: u64,
    /// The log record up to which the log must be durable before this keyframe may count (D7).
    pub lsn: u64,
    /// The log's chain value after that record.
    pub chain: u64,
    /// The build that ticked the world.
    pub build_id: [u8; 16],
    /// How many entities there are.
    pub entities: u64,
}

/// The header as it is stored.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyframeHeader {
    pub meta: KeyframeMeta,
    pub tables: Vec<TableHeader>,
    pub resources: Vec<ResourceHeader>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableHeader {
    pub rows: u64,
    pub columns: Vec<ColumnHeader>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ColumnHeader {
    pub schema: ColumnSchema,
    pub chunks: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ResourceHeader {
    pub name: String,
    pub version: u16,
    pub bytes: u64,
}

impl KeyframeHeader {
    /// The header of an image, if the two fit together.
    pub fn of(meta: &KeyframeMeta, image: &Image) -> Result<Self, String> {
        if (meta.tick, meta.hash, meta.entities) != (image.tick, image.hash, image.entities() as u64) {
            return Err(format!(
                "the image is of tick {} and hash {}, its description not",
                image.tick, image.hash
            ));
        }
        for table in &image.tables {
            table.check().map_err(|error| error.to_string())?;
        }
        let column = |column: &ColumnImage| ColumnHeader {
            schema: (*column.schema).clone(),
            chunks: column.chunks.len() as u32,
        };
        let tables = image.tables.iter().map(|table| TableHeader {
            rows: table.rows as u64,
            columns: table.columns.iter().map(column).collect(),
        });
        let resources = image.resources.iter().map(|resource| ResourceHeader {
            name: resource.name.clone(),
            version: resource.version,
            bytes: resource.bytes.len() as u64,
        });
        Ok(Self { meta: *meta, tables: tables.collect(), resources: resources.collect() })
    }

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
        for table in &header.tables {
            let chunks = table.rows.div_ceil(CHUNK_ROWS as u64);
            if let Some(wrong) = table.columns.iter().find(|column| u64::from(column.chunks) != chunks) {
                return Err(format!("column \"{}\" does not have {chunks} chunks", wrong.schema.name));
            }
        }
        Ok(header)
    }
}

impl TableHeader {
    /// How many rows a chunk has.
    pub fn chunk_rows(&self, chunk: u32) -> usize {
        (self.rows - u64::from(chunk) * CHUNK_ROWS as u64).min(CHUNK_ROWS as u64) as usize
    }
}

/// Bytes of a chunk in memory.
pub(super) fn chunk_bytes(chunk: &Chunk) -> usize {
    match chunk {
        Chunk::Plain(bytes) => bytes.len(),
        Chunk::Slow(values) => values.iter().map(Vec::len).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The header as docs/FORMAT.md has it. Whoever changes it raises the envelope's version.
    #[test]
    fn header_is_as_documented() {
        let column = |name: &str, lanes: Option<Vec<u8>>| {
            let schema = ColumnSchema { name: name.into(), version: 2, lanes };
            ColumnHeader { schema, chunks: 1 }
        };
        let header = KeyframeHeader {
            meta: KeyframeMeta {
                branch: 1,
                tick: Tick(2),
                hash: StateHash(300),
                applied_seq: 4,
                lsn: 5,
                chain: 6,
                build_id: [7; 16],
                entities: 8,
            },
            tables: vec![TableHeader {
                rows: 8,
                columns: vec![column("a", Some(vec![4, 8])), column("b", None)],
            }],
            resources: vec![ResourceHeader { name: "r".into(), version: 3, bytes: 9 }],
        };
        let mut expected = vec![1, 2, 0xAC, 2, 4, 5, 6];
        expected.extend([7; 16]);
        expected.extend([8, 1, 8, 2, 1, b'a', 2, 1, 2, 4, 8, 1, 1, b'b', 2, 0, 1, 1, 1, b'r', 3, 9]);
        assert_eq!(header.encode(), expected);
        assert_eq!(KeyframeHeader::decode(&expected), Ok(header));
    }

    #[test]
    fn headers_that_contradict_themselves_are_refused() {
        let decode = |change: &dyn Fn(&mut KeyframeHeader)| {
            let meta = KeyframeMeta {
                branch: 0,
                tick: Tick(0),
                hash: StateHash(0),
                applied_seq: 0,
                lsn: 0,
                chain: 0,
                build_id: [0; 16],
                entities: 1,
            };
            let schema = ColumnSchema { name: "a".into(), version: 1, lanes: None };
            let columns = vec![ColumnHeader { schema, chunks: 1 }];
            let mut header = KeyframeHeader {
                meta,
                tables: vec![TableHeader { rows: 1, columns }],
                resources: Vec::new(),
            };
            change(&mut header);
            KeyframeHeader::decode(&header.encode())
        };
        assert!(decode(&|_| ()).is_ok());
        assert!(decode(&|header| header.meta.entities = 2).is_err());
        assert!(decode(&|header| header.tables[0].columns[0].chunks = u32::MAX).is_err());
        assert!(
            decode(&|header| {
                header.tables[0].rows = u64::MAX;
                header.meta.entities = u64::MAX;
            })
            .is_err()
        );
    }
}
