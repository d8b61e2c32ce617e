//! The bytes of a file in memory: pages that copies share until one of them is written, and none where all is zero.
//!
//! So an image of a disk costs a pointer a page, and a file of gigabytes what was written to it.

use std::sync::Arc;

const PAGE_BYTES: usize = 4096;
/// Pages that are shared as one, so that a copy of a large file costs little, too.
const BLOCK_PAGES: usize = 64;

type Page = Arc<[u8; PAGE_BYTES]>;
type Block = Arc<[Option<Page>; BLOCK_PAGES]>;

#[derive(Clone, Default)]
pub(super) struct Bytes {
    len: usize,
    /// Bytes behind the end are zero.
    blocks: Vec<Option<Block>>,
}

/// What is to be written: zeros cost nothing.
#[derive(Clone)]
pub(super) enum Data {
    Zeros(usize),
    Bytes(Arc<[u8]>),
}

impl Data {
    pub fn new(bytes: &[u8]) -> Self {
        if bytes.len() >= PAGE_BYTES && bytes.iter().all(|byte| *byte == 0) {
            Self::Zeros(bytes.len())
        } else {
            Self::Bytes(bytes.into())
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Zeros(len) => *len,
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

impl Bytes {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn resize(&mut self, len: usize) {
        if len < self.len {
            let pages = len.div_ceil(PAGE_BYTES);
            if let Some(page) = self.page_mut(len / PAGE_BYTES) {
                page[len % PAGE_BYTES..].fill(0);
            }
            if let Some(Some(block)) = self.blocks.get_mut(pages / BLOCK_PAGES) {
                Arc::make_mut(block)[pages % BLOCK_PAGES..].fill(None);
            }
        }
        self.blocks.resize(len.div_ceil(PAGE_BYTES * BLOCK_PAGES), None);
        self.len = len;
    }

    fn page(&self, page: usize) -> Option<&[u8; PAGE_BYTES]> {
        self.blocks.get(page / BLOCK_PAGES)?.as_ref()?[page % BLOCK_PAGES].as_deref()
    }

    /// The page, if it is not all zeros.
    fn page_mut(&mut self, page: usize) -> Option<&mut [u8; PAGE_BYTES]> {
        let block = self.blocks.get_mut(page / BLOCK_PAGES)?.as_mut()?;
        block[page % BLOCK_PAGES].as_ref()?;
        Arc::make_mut(block)[page % BLOCK_PAGES].as_mut().map(Arc::make_mut)
    }

    /// The place of a page of the file.
    fn slot(&mut self, page: usize) -> &mut Option<Page> {
        let block =
            self.blocks[page / BLOCK_PAGES].get_or_insert_with(|| Arc::new([const { None }; BLOCK_PAGES]));
        &mut Arc::make_mut(block)[page % BLOCK_PAGES]
    }

    /// Writes at that offset, behind the end too.
    pub fn put(&mut self, offset: usize, data: &Data) {
        self.put_part(offset, data, 0, data.len());
    }

    /// Writes so many of the bytes, from that one on, at `offset`.
    pub fn put_part(&mut self, offset: usize, data: &Data, from: usize, count: usize) {
        if self.len < offset + count {
            self.resize(offset + count);
        }
        let mut done = 0;
        while done < count {
            let start = (offset + done) % PAGE_BYTES;
            let part = (PAGE_BYTES - start).min(count - done);
            let page = (offset + done) / PAGE_BYTES;
            match data {
                Data::Zeros(_) => {
                    if let Some(page) = self.page_mut(page) {
                        page[start..start + part].fill(0);
                    }
                }
                Data::Bytes(bytes) => {
                    let page = self.slot(page).get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
                    let bytes = &bytes[from + done..from + done + part];
                    Arc::make_mut(page)[start..start + part].copy_from_slice(bytes);
                }
            }
            done += part;
        }
    }

    /// Fills the buffer; false when the file ends before.
    pub fn read(&self, offset: usize, buffer: &mut [u8]) -> bool {
        if offset.checked_add(buffer.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        let mut done = 0;
        while done < buffer.len() {
            let start = (offset + done) % PAGE_BYTES;
            let part = (PAGE_BYTES - start).min(buffer.len() - done);
            let into = &mut buffer[done..done + part];
            match self.page((offset + done) / PAGE_BYTES) {
                Some(page) => into.copy_from_slice(&page[start..start + part]),
                None => into.fill(0),
            }
            done += part;
        }
        true
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes);
        bytes
    }

    /// # Panics
    /// When there is no such bit.
    pub fn flip(&mut self, bit: usize) {
        assert!(bit / 8 < self.len, "the file has that bit");
        let page = self.slot(bit / 8 / PAGE_BYTES).get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
        Arc::make_mut(page)[bit / 8 % PAGE_BYTES] ^= 1 << (bit % 8);
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let mut file = Self::default();
        file.put(0, &Data::new(&bytes));
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// As a vector does it, and no copy sees what another one is written.
        #[test]
        fn pages_are_like_a_vector(
            steps in prop::collection::vec((0u8..4, 0usize..20_000, 0usize..9_000), 1..30)
        ) {
            let mut bytes = Bytes::default();
            let mut model: Vec<u8> = Vec::new();
            for (i, (what, offset, count)) in steps.into_iter().enumerate() {
                let before = (bytes.clone(), model.clone());
                match what {
                    0 => {
                        bytes.resize(offset);
                        model.resize(offset, 0);
                    }
                    3 if offset / 8 < model.len() => {
                        bytes.flip(offset);
                        model[offset / 8] ^= 1 << (offset % 8);
                    }
                    _ => {
                        let value = if what == 1 { 0 } else { i as u8 };
                        bytes.put(offset, &Data::new(&vec![value; count]));
                        model.resize(model.len().max(offset + count), 0);
                        model[offset..offset + count].fill(value);
                    }
                }
                prop_assert_eq!(before.0.to_vec(), before.1);
                let mut found = vec![1; count];
                prop_assert_eq!(bytes.read(offset, &mut found), offset + count <= model.len());
                prop_assert_eq!(bytes.to_vec(), model.clone());
            }
        }
    }
}
