//! Versions of the rows of a chunk that share what is the same: how a mirror keeps wide columns, the memories and ties of
//! a town say.
//!
//! Of rows of some hundred bytes, of which few change from one view to the next, a copy of the whole chunk for each of the
//! two would be most of a server's memory. Here each row has a slot, and a version is a list of slots. What changes while
//! another version names its slot takes a free one; slots that no version names any more are taken first. One thread
//! writes, see [`Slab`]; versions are read by any.

mod raw;

pub use raw::SharedRows;
pub(crate) use raw::Slab;
use std::fmt;

/// Narrower rows are copied as a chunk: a list of slots for each version costs more than it saves.
const ROW_BYTES_MIN: usize = 128;

impl SharedRows {
    /// Whether rows of that size are kept so.
    pub(crate) fn suit(row_bytes: usize) -> bool {
        row_bytes >= ROW_BYTES_MIN
    }

    /// Rows one after the other, of which there will be one version only.
    ///
    /// # Panics
    /// When a row has no bytes, or there are more rows than a chunk has.
    pub fn new(row_bytes: usize, rows: Vec<u8>) -> Self {
        Slab::of(row_bytes, rows).1
    }

    /// The bytes of all rows.
    pub fn bytes(&self) -> usize {
        self.rows() * self.row_bytes()
    }

    /// Calls `see` for each row that both have and that differs; what they share is not looked at.
    pub(crate) fn each_difference(&self, other: &Self, mut see: impl FnMut(usize)) {
        let shares = self.shares(other);
        for row in (0..self.rows().min(other.rows())).filter(|row| !shares(*row)) {
            if self.row(row) != other.row(row) {
                see(row);
            }
        }
    }
}

impl Clone for SharedRows {
    /// A copy that shares nothing: only the [`Slab`] of a version makes others of it.
    fn clone(&self) -> Self {
        Self::new(self.row_bytes(), self.runs().collect::<Vec<_>>().concat())
    }
}

impl fmt::Debug for SharedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((0..self.rows()).filter_map(|row| self.row(row))).finish()
    }
}

impl Slab {
    /// Makes a version have these rows instead, and leaves those that are the same where they are.
    pub(crate) fn become_rows(&mut self, rows: &mut SharedRows, new: &[u8]) {
        let row_bytes = rows.row_bytes();
        self.truncate(rows, new.len() / row_bytes);
        for (row, new) in new.chunks_exact(row_bytes).enumerate() {
            if rows.row(row) != Some(new) {
                self.set(rows, row, new);
            }
        }
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
        Fork,
        Release(usize),
        /// One that is not handed back.
        Forget(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (any::<usize>(), any::<u8>()).prop_map(|(row, value)| Step::Set(row, value)),
            2 => any::<u8>().prop_map(Step::Push),
            1 => any::<usize>().prop_map(Step::Truncate),
            1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Become),
            3 => Just(Step::Fork),
            2 => any::<usize>().prop_map(Step::Release),
            1 => any::<usize>().prop_map(Step::Forget),
        ];
        prop::collection::vec(step, 0..80)
    }

    fn all(row_bytes: usize, rows: &[u8]) -> Vec<u8> {
        rows.iter().flat_map(|value| vec![*value; row_bytes]).collect()
    }

    fn check(rows: &SharedRows, list: &[u8], row_bytes: usize) -> Result<(), TestCaseError> {
        prop_assert_eq!(rows.runs().flatten().copied().collect::<Vec<u8>>(), all(row_bytes, list));
        prop_assert_eq!(rows.bytes(), list.len() * row_bytes);
        for at in 0..list.len() + 3 {
            let had = list.get(at).map(|value| vec![*value; row_bytes]);
            prop_assert_eq!(rows.row(at), had.as_deref());
        }
        Ok(())
    }

    proptest! {
        /// As a plain list of rows, whatever is done to them; and every other version has what it had.
        #[test]
        fn rows_are_what_a_list_has(row_bytes in 1usize..40, first in prop::collection::vec(any::<u8>(), 0..40), steps in steps()) {
            let row = |value: u8| vec![value; row_bytes];
            let (mut slab, mut rows) = Slab::of(row_bytes, all(row_bytes, &first));
            let mut list = first;
            let mut versions: Vec<(SharedRows, Vec<u8>)> = Vec::new();
            for step in steps {
                match step {
                    Step::Set(_, value) if list.is_empty() => (slab.set(&mut rows, 0, &row(value)), list.push(value)).0,
                    Step::Set(at, value) => {
                        let at = at % list.len();
                        slab.set(&mut rows, at, &row(value));
                        list[at] = value;
                    }
                    Step::Push(value) => {
                        slab.set(&mut rows, list.len(), &row(value));
                        list.push(value);
                    }
                    Step::Truncate(len) => {
                        list.truncate(len % (list.len() + 1));
                        slab.truncate(&mut rows, list.len());
                    }
                    Step::Become(new) => {
                        slab.become_rows(&mut rows, &all(row_bytes, &new));
                        list = new;
                    }
                    // As the mirror does it: the view has the old one, the new one is written.
                    Step::Fork => {
                        let fresh = slab.fork(&rows);
                        versions.push((std::mem::replace(&mut rows, fresh), list.clone()));
                    }
                    Step::Release(_) | Step::Forget(_) if versions.is_empty() => {}
                    Step::Release(at) => slab.release(versions.swap_remove(at % versions.len()).0),
                    Step::Forget(at) => drop(versions.swap_remove(at % versions.len())),
                }
                check(&rows, &list, row_bytes)?;
                for (version, had) in &versions {
                    check(version, had, row_bytes)?;
                    let mut differ = Vec::new();
                    version.each_difference(&rows, |row| differ.push(row));
                    let both = list.len().min(had.len());
                    prop_assert_eq!(differ, (0..both).filter(|at| list[*at] != had[*at]).collect::<Vec<_>>());
                }
                check(&rows.clone(), &list, row_bytes)?;
            }
        }
    }

    #[test]
    fn a_change_takes_one_slot_and_the_next_one_the_slot_that_is_left() {
        let (mut slab, before) = Slab::of(128, vec![7; 128 * 64]);
        let mut rows = slab.fork(&before);
        slab.set(&mut rows, 9, &[8; 128]);
        let shared = |a: &SharedRows, b: &SharedRows| (0..64).filter(|row| a.shares(b)(*row)).count();
        assert_eq!(shared(&before, &rows), 63);
        // Sixteen came, one of them is used; the other fifteen are what is free.
        assert_eq!(slab.free_bytes(), 15 * 128);
        // Written where it lies: nobody else has that one.
        slab.set(&mut rows, 9, &[9; 128]);
        assert_eq!(slab.free_bytes(), 15 * 128);
        let left = before.row(9).map(<[u8]>::as_ptr);
        slab.release(before);
        assert_eq!(slab.free_bytes(), 16 * 128);
        let view = slab.fork(&rows);
        slab.set(&mut rows, 40, &[6; 128]);
        assert_eq!(rows.row(40).map(<[u8]>::as_ptr), left);
        assert_eq!((view.row(40), rows.row(40)), (Some(&[7; 128][..]), Some(&[6; 128][..])));
    }

    #[test]
    fn what_a_long_view_took_is_given_back() {
        let (mut slab, mut rows) = Slab::of(128, vec![7; 128 * 1024]);
        let mut versions = Vec::new();
        for round in 0..8 {
            let fresh = slab.fork(&rows);
            versions.push(std::mem::replace(&mut rows, fresh));
            (0..1024).for_each(|row| slab.set(&mut rows, row, &[round; 128]));
        }
        assert_eq!(slab.free_bytes(), 0);
        for version in versions {
            slab.release(version);
        }
        // The rows lie in the last blocks, which stay for them: they move to the first ones with their next changes.
        for (round, changed) in [(0, 1024), (1, 100)] {
            let fresh = slab.fork(&rows);
            let view = std::mem::replace(&mut rows, fresh);
            (0..changed).for_each(|row| slab.set(&mut rows, row, &[round; 128]));
            slab.release(view);
        }
        // Not as many as eight views needed under which everything changed, nor as one does.
        assert!(slab.free_bytes() <= 128 * (1024 / 16 + 3 * 64), "{} bytes are free", slab.free_bytes());
        assert_eq!((rows.row(99), rows.row(1023)), (Some(&[1; 128][..]), Some(&[0; 128][..])));
        assert!(rows.memory() <= 128 * (1024 + 1024 / 16 + 4 * 64), "{} bytes are held", rows.memory());
    }

    /// Some rows never change again: they lie where they were written while many views were held.
    #[test]
    fn rows_that_stay_do_not_keep_what_long_views_took() {
        let (mut slab, mut rows) = Slab::of(128, vec![7; 128 * 1024]);
        let mut step = |slab: &mut Slab, round: u8, rows_changed: usize| {
            let fresh = slab.fork(&rows);
            let view = std::mem::replace(&mut rows, fresh);
            (0..rows_changed).for_each(|row| slab.set(&mut rows, row, &[round; 128]));
            (view, rows.memory(), rows.row(1023).map(<[u8]>::to_vec))
        };
        let views: Vec<_> = (0..8).map(|round| step(&mut slab, round, 1024).0).collect();
        views.into_iter().for_each(|view| slab.release(view));
        for round in 0..100 {
            let (view, ..) = step(&mut slab, round, 1000);
            slab.release(view);
        }
        let (_, held, last) = step(&mut slab, 9, 0);
        assert!(held <= 128 * (1024 + 1000 + 3 * 64), "{held} bytes are held");
        assert!(slab.free_bytes() <= 128 * (1024 / 16 + 3 * 64), "{} bytes are free", slab.free_bytes());
        assert_eq!(last, Some(vec![7; 128]));
    }

    #[test]
    #[should_panic(expected = "a slab writes its own rows")]
    fn rows_of_another_slab_are_not_written() {
        let (mut slab, _rows) = Slab::of(4, vec![0; 16]);
        slab.set(&mut SharedRows::new(4, vec![0; 16]), 0, &[1; 4]);
    }
}
