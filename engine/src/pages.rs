//! Rows in pages: how a mirror keeps wide columns, the memories and ties of a town say.
//!
//! Views of two ticks share the pages in which nothing changed. Of rows of some hundred bytes, of which few change
//! from one view to the next, a copy of the whole chunk for each of the two would be most of a server's memory.

use crate::image::each_difference;
use std::{collections::BTreeMap, sync::Arc};

/// About as many bytes make a page: a row or two. Of larger pages nearly all change where half of the rows do.
const PAGE_BYTES: usize = 256;
/// Narrower rows are copied as a chunk: their pages would have too many rows to be worth it.
const ROW_BYTES_MIN: usize = 128;

/// Rows of equal size, some to a page; all pages but the last are full.
#[derive(Clone, Debug)]
pub struct Pages {
    row_bytes: usize,
    page_bytes: usize,
    pages: Vec<Arc<[u8]>>,
}

impl Pages {
    /// Whether rows of that size are kept so.
    pub(crate) fn suit(row_bytes: usize) -> bool {
        row_bytes >= ROW_BYTES_MIN
    }

    /// Rows one after the other, cut into pages.
    ///
    /// # Panics
    /// When a row has no bytes.
    pub fn new(row_bytes: usize, rows: &[u8]) -> Self {
        assert!(row_bytes > 0, "rows in pages have bytes");
        let page_bytes = (PAGE_BYTES / row_bytes).max(1) * row_bytes;
        Self { row_bytes, page_bytes, pages: rows.chunks(page_bytes).map(Arc::from).collect() }
    }

    /// The bytes of all rows.
    pub fn bytes(&self) -> usize {
        let last = self.pages.last().map_or(0, |page| page.len());
        self.pages.len().saturating_sub(1) * self.page_bytes + last
    }

    /// The bytes of a row.
    pub fn row(&self, row: usize) -> Option<&[u8]> {
        let at = row * self.row_bytes;
        let within = at % self.page_bytes;
        self.pages.get(at / self.page_bytes)?.get(within..within + self.row_bytes)
    }

    /// The rows, page by page.
    pub fn runs(&self) -> impl Iterator<Item = &[u8]> {
        self.pages.iter().map(|page| &**page)
    }

    /// Writes a row, or puts one behind the last.
    pub(crate) fn set(&mut self, row: usize, new: &[u8], spare: &mut Spare) {
        let at = row * self.row_bytes;
        let within = at % self.page_bytes;
        if at == self.bytes() {
            if within > 0
                && let Some(last) = self.pages.pop()
            {
                self.pages.push([&*last, new].concat().into());
            } else {
                self.pages.push(new.into());
            }
        } else {
            spare.own(&mut self.pages[at / self.page_bytes])[within..within + self.row_bytes]
                .copy_from_slice(new);
        }
    }

    /// Takes on these rows instead, and keeps the pages that are the same.
    pub(crate) fn become_rows(&mut self, rows: &[u8], spare: &mut Spare) {
        self.pages.truncate(rows.len().div_ceil(self.page_bytes));
        for (i, new) in rows.chunks(self.page_bytes).enumerate() {
            match self.pages.get_mut(i) {
                Some(page) if **page == *new => {}
                Some(page) if page.len() == new.len() => spare.own(page).copy_from_slice(new),
                Some(page) => *page = new.into(),
                None => self.pages.push(new.into()),
            }
        }
    }

    /// Keeps only so many rows.
    pub(crate) fn truncate(&mut self, rows: usize) {
        let bytes = rows * self.row_bytes;
        self.pages.truncate(bytes.div_ceil(self.page_bytes));
        let within = bytes % self.page_bytes;
        if let Some(last) = self.pages.last_mut().filter(|last| within > 0 && last.len() > within) {
            *last = last[..within].into();
        }
    }

    /// Calls `see` for each row that both have and that differs; pages that they share are not looked at.
    pub(crate) fn each_difference(&self, other: &Self, mut see: impl FnMut(usize)) {
        let page_rows = self.page_bytes / self.row_bytes;
        for (i, (a, b)) in self.pages.iter().zip(&other.pages).enumerate() {
            if !Arc::ptr_eq(a, b) {
                each_difference(a, b, self.row_bytes, |row| see(i * page_rows + row));
            }
        }
    }
}

/// Pages that nobody has any more, kept for those to come: without them each change of a row would take a page from the
/// allocator, and each end of a view give some back, in another order.
#[derive(Default)]
pub(crate) struct Spare {
    /// By size. Nobody else has one of these.
    free: BTreeMap<usize, Vec<Arc<[u8]>>>,
}

impl Spare {
    /// The bytes of a page that nobody else sees: a copy where it is shared.
    fn own<'p>(&mut self, page: &'p mut Arc<[u8]>) -> &'p mut [u8] {
        if Arc::get_mut(page).is_none()
            && let Some(mut fresh) = self.free.get_mut(&page.len()).and_then(Vec::pop)
            && let Some(bytes) = Arc::get_mut(&mut fresh)
        {
            bytes.copy_from_slice(page);
            *page = fresh;
        }
        Arc::make_mut(page)
    }

    /// Takes those pages that nobody else has.
    pub(crate) fn take(&mut self, pages: Pages) {
        for mut page in pages.pages {
            if Arc::get_mut(&mut page).is_some() {
                self.free.entry(page.len()).or_default().push(page);
            }
        }
    }

    /// Keeps so many bytes at the most.
    pub(crate) fn trim(&mut self, mut bytes: usize) {
        for (size, free) in &mut self.free {
            free.truncate(bytes / size);
            bytes -= free.len() * size;
        }
    }

    /// The bytes of all spare pages.
    pub(crate) fn bytes(&self) -> usize {
        self.free.iter().map(|(size, free)| size * free.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set(usize, u8),
        Push(u8),
        Truncate(usize),
        Become(Vec<u8>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (any::<usize>(), any::<u8>()).prop_map(|(row, value)| Step::Set(row, value)),
            2 => any::<u8>().prop_map(Step::Push),
            1 => any::<usize>().prop_map(Step::Truncate),
            1 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Step::Become),
        ];
        prop::collection::vec(step, 0..40)
    }

    proptest! {
        /// As a plain list of rows, whatever is done to them; and who kept the pages of before sees what was before.
        #[test]
        fn pages_hold_what_a_list_holds(row_bytes in 128usize..700, first in prop::collection::vec(any::<u8>(), 0..30), steps in steps()) {
            let row = |value: u8| vec![value; row_bytes];
            let all = |rows: &[u8]| rows.iter().flat_map(|value| row(*value)).collect::<Vec<u8>>();
            let mut spare = Spare::default();
            let mut list = first;
            let mut pages = Pages::new(row_bytes, &all(&list));
            for step in steps {
                let (before, list_before) = (pages.clone(), list.clone());
                match step {
                    Step::Set(_, value) if list.is_empty() => (pages.set(0, &row(value), &mut spare), list.push(value)).0,
                    Step::Set(at, value) => {
                        let at = at % list.len();
                        pages.set(at, &row(value), &mut spare);
                        list[at] = value;
                    }
                    Step::Push(value) => {
                        pages.set(list.len(), &row(value), &mut spare);
                        list.push(value);
                    }
                    Step::Truncate(len) => {
                        list.truncate(len % (list.len() + 1));
                        pages.truncate(list.len());
                    }
                    Step::Become(rows) => {
                        pages.become_rows(&all(&rows), &mut spare);
                        list = rows;
                    }
                }
                prop_assert_eq!(pages.runs().flatten().copied().collect::<Vec<u8>>(), all(&list));
                prop_assert_eq!(before.runs().flatten().copied().collect::<Vec<u8>>(), all(&list_before));
                prop_assert_eq!(pages.bytes(), list.len() * row_bytes);
                prop_assert!((0..list.len() + 3).all(|at| pages.row(at) == list.get(at).map(|value| row(*value)).as_deref()));
                let mut differ = Vec::new();
                before.each_difference(&pages, |row| differ.push(row));
                let both = list.len().min(list_before.len());
                prop_assert_eq!(differ, (0..both).filter(|at| list[*at] != list_before[*at]).collect::<Vec<_>>());
                // What is used again was nobody's.
                spare.take(before);
            }
        }
    }

    #[test]
    fn a_change_copies_its_page_alone() {
        let before = Pages::new(128, &[7; 128 * 64]);
        let mut after = before.clone();
        let mut spare = Spare::default();
        after.set(9, &[8; 128], &mut spare);
        let shared = before.pages.iter().zip(&after.pages).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!((shared, before.pages.len()), (31, 32));
        // One page is nobody's now, and the next change takes it.
        let left = Arc::as_ptr(&before.pages[4]);
        spare.take(before);
        assert_eq!(spare.bytes(), 256);
        let view = after.clone();
        after.set(40, &[9; 128], &mut spare);
        assert_eq!((Arc::as_ptr(&after.pages[20]), spare.bytes()), (left, 0));
        assert_eq!((view.row(40), after.row(40)), (Some(&[7; 128][..]), Some(&[9; 128][..])));
        spare.take(view);
        spare.trim(255);
        assert_eq!(spare.bytes(), 0);
    }
}
