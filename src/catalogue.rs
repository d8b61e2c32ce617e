//! The server's own log, `server/log` in the data directory: which worlds there are, and where they come from.
//!
//! A world is written down before its directory is made, and once more when it is: a crash between leaves a note
//! without a world, which [`Catalogue::reconcile`] forgets, or a world whose note is not finished, which it finishes.
//! A world that nobody wrote down is adopted; one that is gone is named, and does not stop the others. Whoever writes
//! holds the lock of the data directory. Deliberately absent: anything that a world needs to come back.

use crate::{
    spine::{SpineError, build_id, world_id},
    worlds,
};
use everworld_engine::Tick;
use everworld_persistence::{Disk, Log, LogError, LogOptions, LogReader, Record, SEGMENT_BYTES_MIN};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where a world comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Made from its scenario.
    Created,
    /// Begun with the state of another world.
    Forked {
        /// That one.
        parent: String,
        /// Its line of history.
        branch: u32,
        /// The tick of that state.
        tick: Tick,
    },
    /// Begun with a state from a file.
    Imported {
        /// The tick of that state.
        tick: Tick,
    },
    /// Copied back from a backup.
    Restored,
    /// Found in the data directory.
    Adopted,
}

/// What the server's log remembers. New ones are appended: the position is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A world is about to be made.
    Begun {
        /// Its name.
        name: String,
        /// The name of its scenario, if that is known.
        scenario: Option<String>,
        /// Where it comes from.
        origin: Origin,
        /// When, in milliseconds since 1970.
        unix_millis: u64,
    },
    /// It is there.
    Done {
        /// Its name.
        name: String,
    },
    /// It is gone, or was never made.
    Removed {
        /// Its name.
        name: String,
        /// When, in milliseconds since 1970.
        unix_millis: u64,
    },
    /// A server hosts it at its start, or no longer.
    Hosted {
        /// Its name.
        name: String,
        /// Whether it does.
        on: bool,
    },
}

/// The version of [`Event`] that this build writes; the first byte of its encoding.
const EVENT_VERSION: u8 = 1;

impl Event {
    /// A world is about to be made, now.
    pub fn begun(name: &str, scenario: Option<&str>, origin: Origin) -> Self {
        let (name, scenario) = (name.to_owned(), scenario.map(str::to_owned));
        Self::Begun { name, scenario, origin, unix_millis: crate::clock::unix_millis() }
    }

    fn encode(&self) -> Vec<u8> {
        let encoded = postcard::to_extend(self, vec![EVENT_VERSION]);
        encoded.expect("an event holds only sized sequences, which postcard always encodes")
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        match bytes.split_first() {
            Some((&EVENT_VERSION, rest)) => postcard::from_bytes(rest).map_err(|error| error.to_string()),
            Some((version, _)) => {
                Err(format!("an event has version {version}, this build knows {EVENT_VERSION}"))
            }
            None => Err("an event is empty".into()),
        }
    }
}

/// What is known of a world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The name of its scenario, if that is known.
    pub scenario: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
    /// When it was made, in milliseconds since 1970.
    pub unix_millis: u64,
    /// Whether it was made to its end.
    #[serde(skip)]
    pub done: bool,
    /// Whether a server hosts it at its start, beside the one that it is told to host.
    #[serde(skip)]
    pub hosted: bool,
}

/// The worlds that are written down, by name.
pub type Entries = BTreeMap<String, Entry>;

/// What was found when the catalogue was compared with the directories of worlds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Worlds that nobody had written down.
    pub adopted: Vec<String>,
    /// Worlds that are written down and have no directory.
    pub missing: Vec<String>,
    /// Worlds that were never made to their end.
    pub forgotten: Vec<String>,
}

/// One at a time in this process: a fork on a running server, and a request that lists the worlds.
static TURN: Mutex<()> = Mutex::new(());

/// The catalogue, open for writing. Opened for a moment only: others of this process wait.
pub struct Catalogue {
    disk: Arc<dyn Disk>,
    data: PathBuf,
    log: Log,
    entries: Entries,
    _turn: MutexGuard<'static, ()>,
}

impl Catalogue {
    /// Opens the catalogue of a data directory, or begins it. The caller has the directory's lock.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(disk: &Arc<dyn Disk>, data: &Path) -> Result<Self, SpineError> {
        let turn = TURN.lock();
        let dir = directory(data);
        let making = |source| SpineError::Io { what: "create", path: dir.clone(), source };
        if !disk.exists(&dir).map_err(making)? {
            disk.create_dir_all(&dir).and_then(|()| disk.sync_dir(data)).map_err(making)?;
        }
        let (log, _) = Log::open(disk.clone(), &dir.join("log"), &options()).map_err(failed)?;
        let entries = fold(log.records(1))?;
        Ok(Self { disk: disk.clone(), data: data.to_owned(), log, entries, _turn: turn })
    }

    /// The worlds of a data directory as they are written down. Nothing is written.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(disk: &Arc<dyn Disk>, data: &Path) -> Result<Entries, SpineError> {
        let _turn = TURN.lock();
        let dir = directory(data).join("log");
        let looking = |source| SpineError::Io { what: "look for", path: dir.clone(), source };
        if !disk.exists(&dir).map_err(looking)? {
            return Ok(Entries::new());
        }
        let (log, _) = LogReader::open(disk.clone(), &dir, &options()).map_err(failed)?;
        fold(log.records(1))
    }

    /// The worlds that are written down.
    pub fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Writes something down; it is durable then.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&mut self, event: Event) -> Result<(), SpineError> {
        self.log.append(&Record::Server { event: event.encode() }).map_err(failed)?;
        self.log.commit().map_err(failed)?;
        apply(&mut self.entries, event);
        Ok(())
    }

    /// Removes a world that nobody hosts. Its directory gets another name first: from then on it is gone, and whatever
    /// happens the next [`Catalogue::reconcile`] ends the work.
    ///
    /// # Errors
    /// When it cannot be removed or written down.
    pub fn remove(&mut self, name: &str) -> Result<(), SpineError> {
        let worlds = self.data.join("worlds");
        let gone = worlds.join(removed(name));
        let failed = |source| SpineError::Io { what: "remove", path: worlds.join(name), source };
        self.clear_away(name)?;
        self.disk.rename(&worlds.join(name), &gone).map_err(failed)?;
        self.disk.sync_dir(&worlds).map_err(failed)?;
        self.note(Event::Removed { name: name.to_owned(), unix_millis: crate::clock::unix_millis() })?;
        self.clear_away(name)
    }

    /// Removes what is left of a world that is removed.
    fn clear_away(&self, name: &str) -> Result<(), SpineError> {
        let gone = self.data.join("worlds").join(removed(name));
        let cleared = self
            .disk
            .exists(&gone)
            .and_then(|there| if there { self.disk.remove_dir_all(&gone) } else { Ok(()) });
        cleared.map_err(|source| SpineError::Io { what: "remove", path: gone, source })
    }

    /// Compares what is written down with what is there, and writes down the difference.
    ///
    /// # Errors
    /// When the worlds cannot be listed, or it cannot be written.
    pub fn reconcile(&mut self) -> Result<Reconciled, SpineError> {
        let there = on_disk(&*self.disk, &self.data)?;
        let gone = left_behind(&*self.disk, &self.data)?;
        let mut found = Reconciled::default();
        for (name, entry) in self.entries.clone() {
            match (is_there(&*self.disk, &self.data, &name)?, entry.done) {
                (true, true) => {}
                (true, false) => self.note(Event::Done { name })?,
                (false, true) if gone.contains(&name) => {
                    let unix_millis = crate::clock::unix_millis();
                    self.note(Event::Removed { name, unix_millis })?;
                }
                (false, true) => {
                    let path = self.data.join("worlds").join(&name);
                    tracing::error!(world = name, "the directory of a world is gone: \"{}\"", path.display());
                    found.missing.push(name);
                }
                (false, false) => {
                    let unix_millis = crate::clock::unix_millis();
                    self.note(Event::Removed { name: name.clone(), unix_millis })?;
                    tracing::warn!(world = name, "a world was never made to its end; nothing of it is there");
                    found.forgotten.push(name);
                }
            }
        }
        for name in gone {
            self.clear_away(&name)?;
        }
        for name in there {
            if !self.entries.contains_key(&name) {
                tracing::warn!(world = name, "adopting a world that the catalogue does not know");
                self.note(Event::begun(&name, None, Origin::Adopted))?;
                self.note(Event::Done { name: name.clone() })?;
                found.adopted.push(name);
            }
        }
        Ok(found)
    }
}

/// A world of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// What is written down of it.
    pub entry: Option<Entry>,
    /// Whether it has a directory.
    pub there: bool,
}

impl Stored {
    /// As lists of worlds show it.
    pub fn to_json(&self, name: &str) -> Value {
        let state = if self.there { "stored" } else { "missing" };
        let mut shown = json!({"world": name, "state": state});
        if let Some(entry) = &self.entry {
            shown["scenario"] = json!(entry.scenario);
            shown["origin"] = json!(entry.origin);
            shown["created_unix_millis"] = entry.unix_millis.into();
        }
        shown
    }
}

/// The worlds of a data directory: those that are written down, and those that are there. Nothing is written.
///
/// # Errors
/// When the catalogue or the directory cannot be read.
pub fn stored(disk: &Arc<dyn Disk>, data: &Path) -> Result<BTreeMap<String, Stored>, SpineError> {
    let mut stored = BTreeMap::new();
    for (name, entry) in Catalogue::read(disk, data)? {
        let there = is_there(&**disk, data, &name)?;
        if entry.done || there {
            stored.insert(name, Stored { entry: Some(entry), there });
        }
    }
    for name in on_disk(&**disk, data)? {
        stored.entry(name).or_insert(Stored { entry: None, there: true });
    }
    Ok(stored)
}

/// Makes a world by `make`, written down before and after.
///
/// # Errors
/// As `make`'s, or when it cannot be written down; then the world is not there, or is adopted by the next start.
pub fn making<T>(
    disk: &Arc<dyn Disk>,
    data: &Path,
    begun: Event,
    make: impl FnOnce() -> Result<T, SpineError>,
) -> Result<T, SpineError> {
    let Event::Begun { name, .. } = &begun else { unreachable!("a world begins with Begun") };
    let name = name.clone();
    if disk.exists(&data.join("worlds").join(&name)).unwrap_or(false) {
        return Err(SpineError::Exists { world: name });
    }
    Catalogue::open(disk, data)?.note(begun)?;
    let made = make()?;
    Catalogue::open(disk, data)?.note(Event::Done { name })?;
    Ok(made)
}

/// Copies the catalogue of a data directory into another one, which has none; false if there is nothing to copy. Before
/// the worlds: one that is made meanwhile is adopted where the copy is used.
///
/// # Errors
/// When it cannot be read or written.
pub fn copy(data: &Path, to: &Path) -> Result<bool, SpineError> {
    let _turn = TURN.lock();
    let dir = directory(data);
    if !dir.is_dir() {
        return Ok(false);
    }
    worlds::copy_dir(&dir, &directory(to))?;
    worlds::sync(to)?;
    Ok(true)
}

/// Whether a world has its directory, whole or not.
fn is_there(disk: &dyn Disk, data: &Path, name: &str) -> Result<bool, SpineError> {
    let dir = data.join("worlds").join(name);
    disk.exists(&dir).map_err(|source| SpineError::Io { what: "look for", path: dir, source })
}

/// The directories that are worlds, whole or not.
fn on_disk(disk: &dyn Disk, data: &Path) -> Result<Vec<String>, SpineError> {
    let worlds = data.join("worlds");
    let listing = |source| SpineError::Io { what: "list", path: worlds.clone(), source };
    if !disk.exists(&worlds).map_err(listing)? {
        return Ok(Vec::new());
    }
    let mut names = disk.list(&worlds).map_err(listing)?;
    let is_part = |part: &String| part == "log" || part.starts_with("epoch-");
    // Those with a dot are not made to their end; what has neither log nor store is none.
    let is_world = |name: &String| {
        let parts = disk.list(&worlds.join(name)).unwrap_or_default();
        !name.starts_with('.') && parts.iter().any(is_part)
    };
    names.retain(is_world);
    names.sort();
    Ok(names)
}

/// What the directory of a world is called that is removed.
fn removed(name: &str) -> String {
    format!("{REMOVED}{name}")
}

const REMOVED: &str = ".removed-";

/// Worlds that are removed and not cleared away.
fn left_behind(disk: &dyn Disk, data: &Path) -> Result<Vec<String>, SpineError> {
    let worlds = data.join("worlds");
    let listing = |source| SpineError::Io { what: "list", path: worlds.clone(), source };
    if !disk.exists(&worlds).map_err(listing)? {
        return Ok(Vec::new());
    }
    let names = disk.list(&worlds).map_err(listing)?;
    Ok(names.iter().filter_map(|name| name.strip_prefix(REMOVED)).map(str::to_owned).collect())
}

fn directory(data: &Path) -> PathBuf {
    data.join("server")
}

fn options() -> LogOptions {
    // No world has such a name.
    LogOptions { segment_bytes: SEGMENT_BYTES_MIN, ..LogOptions::new(world_id("/server"), build_id()) }
}

fn failed(source: LogError) -> SpineError {
    SpineError::Catalogue { source: Arc::new(source) }
}

fn fold(records: impl Iterator<Item = Result<(u64, Record), LogError>>) -> Result<Entries, SpineError> {
    let mut entries = Entries::new();
    for entry in records {
        let (lsn, record) = entry.map_err(failed)?;
        let strange = |detail: String| SpineError::StrangeCatalogue { lsn, detail };
        let Record::Server { event } = record else { return Err(strange("it is of a world".into())) };
        apply(&mut entries, Event::decode(&event).map_err(strange)?);
    }
    Ok(entries)
}

fn apply(entries: &mut Entries, event: Event) {
    match event {
        Event::Begun { name, scenario, origin, unix_millis } => {
            entries.insert(name, Entry { scenario, origin, unix_millis, done: false, hosted: false });
        }
        Event::Done { name } => {
            if let Some(entry) = entries.get_mut(&name) {
                entry.done = true;
            }
        }
        Event::Removed { name, .. } => _ = entries.remove(&name),
        Event::Hosted { name, on } => {
            if let Some(entry) = entries.get_mut(&name) {
                entry.hosted = on;
            }
        }
    }
}
