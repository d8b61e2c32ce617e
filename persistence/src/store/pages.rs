//! Reads an epoch file without redb, so that redb never sees a byte of a file that may be damaged: there its
//! assertions fail, and a destructor that fails as well while they unwind ends the process.
//!
//! Promises: no byte of a page is used before the page's checksum fits (D5); whatever the file holds, there is no
//! panic, no endless loop and no memory taken for what a damaged length says. redb's trees carry the checksum of each
//! page in the page above it, up to the commit slot, which has one of itself; redb only does not look at them when it
//! reads. The bytes are described in redb's docs/design.md, file format 3. Deliberately absent: writing, and all
//! tables but plain ones.

use super::StoreError;
use crate::disk::DiskFile;
use parking_lot::Mutex;
use std::{
    cmp::Ordering,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};
use xxhash_rust::xxh3::xxh3_128;

const MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";
const PAGE_BYTES: u64 = 4096;
const FILE_FORMAT: u8 = 3;
const HEADER_BYTES: usize = 64;
const SLOT_BYTES: usize = 128;
/// Bits of the byte that says which slot counts.
const SECOND_SLOT: u8 = 1;
const IN_USE: u8 = 2;
const TWO_PHASE_COMMIT: u8 = 4;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;
const PLAIN_TABLE: u8 = 3;
/// More levels than a tree over any file can have: one that seems to is a loop.
const DEPTH_MAX: u32 = 32;

/// An open file, at its last commit.
pub(super) struct Pages {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    bytes: u64,
    /// Pages of a region before and with its data; they follow each other behind the file's first page.
    region_header_pages: u64,
    region_pages: u64,
    /// The tree of tables.
    tables: Tree,
    /// Branches, which every look goes through, by their page numbers.
    branches: Mutex<BTreeMap<u64, Arc<Vec<u8>>>>,
    branches_max: usize,
}

/// A tree of pages: where it begins, and the sizes of its keys and values where they are fixed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    root: Option<Child>,
    key_bytes: Option<usize>,
    value_bytes: Option<usize>,
}

/// A page as the page above it names it.
#[derive(Clone, Copy, Debug)]
struct Child {
    page: u64,
    check: u128,
}

/// A page says of itself what cannot be.
struct Contradicts;

/// A page whose checksum fits.
struct Page<'a> {
    bytes: &'a [u8],
    tree: &'a Tree,
}

impl Pages {
    /// Opens a file that nobody writes to. `cache_bytes` is memory for the inner pages of its trees.
    pub fn open(file: Box<dyn DiskFile>, path: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        let bytes = file.len().map_err(StoreError::io("read store", path))?;
        let mut header = [0; HEADER_BYTES + 2 * SLOT_BYTES];
        if bytes < PAGE_BYTES {
            return Err(StoreError::damaged(path, "it ends too early"));
        }
        file.read_at(&mut header, 0).map_err(StoreError::io("read store", path))?;
        let damaged = |detail: &str| Err(StoreError::damaged(path, detail));
        if header[..9] != MAGIC {
            return damaged("it is no redb file");
        }
        if u64::from(u32_at(&header, 12)) != PAGE_BYTES {
            return damaged("its pages have another size");
        }
        // Written by a commit in two steps: the slot that counts was durable before it came to count.
        if header[9] & TWO_PHASE_COMMIT == 0 {
            return damaged("no snapshot was committed to it");
        }
        let slot = HEADER_BYTES + usize::from(header[9] & SECOND_SLOT) * SLOT_BYTES;
        let slot = &header[slot..slot + SLOT_BYTES];
        if slot[0] != FILE_FORMAT
            || xxh3_128(&slot[..SLOT_BYTES - 16]).to_le_bytes() != slot[SLOT_BYTES - 16..]
        {
            return damaged("its commit slot does not verify");
        }
        // These two have no checksum: with others, pages are looked for where they are not, and do not verify.
        let region_header_pages = u64::from(u32_at(&header, 16));
        let region_pages = region_header_pages + u64::from(u32_at(&header, 20));
        // Once the file was closed these say how long it is.
        let (full, trailing) = (u64::from(u32_at(&header, 24)), u64::from(u32_at(&header, 28)));
        let pages = full.saturating_mul(region_pages).saturating_add(1 + trailing);
        if header[9] & IN_USE == 0 && bytes / PAGE_BYTES < pages {
            return damaged("it ends too early");
        }
        let root = (slot[1] != 0).then(|| child(&slot[8..]));
        Ok(Self {
            file,
            path: path.into(),
            bytes,
            region_header_pages,
            region_pages,
            tables: Tree { root, key_bytes: None, value_bytes: None },
            branches: Mutex::default(),
            branches_max: cache_bytes / PAGE_BYTES as usize,
        })
    }

    /// A table, whose keys have that size if they have a fixed one.
    pub fn table(&self, name: &str, key_bytes: Option<usize>) -> Result<Tree, StoreError> {
        let definition = self.get(&self.tables, &|key| key.cmp(name.as_bytes()))?;
        let Some(tree) = definition.as_deref().and_then(table_of) else {
            return self.damaged(format!("it has no table \"{name}\""));
        };
        if tree.key_bytes != key_bytes || tree.value_bytes.is_some() {
            return self.damaged(format!("table \"{name}\" has other keys or values"));
        }
        Ok(tree)
    }

    /// The value whose key is neither less nor greater than what is looked for.
    pub fn get(
        &self,
        tree: &Tree,
        key_is: &dyn Fn(&[u8]) -> Ordering,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(mut at) = tree.root else { return Ok(None) };
        for _ in 0..DEPTH_MAX {
            let bytes = self.read(tree, at)?;
            let page = Page { bytes: &bytes, tree };
            let contradicts =
                || StoreError::damaged(&self.path, format!("page {:x} contradicts itself", at.page));
            if page.is_leaf() {
                let found = page.find(key_is).map_err(|Contradicts| contradicts())?;
                return Ok(found.map(<[u8]>::to_vec));
            }
            at = page.child_for(key_is).ok_or_else(contradicts)?;
        }
        self.damaged("its trees are too deep")
    }

    /// All keys and values, in their order.
    pub fn each(
        &self,
        tree: &Tree,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut bytes_read = 0;
        // Page and depth of what is still to be seen, the next one last.
        let mut left: Vec<(Child, u32)> = tree.root.iter().map(|root| (*root, 1)).collect();
        while let Some((at, depth)) = left.pop() {
            // Pages that are reached twice make more bytes than there are.
            bytes_read += page_bytes(at.page);
            if depth > DEPTH_MAX || bytes_read > self.bytes {
                return self.damaged("its pages go round in a circle");
            }
            let bytes = self.read(tree, at)?;
            let page = Page { bytes: &bytes, tree };
            let contradicts =
                || StoreError::damaged(&self.path, format!("page {:x} contradicts itself", at.page));
            if page.is_leaf() {
                for i in 0..page.count() {
                    let (key, value) = page.pair(i).ok_or_else(contradicts)?;
                    visit(key, value)?;
                }
            } else {
                for i in (0..=page.count()).rev() {
                    left.push((page.child(i).ok_or_else(contradicts)?, depth + 1));
                }
            }
        }
        Ok(())
    }

    /// Lets the system forget what it has of the file in memory: what is read then comes from the disk.
    pub fn forget(&self) {
        self.branches.lock().clear();
        self.file.forget(0, self.bytes);
    }

    /// The bytes of a page, verified.
    fn read(&self, tree: &Tree, at: Child) -> Result<Arc<Vec<u8>>, StoreError> {
        if let Some(bytes) = self.branches.lock().get(&at.page) {
            return Ok(bytes.clone());
        }
        let Some((start, bytes)) = self.place(at.page) else {
            return self.damaged(format!("page {:x} lies behind its end", at.page));
        };
        let mut buffer = vec![0; bytes];
        self.file.read_at(&mut buffer, start).map_err(StoreError::io("read store", &self.path))?;
        let page = Page { bytes: &buffer, tree };
        let fits =
            page.end().and_then(|end| buffer.get(..end)).is_some_and(|used| xxh3_128(used) == at.check);
        if !fits {
            return self.damaged(format!("the page at byte {start} does not verify"));
        }
        let is_leaf = page.is_leaf();
        let buffer = Arc::new(buffer);
        if !is_leaf && self.branches_max > 0 {
            let mut branches = self.branches.lock();
            if branches.len() >= self.branches_max {
                branches.clear();
            }
            branches.insert(at.page, buffer.clone());
        }
        Ok(buffer)
    }

    /// Where a page is, if that is within the file.
    fn place(&self, page: u64) -> Option<(u64, usize)> {
        let bytes = page_bytes(page);
        let index = page & (0xF_FFFF >> (page >> 59));
        let region = page >> 20 & 0xF_FFFF;
        let first = region.checked_mul(self.region_pages)?.checked_add(1 + self.region_header_pages)?;
        let start = first.checked_mul(PAGE_BYTES)?.checked_add(index.checked_mul(bytes)?)?;
        (start.checked_add(bytes)? <= self.bytes).then_some((start, usize::try_from(bytes).ok()?))
    }

    fn damaged<T>(&self, detail: impl Into<String>) -> Result<T, StoreError> {
        Err(StoreError::damaged(&self.path, detail))
    }
}

/// How long a page is, by its number: a power of two of the smallest.
fn page_bytes(page: u64) -> u64 {
    PAGE_BYTES << (page >> 59)
}

/// Number and checksum of a page.
fn child(bytes: &[u8]) -> Child {
    let check = bytes[8..24].try_into().expect("the slice has 16 bytes");
    Child { page: u64_at(bytes, 0), check: u128::from_le_bytes(check) }
}

/// What the tree of tables says of a table, if that is a plain one.
fn table_of(definition: &[u8]) -> Option<Tree> {
    // Kind, length (8), root (1 + 32), size of keys (1 + 4), of values (1 + 4), alignments (4 + 4), names of types.
    let bytes = definition.get(..60)?;
    let size = |at: usize| (bytes[at] != 0).then(|| u32_at(bytes, at + 1) as usize);
    let plain = bytes[0] == PLAIN_TABLE && u32_at(bytes, 52) == 1 && u32_at(bytes, 56) == 1;
    let root = (bytes[9] != 0).then(|| child(&bytes[10..]));
    plain.then(|| Tree { root, key_bytes: size(42), value_bytes: size(47) })
}

impl<'a> Page<'a> {
    fn is_leaf(&self) -> bool {
        self.bytes[0] == LEAF
    }

    /// Pairs of a leaf; keys of a branch, which has a child more.
    fn count(&self) -> usize {
        usize::from(u16::from_le_bytes([self.bytes[2], self.bytes[3]]))
    }

    /// Where the used part ends, which the checksum is of.
    fn end(&self) -> Option<usize> {
        let last = self.count().checked_sub(1)?;
        match self.bytes[0] {
            LEAF => self.value_end(last),
            BRANCH => self.branch_key_end(last),
            _ => None,
        }
    }

    fn offset_at(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?;
        Some(u32_at(bytes, 0) as usize)
    }

    /// Where the `i`-th of some numbers of that size, or of any size, ends: the ends of the latter are listed.
    fn end_of(&self, i: usize, size: Option<usize>, start: usize, ends: usize) -> Option<usize> {
        match size {
            Some(size) => start.checked_add(size.checked_mul(i + 1)?),
            None => self.offset_at(ends + 4 * i),
        }
    }

    fn keys_start(&self) -> usize {
        let lists = usize::from(self.tree.key_bytes.is_none()) + usize::from(self.tree.value_bytes.is_none());
        4 + 4 * self.count() * lists
    }

    fn key_end(&self, i: usize) -> Option<usize> {
        self.end_of(i, self.tree.key_bytes, self.keys_start(), 4)
    }

    fn value_end(&self, i: usize) -> Option<usize> {
        let ends = if self.tree.key_bytes.is_none() { 4 + 4 * self.count() } else { 4 };
        let start = self.key_end(self.count().checked_sub(1)?)?;
        self.end_of(i, self.tree.value_bytes, start, ends)
    }

    /// Key and value of a leaf.
    fn pair(&self, i: usize) -> Option<(&'a [u8], &'a [u8])> {
        let key_start = if i == 0 { self.keys_start() } else { self.key_end(i - 1)? };
        let value_start =
            if i == 0 { self.key_end(self.count().checked_sub(1)?)? } else { self.value_end(i - 1)? };
        let key = self.bytes.get(key_start..self.key_end(i)?)?;
        Some((key, self.bytes.get(value_start..self.value_end(i)?)?))
    }

    /// The value of a leaf, if it is there.
    fn find(&self, key_is: &dyn Fn(&[u8]) -> Ordering) -> Result<Option<&'a [u8]>, Contradicts> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low.midpoint(high);
            let (key, value) = self.pair(middle).ok_or(Contradicts)?;
            match key_is(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(Some(value)),
                Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Checksums of the children, their numbers, the ends of the keys.
    fn branch_keys_start(&self) -> usize {
        let ends = if self.tree.key_bytes.is_none() { 4 * self.count() } else { 0 };
        8 + 24 * (self.count() + 1) + ends
    }

    fn branch_key_end(&self, i: usize) -> Option<usize> {
        self.end_of(i, self.tree.key_bytes, self.branch_keys_start(), 8 + 24 * (self.count() + 1))
    }

    fn branch_key(&self, i: usize) -> Option<&'a [u8]> {
        let start = if i == 0 { self.branch_keys_start() } else { self.branch_key_end(i - 1)? };
        self.bytes.get(start..self.branch_key_end(i)?)
    }

    fn child(&self, i: usize) -> Option<Child> {
        let check = self.bytes.get(8 + 16 * i..8 + 16 * (i + 1))?.try_into().ok()?;
        let pages = 8 + 16 * (self.count() + 1);
        let page = self.bytes.get(pages + 8 * i..pages + 8 * (i + 1))?;
        Some(Child { page: u64_at(page, 0), check: u128::from_le_bytes(check) })
    }

    /// The child that has the key if there is one: no key before a branch's key is greater than it.
    fn child_for(&self, key_is: &dyn Fn(&[u8]) -> Ordering) -> Option<Child> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low.midpoint(high);
            match key_is(self.branch_key(middle)?) {
                Ordering::Less => low = middle + 1,
                Ordering::Equal | Ordering::Greater => high = middle,
            }
        }
        self.child(low)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("the slice has 4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("the slice has 8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        disk::Disk,
        sim::SimDisk,
        store::backend::{Backend, Blocks},
    };
    use proptest::prelude::*;
    use redb::{Database, TableDefinition};

    const NUMBERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("numbers");
    const PAIRS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("pairs");
    const NAMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("names");

    fn path() -> &'static Path {
        Path::new("d/file")
    }

    type Written = BTreeMap<u64, Vec<u8>>;

    fn name(key: u64) -> String {
        format!("name {key:x} {}", "x".repeat(key as usize % 40))
    }

    /// Writes and removes entries, some in each transaction; the database may stay open, as a crash leaves it.
    fn write(commits: &[Vec<(u64, usize)>], close: bool) -> (SimDisk, Written) {
        let disk = SimDisk::default();
        disk.set_file(path(), Vec::new());
        let backend = Backend(Arc::new(Blocks::new(disk.open(path()).unwrap())));
        let db = Database::builder().set_cache_size(1 << 16).create_with_backend(backend).unwrap();
        let mut written = Written::new();
        for entries in commits {
            let mut txn = db.begin_write().unwrap();
            txn.set_quick_repair(true);
            for (key, bytes) in entries {
                let value: Vec<u8> = (0..*bytes).map(|i| (i as u64 ^ key) as u8).collect();
                if bytes % 5 == 4 {
                    written.remove(key);
                    txn.open_table(NUMBERS).unwrap().remove(key).unwrap();
                    txn.open_table(PAIRS).unwrap().remove((key / 7, (key % 7) as u32)).unwrap();
                    txn.open_table(NAMES).unwrap().remove(name(*key).as_str()).unwrap();
                    continue;
                }
                txn.open_table(NUMBERS).unwrap().insert(key, value.as_slice()).unwrap();
                txn.open_table(PAIRS).unwrap().insert((key / 7, (key % 7) as u32), value.as_slice()).unwrap();
                txn.open_table(NAMES).unwrap().insert(name(*key).as_str(), value.as_slice()).unwrap();
                written.insert(*key, value);
            }
            txn.open_table(NUMBERS).unwrap();
            txn.open_table(PAIRS).unwrap();
            txn.open_table(NAMES).unwrap();
            txn.commit().unwrap();
        }
        let crashed = disk.copy();
        drop(db);
        (if close { disk } else { crashed }, written)
    }

    fn number(bytes: &[u8]) -> u64 {
        bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    /// What all ways of reading say, if they say anything.
    fn read(disk: &SimDisk, keys: &[u64]) -> Result<Written, StoreError> {
        let pages = Pages::open(disk.open_read(path()).unwrap(), path(), 1 << 16)?;
        let (numbers, pairs) = (pages.table("numbers", Some(8))?, pages.table("pairs", Some(12))?);
        let names = pages.table("names", None)?;
        let mut found = Written::new();
        pages.each(&numbers, &mut |key, value| {
            found.insert(number(key), value.to_vec());
            Ok(())
        })?;
        let mut count = 0;
        pages.each(&names, &mut |_, _| {
            count += 1;
            Ok(())
        })?;
        assert_eq!(count, found.len());
        for key in keys {
            let expected = found.get(key);
            assert_eq!(pages.get(&numbers, &|other| number(other).cmp(key))?.as_ref(), expected);
            let pair = (key / 7, key % 7);
            let value = pages.get(&pairs, &|other| (number(&other[..8]), number(&other[8..])).cmp(&pair))?;
            assert_eq!(value.as_ref(), expected);
            let name = name(*key);
            assert_eq!(pages.get(&names, &|other| other.cmp(name.as_bytes()))?.as_ref(), expected);
        }
        Ok(found)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// What redb has written is read, closed or not; and with any bit of it turned over nothing else is.
        #[test]
        fn pages_are_read_as_redb_writes_them(
            commits in prop::collection::vec(
                prop::collection::vec((0u64..600, prop_oneof![0usize..90, 0usize..20_000]), 0..150),
                1..6,
            ),
            close in any::<bool>(),
            flips in prop::collection::vec(any::<prop::sample::Index>(), 60),
        ) {
            let (disk, written) = write(&commits, close);
            let keys: Vec<u64> = (0..600).step_by(7).chain(written.keys().copied().take(20)).collect();
            prop_assert_eq!(&read(&disk, &keys).unwrap(), &written);
            let bytes = disk.file(path()).unwrap();
            for flip in flips {
                // Half of them at the beginning, where the most depends on them.
                let bits = if flip.index(2) == 0 { 8 * 320 } else { bytes.len() * 8 };
                let bit = flip.index(bits);
                disk.flip(path(), bit);
                if let Ok(found) = read(&disk, &keys) {
                    // But for the byte that says which of two commits counts.
                    prop_assert!(found == written || bit / 8 == 9, "bit {bit}");
                }
                disk.set_file(path(), bytes.clone());
            }
        }
    }
}
