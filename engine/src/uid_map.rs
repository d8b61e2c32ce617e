//! A map from Uid to something small, for Uids that are dense and never come again: pages that go when empty.

use crate::ids::Uid;

/// Values by Uid.
pub(crate) struct UidMap<T> {
    pages: Vec<Option<Box<Page<T>>>>,
    count: usize,
}

struct Page<T> {
    used: usize,
    values: [Option<T>; PAGE],
}

const PAGE: usize = 1_024;

impl<T> Default for UidMap<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), count: 0 }
    }
}

impl<T: Copy> UidMap<T> {
    #[inline]
    pub(crate) fn get(&self, uid: Uid) -> Option<T> {
        let value = uid.get() as usize;
        self.pages.get(value / PAGE)?.as_ref()?.values[value % PAGE]
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn insert(&mut self, uid: Uid, value: T) {
        let at = uid.get() as usize;
        if self.pages.len() <= at / PAGE {
            self.pages.resize_with(at / PAGE + 1, || None);
        }
        let page =
            self.pages[at / PAGE].get_or_insert_with(|| Box::new(Page { used: 0, values: [None; PAGE] }));
        if page.values[at % PAGE].replace(value).is_none() {
            page.used += 1;
            self.count += 1;
        }
    }

    pub(crate) fn remove(&mut self, uid: Uid) -> Option<T> {
        let at = uid.get() as usize;
        let slot = self.pages.get_mut(at / PAGE)?;
        let page = slot.as_mut()?;
        let value = page.values[at % PAGE].take()?;
        page.used -= 1;
        self.count -= 1;
        if page.used == 0 {
            *slot = None;
        }
        Some(value)
    }
}
