//! Views that pages are read from: whoever goes on with a cursor sees the same tick to the end.
//!
//! A cursor is opaque. It names the view, the question and where the page ended; with a view that is gone the answer is
//! 410, with another question 400. Views share their chunks with the mirror, so one that is kept costs what has changed
//! since, at the most the whole world: few are kept, and not for long (L1).

use super::problem::Problem;
use axum::body::Bytes;
use everworld_engine::{
    Image, Tick,
    query::{After, FoundRow},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// So many views are kept for cursors, of all worlds together.
const VIEWS_MAX: usize = 4;
/// So long after their last use.
const VIEW_AGE_MAX: Duration = Duration::from_mins(1);

/// The views that cursors may come back to.
#[derive(Default)]
pub(crate) struct Views {
    kept: Mutex<VecDeque<Kept>>,
}

struct Kept {
    world: String,
    branch: u32,
    image: Arc<Image>,
    used: Instant,
}

/// Which rows of a view were found.
#[derive(Clone, PartialEq)]
pub(super) struct FoundKey {
    pub(super) world: String,
    pub(super) branch: u32,
    pub(super) tick: Tick,
    /// See [`question_id`].
    pub(super) question: u64,
}

/// What followers of the same know of the same view is in memory once, for as long as one of them knows it.
#[derive(Default)]
pub(crate) struct Founds(Mutex<Vec<(FoundKey, Weak<Vec<FoundRow>>)>>);

impl Founds {
    /// The rows, found by `find` if nobody knows them.
    pub(super) fn get_or(&self, key: &FoundKey, find: impl FnOnce() -> Vec<FoundRow>) -> Arc<Vec<FoundRow>> {
        let known = |founds: &[(FoundKey, Weak<Vec<FoundRow>>)]| {
            founds.iter().find(|(of, _)| of == key).and_then(|(_, found)| found.upgrade())
        };
        if let Some(found) = known(&self.0.lock()) {
            return found;
        }
        let found = Arc::new(find());
        let mut founds = self.0.lock();
        founds.retain(|(_, found)| found.strong_count() > 0);
        // Another one may have looked meanwhile.
        if let Some(found) = known(&founds) {
            return found;
        }
        founds.push((key.clone(), Arc::downgrade(&found)));
        found
    }
}

/// The view that the last follower of each world has begun with: one that comes soon after begins with it, too, so that a
/// crowd of them holds one view and not one each.
#[derive(Default)]
pub(crate) struct FirstViews(Mutex<BTreeMap<String, (u32, Weak<Image>, Instant)>>);

/// A follower may begin with a view so old.
const FIRST_VIEW_AGE: Duration = Duration::from_secs(1);

impl FirstViews {
    pub(super) fn get(&self, world: &str, branch: u32) -> Option<Arc<Image>> {
        let firsts = self.0.lock();
        let (of, image, at) = firsts.get(world)?;
        if *of == branch && at.elapsed() < FIRST_VIEW_AGE { image.upgrade() } else { None }
    }

    pub(super) fn set(&self, world: &str, branch: u32, image: &Arc<Image>) {
        self.0.lock().insert(world.to_owned(), (branch, Arc::downgrade(image), Instant::now()));
    }
}

/// What was answered of a view, for who asks the same of it.
#[derive(Default)]
pub(crate) struct Answers(Mutex<VecDeque<Answered>>);

struct Answered {
    image: Weak<Image>,
    question: u64,
    page: Page,
}

/// A page as it is sent.
#[derive(Clone)]
pub(super) struct Page {
    pub(super) bytes: Bytes,
    /// Whether a cursor goes on from it.
    pub(super) has_next: bool,
}

/// So many answers are kept, none longer than that (L1).
const ANSWERS_MAX: usize = 64;
const ANSWER_BYTES_MAX: usize = 512 << 10;

impl Answers {
    /// What was answered to that question of that very view.
    pub(super) fn get(&self, image: &Arc<Image>, question: u64) -> Option<Page> {
        let is_it = |known: &&Answered| {
            known.question == question && std::ptr::eq(known.image.as_ptr(), Arc::as_ptr(image))
        };
        self.0.lock().iter().find(is_it).map(|known| known.page.clone())
    }

    pub(super) fn keep(&self, image: &Arc<Image>, question: u64, page: &Page) {
        let mut known = self.0.lock();
        // A view that nobody has any more is not asked again.
        known.retain(|known| known.image.strong_count() > 0);
        if page.bytes.len() <= ANSWER_BYTES_MAX {
            while known.len() >= ANSWERS_MAX {
                known.pop_front();
            }
            known.push_back(Answered { image: Arc::downgrade(image), question, page: page.clone() });
        }
    }
}

/// Where a list goes on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// The line of the view.
    pub(super) branch: u32,
    /// Its tick.
    pub(super) tick: Tick,
    /// What was asked, see [`question_id`].
    question: u64,
    /// The last row of the page before.
    pub(super) after: After,
}

impl Cursor {
    pub(super) fn new(branch: u32, tick: Tick, question: u64, after: After) -> Self {
        Self { branch, tick, question, after }
    }

    pub(super) fn encode(&self) -> String {
        crate::tokens::hex(&postcard::to_allocvec(self).unwrap_or_default())
    }

    /// A cursor of that question.
    pub(super) fn decode(text: &str, question: u64) -> Result<Self, Problem> {
        let wrong = || Problem::malformed("cursor: it is not one of this server's");
        if !text.is_ascii() || text.len() > 256 || !text.len().is_multiple_of(2) {
            return Err(wrong());
        }
        let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong());
        let bytes: Vec<u8> = (0..text.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
        let cursor: Self = postcard::from_bytes(&bytes).map_err(|_| wrong())?;
        if cursor.question != question {
            return Err(Problem::malformed("cursor: it belongs to another question; only limit may change"));
        }
        Ok(cursor)
    }
}

/// A number for a question: cursors of one are no cursors of another.
pub(super) fn question_id(parts: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    hasher.finish()
}

impl Views {
    /// Keeps a view for a while.
    pub(super) fn keep(&self, world: &str, branch: u32, image: &Arc<Image>) {
        let mut kept = self.kept.lock();
        let now = Instant::now();
        let is_it =
            |kept: &Kept| kept.world == world && kept.branch == branch && kept.image.tick == image.tick;
        kept.retain(|kept| !is_it(kept) && now - kept.used < VIEW_AGE_MAX);
        while kept.len() >= VIEWS_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept { world: world.to_owned(), branch, image: image.clone(), used: now });
    }

    /// That view, if it is still there.
    pub(super) fn get(&self, world: &str, branch: u32, tick: Tick) -> Option<Arc<Image>> {
        self.kept.lock().iter().find_map(|kept| {
            let is_it = kept.world == world && kept.branch == branch && kept.image.tick == tick;
            is_it.then(|| kept.image.clone())
        })
    }

    /// The view that a cursor comes from.
    pub(super) fn find(&self, world: &str, cursor: &Cursor) -> Result<Arc<Image>, Problem> {
        let image = self.get(world, cursor.branch, cursor.tick).ok_or_else(|| {
            Problem::gone(format!(
                "the view of tick {} that the cursor comes from is gone: begin again",
                cursor.tick
            ))
        })?;
        self.keep(world, cursor.branch, &image);
        Ok(image)
    }

    /// Drops what nobody came back to. Called now and then.
    pub(super) fn forget_old(&self) {
        let now = Instant::now();
        self.kept.lock().retain(|kept| now - kept.used < VIEW_AGE_MAX);
    }
}
