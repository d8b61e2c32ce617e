//! Images that evolve, for the tests of the store: births, deaths, moves, numbers that drift, resources that change.

use everworld_engine::{
    CHUNK_ROWS, Chunk, ColumnImage, ColumnSchema, Image, ResourceImage, StateHash, TableImage, Tick,
};
use everworld_persistence::{Snapshot, SnapshotMeta};
use std::sync::Arc;

/// The same numbers for the same seed.
pub struct Draws(pub u64);

impl Draws {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, below: usize) -> usize {
        (self.next() % below as u64) as usize
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// A table with its rows one by one, as a slow obvious model of what the store packs.
#[derive(Clone)]
pub struct Model {
    pub schemas: Vec<Arc<ColumnSchema>>,
    /// For each row the bytes of each column.
    pub rows: Vec<Vec<Vec<u8>>>,
}

/// A world of several tables.
#[derive(Clone)]
pub struct World {
    pub tick: u64,
    pub tables: Vec<Model>,
    pub resources: Vec<(String, Vec<u8>)>,
    pub next_uid: u64,
}

pub fn schema(name: &str, lanes: Option<&[u8]>) -> Arc<ColumnSchema> {
    Arc::new(ColumnSchema { name: name.into(), version: 1, lanes: lanes.map(Into::into), fields: Vec::new() })
}

impl Model {
    pub fn image(&self) -> TableImage {
        let column = |at: usize| {
            let schema = self.schemas[at].clone();
            let chunk = |rows: &[Vec<Vec<u8>>]| match schema.lanes {
                Some(_) => Chunk::Plain(rows.iter().flat_map(|row| &row[at]).copied().collect()),
                None => Chunk::Slow(rows.iter().map(|row| row[at].clone()).collect()),
            };
            let chunks = self.rows.chunks(CHUNK_ROWS).map(|rows| Arc::new(chunk(rows))).collect();
            ColumnImage { schema, chunks }
        };
        TableImage { rows: self.rows.len(), columns: (0..self.schemas.len()).map(column).collect() }
    }
}

impl World {
    /// Two tables, the second with more columns, one of them an array.
    pub fn new(rows: usize, seed: u64) -> Self {
        let mut draws = Draws(seed);
        let common = [schema("body", Some(&[4, 2, 1])), schema("name", None), schema("tag", Some(&[]))];
        let uid = schema("uid", Some(&[8]));
        let first: Vec<_> = common.iter().cloned().chain([uid.clone()]).collect();
        let more = [schema("wide", Some(&[8, 8])), schema("zones", Some(&[2, 1].repeat(9)))];
        let second: Vec<_> = common.into_iter().chain([uid]).chain(more).collect();
        let mut world = Self {
            tick: 1,
            tables: vec![
                Model { schemas: first, rows: Vec::new() },
                Model { schemas: second, rows: Vec::new() },
            ],
            resources: vec![("clock".into(), vec![1, 2, 3]), ("rules".into(), vec![7; 40])],
            next_uid: 1,
        };
        for _ in 0..rows {
            world.spawn(&mut draws);
        }
        world
    }

    pub fn spawn(&mut self, draws: &mut Draws) {
        let table = draws.below(self.tables.len());
        let row = self.tables[table].schemas.clone();
        let uid = self.next_uid;
        self.next_uid += 1;
        let fill = |schema: &Arc<ColumnSchema>, draws: &mut Draws| match schema.row_bytes() {
            _ if schema.name == "uid" => uid.to_le_bytes().to_vec(),
            Some(bytes) => (0..bytes).map(|_| draws.next() as u8).collect(),
            None => (0..draws.below(6)).map(|_| draws.next() as u8).collect(),
        };
        let row = row.iter().map(|schema| fill(schema, draws)).collect();
        self.tables[table].rows.push(row);
    }

    /// One tick: some are born, some die, some change their table, some numbers change.
    pub fn step(&mut self, seed: u64) {
        let mut draws = Draws(seed);
        self.tick += 1 + draws.below(3) as u64;
        for _ in 0..draws.below(4) {
            self.spawn(&mut draws);
        }
        for table in 0..self.tables.len() {
            for _ in 0..draws.below(3) {
                let rows = self.tables[table].rows.len();
                if rows > 0 {
                    self.tables[table].rows.swap_remove(draws.below(rows));
                }
            }
            let rows = self.tables[table].rows.len();
            for _ in 0..draws.below(8) {
                if rows > 0 {
                    let row = draws.below(rows);
                    let changed = draws.next();
                    let body = &mut self.tables[table].rows[row][0];
                    body[draws.below(7)] ^= changed as u8;
                    if changed.is_multiple_of(5) {
                        self.tables[table].rows[row][1] = vec![changed as u8; draws.below(4)];
                    }
                    if let Some(zones) = self.tables[table].rows[row].get_mut(5) {
                        zones[(changed >> 8) as usize % 27] ^= (changed >> 16) as u8;
                    }
                }
            }
        }
        match draws.below(8) {
            // A table empties, vanishes, comes back; or they change places.
            0 => self.tables[0].rows.clear(),
            1 if self.tables.len() == 2 => _ = self.tables.pop(),
            2 if self.tables.len() == 1 => {
                let mut other = Self::new(0, 0).tables.remove(1);
                if self.tables[0].schemas == other.schemas {
                    other = Self::new(0, 0).tables.remove(0);
                }
                self.tables.push(other);
                (0..5).for_each(|_| self.spawn(&mut draws));
            }
            3 => self.tables.reverse(),
            _ => {}
        }
        match draws.below(4) {
            0 => self.resources[0].1 = vec![draws.next() as u8; draws.below(50)],
            1 if self.resources.len() == 2 => self.resources.push(("new".into(), vec![9])),
            2 if self.resources.len() == 3 => _ = self.resources.pop(),
            _ => {}
        }
    }

    pub fn image(&self) -> Image {
        let resource = |(name, bytes): &(String, Vec<u8>)| ResourceImage {
            name: name.clone(),
            version: 1,
            bytes: bytes.as_slice().into(),
        };
        let mut image = Image {
            tick: Tick(self.tick),
            hash: StateHash(0),
            tables: self.tables.iter().map(Model::image).collect(),
            resources: self.resources.iter().map(resource).collect(),
        };
        image.hash = hash_of(&image);
        image
    }
}

/// Some hash: the store believes the caller's.
pub fn hash_of(image: &Image) -> StateHash {
    StateHash(image.tick.0 * 1000 + image.entities() as u64)
}

/// The chunks that are equal become the same objects, as a mirror's are.
pub fn share(before: &Image, mut image: Image) -> Image {
    for table in &mut image.tables {
        let columns = |table: &TableImage| -> Vec<_> {
            table.columns.iter().map(|column| column.schema.clone()).collect()
        };
        let Some(old) = before.tables.iter().find(|old| columns(old) == columns(table)) else { continue };
        for (old, new) in old.columns.iter().zip(&mut table.columns) {
            for (old, new) in old.chunks.iter().zip(&mut new.chunks) {
                if old == new {
                    *new = old.clone();
                }
            }
        }
    }
    image
}

pub fn meta(branch: u32, image: &Image) -> SnapshotMeta {
    SnapshotMeta {
        branch,
        tick: image.tick,
        hash: image.hash,
        applied_seq: 5,
        lsn: u64::from(branch) * 100_000 + image.tick.0,
        chain: 99,
        build_id: [3; 16],
        entities: image.entities() as u64,
        unix_millis: 1_000_000 + image.tick.0 * 1000,
    }
}

pub fn snapshot<'a>(branch: u32, image: &Arc<Image>, ledger: &'a [(u64, Vec<u8>)]) -> Snapshot<'a> {
    Snapshot { meta: meta(branch, image), image: image.clone(), host: b"host", ledger }
}
