//! The past of a stopped world, for commands that only look.
//!
//! Nothing is written into the data directory, nor is anything copied: log and store are opened for reading only. The
//! directory's lock is held meanwhile, so that no server starts and writes under our hands; while a server runs, the
//! commands end with 75, and `--url` asks that server instead.

use super::{Failed, exit};
use crate::{
    clock,
    history::{History, Timeline, Told},
    pool,
    spine::{SpineError, SpineOptions},
};
use everworld_engine::{Image, LiveWorld, Options, Parallel, Tick};
use everworld_persistence::SnapshotMeta;
use everworld_systems::{Plugin, WorldRecord};
use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

/// A stopped world.
pub(super) struct Past {
    pub world: String,
    pub history: History,
    /// What the log tells.
    pub told: Told,
    /// Of the line that goes on, oldest first.
    pub snapshots: Vec<SnapshotMeta>,
    /// The last tick that may have been shown.
    pub end: Tick,
    pub options: Options,
    _lock: Option<File>,
}

impl Past {
    /// Opens a world of a data directory that no process uses.
    pub(super) fn open(data: &Path, world: Option<&str>, plugins: &'static [Plugin]) -> Result<Self, Failed> {
        let world = choose(data, world)?;
        let lock = lock_if_there(data)?;
        let options =
            Options { pool: pool::start(0, false)?, parallel: Parallel::Auto, stopwatch: clock::stopwatch() };
        Self::read(world, data, plugins, options, lock)
    }

    fn read(
        world: String,
        data: &Path,
        plugins: &'static [Plugin],
        options: Options,
        lock: Option<File>,
    ) -> Result<Self, Failed> {
        let history = History::open(data, &world, plugins, &SpineOptions::default())?;
        let told = history.newest()?;
        let current = told.branches.current();
        let mut snapshots = history.snapshots();
        snapshots
            .retain(|meta| told.branches.on_the_way((meta.branch, meta.tick), (current, Tick(u64::MAX))));
        snapshots.sort_by_key(|meta| (meta.tick, meta.branch));
        // A snapshot past the horizon is of ticks that nobody has seen: it may be there, and replay gets to it.
        let end = snapshots.last().map_or(told.target(), |meta| told.target().max(meta.tick));
        Ok(Self { world, history, told, snapshots, end, options, _lock: lock })
    }

    /// Another world of a data directory whose lock is held already.
    pub(super) fn beside(
        data: &Path,
        world: &str,
        plugins: &'static [Plugin],
        one: &Self,
    ) -> Result<Self, Failed> {
        Self::read(choose(data, Some(world))?, data, plugins, one.options.clone(), None)
    }

    /// The line that goes on.
    pub(super) fn branch(&self) -> u32 {
        self.told.branches.current()
    }

    /// The build that wrote the end of the log, in hex.
    pub(super) fn build_id(&self) -> String {
        self.told.build_id.map_or_else(|| "unknown".into(), crate::spine::hex)
    }

    /// What the world was created from.
    pub(super) fn record(&self) -> Result<&WorldRecord, Failed> {
        self.told.record.as_ref().ok_or_else(|| {
            let detail = "it does not begin with Create".into();
            SpineError::Inconsistent { world: self.world.clone(), detail }.into()
        })
    }

    /// The world of the record under this build, still empty.
    pub(super) fn empty_world(&self) -> Result<LiveWorld, Failed> {
        Ok(self.history.build(self.record()?, &self.options)?)
    }

    /// The world as it was created, under this build, and the whole log.
    pub(super) fn first_world(&self) -> Result<(LiveWorld, Timeline), Failed> {
        Ok(self.history.begin_anew(self.branch(), &self.options)?)
    }

    /// The state of a snapshot as it was stored.
    pub(super) fn stored(&self, meta: &SnapshotMeta) -> Result<Image, Failed> {
        Ok(self.history.stored(meta)?)
    }

    /// The world at a snapshot, and what the log says after it.
    pub(super) fn world_of(&self, meta: &SnapshotMeta) -> Result<(LiveWorld, Timeline), Failed> {
        Ok(self.history.begin_with(meta, self.branch(), &self.options)?)
    }
}

/// Tells something that does not end the command.
pub(super) fn note(text: &str) {
    eprintln!("everworld: {text}");
}

/// The worlds of a data directory.
pub(super) fn names(data: &Path) -> Result<Vec<String>, Failed> {
    let dir = data.join("worlds");
    let entries = fs::read_dir(&dir).map_err(|error| {
        exit::usage(&format!(
            "--data: \"{}\" is no data directory: could not read \"{}\": {error}",
            data.display(),
            dir.display()
        ))
    })?;
    drop(entries);
    Ok(crate::worlds::on_disk(data))
}

/// The world that is meant.
pub(super) fn choose(data: &Path, world: Option<&str>) -> Result<String, Failed> {
    let mut names = names(data)?;
    let listed = names.join(", ");
    match world {
        Some(world) if names.iter().any(|name| name == world) => Ok(world.to_owned()),
        Some(world) => {
            Err(exit::usage(&format!("--world: there is no \"{world}\"; this data directory has: {listed}")))
        }
        None if names.len() == 1 => Ok(names.remove(0)),
        None if names.is_empty() => {
            Err(exit::usage(&format!("--data: there is no world in \"{}\"", data.display())))
        }
        None => Err(exit::usage(&format!("--world: say which one of: {listed}"))),
    }
}

/// Takes the lock of a data directory without making one.
pub(super) fn lock_if_there(data: &Path) -> Result<Option<File>, Failed> {
    let path = data.join("LOCK");
    let io = |what| {
        let path = path.clone();
        move |source| SpineError::Io { what, path, source }
    };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("open")(error).into()),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(SpineError::InUse(data.to_owned()).into()),
        Err(TryLockError::Error(source)) => Err(io("lock")(source).into()),
    }
}
