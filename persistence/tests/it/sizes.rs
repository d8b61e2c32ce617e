//! What snapshots cost on disk. These are sizes, not times: the same on every machine.

use crate::images::{Draws, hash_of, meta, schema};
use everworld_engine::{
    CHUNK_ROWS, Chunk, ColumnImage, ColumnSchema, Image, ResourceImage, StateHash, TableImage, Tick,
};
use everworld_persistence::{RealDisk, Snapshot, Store, StoreOptions, WriteStats, sim::SimDisk};
use std::{path::Path, sync::Arc};

/// A town: where its people are, where they go, what they need, what they have. Columns of numbers of 4 bytes.
struct Town {
    tick: u64,
    rows: usize,
    position: Vec<[f32; 2]>,
    goal: Vec<[f32; 2]>,
    /// Hunger, thirst, energy, company.
    needs: Vec<[f32; 4]>,
    purse: Vec<[u32; 1]>,
    /// What most people have and hardly anything changes.
    traits: Vec<[f32; 8]>,
    draws: Draws,
}

impl Town {
    fn new(rows: usize) -> Self {
        let mut draws = Draws(11);
        let mut spot = |scale: f32| [draws.unit() * scale, draws.unit() * scale];
        let position: Vec<_> = (0..rows).map(|_| spot(4000.0)).collect();
        let goal = (0..rows).map(|_| spot(4000.0)).collect();
        let needs = (0..rows).map(|_| std::array::from_fn(|_| draws.unit())).collect();
        let purse = (0..rows).map(|_| [draws.below(500) as u32]).collect();
        let traits = (0..rows).map(|_| std::array::from_fn(|_| draws.unit())).collect();
        Self { tick: 1, rows, position, goal, needs, purse, traits, draws }
    }

    /// Some walk, their needs grow; a few get where they go, eat, and are paid.
    fn step(&mut self, is_active: impl Fn(usize) -> bool) -> Vec<usize> {
        self.tick += 1;
        let active: Vec<usize> = (0..self.rows).filter(|row| is_active(*row)).collect();
        for row in &active {
            let (at, to) = (&mut self.position[*row], &mut self.goal[*row]);
            let away = [to[0] - at[0], to[1] - at[1]];
            let distance = (away[0] * away[0] + away[1] * away[1]).sqrt();
            if distance < 1.4 {
                *to = [self.draws.unit() * 4000.0, self.draws.unit() * 4000.0];
                self.purse[*row][0] += self.draws.below(20) as u32;
            } else {
                let step = 1.4 * 0.05 / distance;
                *at = [at[0] + away[0] * step, at[1] + away[1] * step];
            }
            for (need, rate) in self.needs[*row].iter_mut().zip([0.0011, 0.0017, 0.0005, 0.0003]) {
                *need = if *need > 0.99 { 0.1 } else { *need + rate };
            }
        }
        active
    }

    fn image(&self) -> Image {
        fn column<const N: usize>(name: &str, rows: &[[u32; N]]) -> ColumnImage {
            let chunk = |rows: &[[u32; N]]| {
                Arc::new(Chunk::Plain(rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect()))
            };
            ColumnImage {
                schema: schema(name, Some(&[4; N])),
                chunks: rows.chunks(CHUNK_ROWS).map(chunk).collect(),
            }
        }
        let bits =
            |rows: &[[f32; 2]]| -> Vec<[u32; 2]> { rows.iter().map(|row| row.map(f32::to_bits)).collect() };
        let uid: Vec<[u32; 2]> = (0..self.rows).map(|row| [row as u32 + 1, 0]).collect();
        let mut uid = column("uid", &uid);
        uid.schema = schema("uid", Some(&[8]));
        let needs: Vec<[u32; 4]> = self.needs.iter().map(|row| row.map(f32::to_bits)).collect();
        let traits: Vec<[u32; 8]> = self.traits.iter().map(|row| row.map(f32::to_bits)).collect();
        let columns = vec![
            column("goal", &bits(&self.goal)),
            column("needs", &needs),
            column("position", &bits(&self.position)),
            column("purse", &self.purse),
            column("traits", &traits),
            uid,
        ];
        let resource =
            ResourceImage { name: "tick".into(), version: 1, bytes: self.tick.to_le_bytes().into() };
        let mut image = Image {
            tick: Tick(self.tick),
            hash: StateHash(0),
            tables: vec![TableImage { rows: self.rows, columns }],
            resources: vec![resource],
        };
        image.hash = hash_of(&image);
        image
    }
}

fn options() -> StoreOptions {
    StoreOptions { roll_factor: 1000, roll_secs: 1 << 40, ..StoreOptions::default() }
}

fn write(store: &Store, image: &Image) -> WriteStats {
    let snapshot = Snapshot { meta: meta(0, image), image: Arc::new(image.clone()), host: &[], ledger: &[] };
    store.write(&snapshot).unwrap()
}

fn store(disk: &SimDisk, options: StoreOptions) -> Store {
    Store::open(Arc::new(disk.clone()), Path::new("d/w"), options).unwrap().0
}

#[test]
fn an_active_npc_costs_at_most_30_bytes() {
    let store = store(&SimDisk::default(), options());
    let mut town = Town::new(3 * CHUNK_ROWS);
    write(&store, &town.image());
    // A snapshot a second at 20 Hz, and one each tick.
    for ticks in [20, 1] {
        let mut bytes = 0;
        for _ in 0..4 {
            (0..ticks).for_each(|_| _ = town.step(|_| true));
            let stats = write(&store, &town.image());
            assert_eq!((stats.partitions_full, stats.partitions_delta), (0, 3));
            bytes += stats.written_bytes;
        }
        let each = bytes as f64 / (4 * town.rows) as f64;
        println!("{ticks} ticks between snapshots: {each:.1} B per active NPC");
        assert!(each <= 30.0, "{each} B per active NPC");
    }
}

fn entropy_bytes(bytes: &[u8]) -> f64 {
    let mut histogram = [0u32; 256];
    bytes.iter().for_each(|byte| histogram[*byte as usize] += 1);
    let total = bytes.len() as f64;
    let bits: f64 =
        histogram.iter().filter(|n| **n > 0).map(|n| f64::from(*n) * (total / f64::from(*n)).log2()).sum();
    bits / 8.0
}

/// The bytes of the changed numbers, new less old, each byte lane by itself: what a perfect coder of single
/// bytes would need, without saying which rows they are of.
fn residual_entropy(before: &Image, after: &Image, rows: &[usize]) -> f64 {
    let mut bytes = 0.0;
    for (old, new) in before.tables[0].columns.iter().zip(&after.tables[0].columns) {
        let row_bytes = old.schema.row_bytes().unwrap();
        let changed: Vec<usize> =
            rows.iter().copied().filter(|row| before.row(old, *row) != after.row(new, *row)).collect();
        for partition in 0..before.tables[0].rows.div_ceil(CHUNK_ROWS) {
            let rows: Vec<usize> =
                changed.iter().copied().filter(|row| row / CHUNK_ROWS == partition).collect();
            for lane in (0..row_bytes).step_by(4) {
                let word = |image: &Image, column: &ColumnImage, row: usize| {
                    u32::from_le_bytes(image.row(column, row)[lane..lane + 4].try_into().unwrap())
                };
                let residual = |row: &usize| {
                    let signed = word(after, new, *row).wrapping_sub(word(before, old, *row)) as i32;
                    ((signed << 1) ^ (signed >> 31)) as u32
                };
                let residuals: Vec<u32> = rows.iter().map(residual).collect();
                for byte in 0..4 {
                    let plane: Vec<u8> = residuals.iter().map(|value| value.to_le_bytes()[byte]).collect();
                    bytes += entropy_bytes(&plane);
                }
            }
        }
    }
    bytes
}

/// Whole blocks of rows of each column in which any row changed, each compressed by itself.
fn dirty_blocks(before: &Image, after: &Image) -> usize {
    let columns = before.tables[0].columns.iter().zip(&after.tables[0].columns);
    let chunks = columns.flat_map(|(old, new)| old.chunks.iter().zip(&new.chunks));
    let bytes = |chunk: &Chunk| match chunk {
        Chunk::Plain(bytes) => zstd::bulk::compress(bytes, 1).unwrap().len(),
        _ => 0,
    };
    chunks.filter(|(old, new)| old != new).map(|(_, new)| bytes(new)).sum()
}

#[test]
fn a_tenth_of_the_rows_costs_little_more_than_its_entropy() {
    let store = store(&SimDisk::default(), options());
    let mut town = Town::new(3 * CHUNK_ROWS);
    write(&store, &town.image());
    let (mut written, mut entropy, mut blocks) = (0, 0.0, 0);
    for turn in 0..4u64 {
        let before = town.image();
        // Another tenth each time, anywhere.
        let chosen = |row: usize| Draws(row as u64 * 4 + turn).below(10) == 0;
        let mut active = Vec::new();
        (0..20).for_each(|_| active = town.step(chosen));
        town.tick += 1;
        let after = town.image();
        written += write(&store, &after).written_bytes;
        entropy += residual_entropy(&before, &after, &active);
        blocks += dirty_blocks(&before, &after);
    }
    let over_entropy = written as f64 / entropy;
    let below_blocks = blocks as f64 / written as f64;
    println!("{over_entropy:.2} of the entropy, {below_blocks:.1}x below whole dirty blocks");
    assert!(over_entropy <= 1.6, "{over_entropy} of the entropy");
    assert!(below_blocks >= 3.5, "{below_blocks}x below whole dirty blocks");
}

/// Where all rows change the differences are smaller than the blocks as well.
#[test]
fn the_way_of_each_number_is_chosen_by_size() {
    let store = store(&SimDisk::default(), options());
    let rows = CHUNK_ROWS;
    let mut draws = Draws(5);
    let image = |tick: u64, numbers: Vec<u64>| {
        let column = |name: &str, numbers: Vec<u64>| {
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            let schema: Arc<ColumnSchema> = schema(name, Some(&[8]));
            ColumnImage { schema, chunks: vec![Arc::new(Chunk::Plain(bytes))] }
        };
        let uids = (1..=rows as u64).collect();
        let columns = vec![column("number", numbers), column("uid", uids)];
        let tables = vec![TableImage { rows, columns }];
        let mut image = Image { tick: Tick(tick), hash: StateHash(0), tables, resources: Vec::new() };
        image.hash = hash_of(&image);
        image
    };
    let mut numbers: Vec<u64> = (0..rows).map(|_| draws.next()).collect();
    write(&store, &image(1, numbers.clone()));
    // A counter over all bytes: as a difference a byte or none.
    numbers.iter_mut().for_each(|number| *number = number.wrapping_add(3));
    assert!(write(&store, &image(2, numbers.clone())).written_bytes < 500);
    // A flag in some bits: by xor none.
    numbers.iter_mut().for_each(|number| *number ^= 0x80_0000_0000_0001);
    assert!(write(&store, &image(3, numbers.clone())).written_bytes < 500);
    // Another small number each time: as it is.
    numbers.iter_mut().for_each(|number| *number %= 16);
    assert!(write(&store, &image(4, numbers.clone())).written_bytes < 12_000);
}

fn allocated_over_stored(dir: &Path) -> f64 {
    let (mut allocated, mut stored) = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap() {
        let db = redb::Database::create(entry.unwrap().path()).unwrap();
        let txn = db.begin_write().unwrap();
        let stream: redb::TableDefinition<'_, (u64, u32), &[u8]> = redb::TableDefinition::new("stream");
        let snapshots: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("snapshots");
        let stats = [
            redb::ReadableTableMetadata::stats(&txn.open_table(stream).unwrap()).unwrap(),
            redb::ReadableTableMetadata::stats(&txn.open_table(snapshots).unwrap()).unwrap(),
        ];
        for stats in stats {
            stored += stats.stored_bytes();
            allocated += stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes();
        }
    }
    allocated as f64 / stored as f64
}

#[test]
fn records_fill_their_pages() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Arc::new(RealDisk), dir.path(), options()).unwrap().0;
    let mut town = Town::new(2 * CHUNK_ROWS);
    write(&store, &town.image());
    for _ in 0..10 {
        town.step(|_| true);
        write(&store, &town.image());
    }
    drop(store);
    let ratio = allocated_over_stored(dir.path());
    println!("allocated over stored: {ratio:.3}");
    assert!((1.0..=1.05).contains(&ratio), "{ratio}");
}

/// After 1,000 snapshots of a small town with rolling, thinning and removing: what lies there is what is kept.
#[test]
fn files_stay_within_twice_the_live_data() {
    let disk = SimDisk::default();
    let policy = StoreOptions {
        dense_secs: 100,
        sparse_every_secs: 60,
        keep_secs: 600,
        roll_secs: 60,
        roll_factor: 4,
        roll_bytes_min: 0,
        ..StoreOptions::default()
    };
    let store = store(&disk, policy);
    let mut town = Town::new(2000);
    for step in 0..1000u64 {
        town.step(|row| row % 4 == step as usize % 4);
        let image = town.image();
        write(&store, &image);
        store.prune(meta(0, &image).unix_millis).unwrap();
    }
    let target = Path::new("d/backup");
    store.backup(target).unwrap();
    let files = |dir: &str| -> usize {
        let in_dir = disk.files().into_iter().filter(|path| path.starts_with(dir));
        in_dir.map(|path| disk.file(&path).unwrap().len()).sum()
    };
    let kept = store.snapshots().kept.len();
    let live = store.live_bytes().unwrap();
    let (bytes, copied) = (files("d/w"), files("d/backup"));
    println!("{kept} snapshots kept: files {bytes}, live {live}, a backup {copied}");
    assert!(bytes as u64 <= 2 * live, "{bytes} for {live}");
}
