//! The worlds of a process: each with a host of its own, all ticking on one pool. One that fails leaves the others alone;
//! the process ends by it when no other is left.

use crate::{
    catalogue::{self, Catalogue, Event},
    host::{self, Hosted, Shared, WorldHandle},
    rig::Rig,
    spine::{SpineError, chain},
    status::WorldState,
};
use everworld_persistence::{Disk, RealDisk};
use everworld_systems::{Scenario, WorldRecord};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use tokio::sync::{Notify, Semaphore, watch};

/// The worlds of a process.
pub struct Hosting {
    /// What they share.
    pub shared: Shared,
    /// The scenario of the configuration: what a world is opened with that exists already, and needs none.
    scenario: Scenario,
    /// The world that the process was told to host.
    main: String,
    disk: Arc<dyn Disk>,
    worlds: RwLock<BTreeMap<String, One>>,
    /// Told when a host has ended.
    ended: Notify,
    /// One at a time makes, loads, unloads or removes a world.
    turn: tokio::sync::Mutex<()>,
    /// So many may wait for their turn.
    waiting: Arc<Semaphore>,
    stopping: AtomicBool,
}

/// So many requests wait for their turn (L1).
const WAITING_MAX: usize = 32;

/// A world that is hosted, or has failed.
struct One {
    hosted: Arc<Hosted>,
    /// Whether it has failed, once it has ended.
    ended: watch::Receiver<Option<bool>>,
    failure: Arc<Mutex<Option<SpineError>>>,
}

/// Why a world was not hosted, unloaded or removed.
#[derive(Debug, thiserror::Error)]
pub enum HostingError {
    /// It is so already, or cannot be now.
    #[error("{0}")]
    WrongState(String),
    /// Not now.
    #[error("{0}")]
    Busy(String),
    /// There is none of that name.
    #[error("there is no world \"{0}\"")]
    Unknown(String),
    /// It could not be read or written.
    #[error(transparent)]
    World(#[from] SpineError),
}

fn is_stopping() -> HostingError {
    HostingError::Busy("the server is stopping".into())
}

impl Hosting {
    /// Hosts the world of the record, and those that were hosted when the process ended. To be called within a runtime.
    ///
    /// # Errors
    /// When the catalogue cannot be read, or a thread cannot be started.
    pub fn start(shared: Shared, record: WorldRecord) -> Result<Arc<Self>, SpineError> {
        Self::start_on(Arc::new(RealDisk), shared, record)
    }

    /// As [`Hosting::start`], with the files of all worlds on a disk of the caller's.
    ///
    /// # Errors
    /// As there.
    pub fn start_on(
        disk: Arc<dyn Disk>,
        shared: Shared,
        record: WorldRecord,
    ) -> Result<Arc<Self>, SpineError> {
        let hosting = Arc::new(Self {
            shared,
            scenario: record.scenario.clone(),
            main: record.world.clone(),
            disk,
            worlds: RwLock::default(),
            ended: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            stopping: AtomicBool::new(false),
        });
        hosting.host(record)?;
        for (name, entry) in Catalogue::read(&hosting.disk, &hosting.shared.config.data.dir)? {
            if entry.hosted && entry.done && name != hosting.main && hosting.is_on_disk(&name)? {
                hosting.host(hosting.record_of(&name))?;
            }
        }
        Ok(hosting)
    }

    fn record_of(&self, name: &str) -> WorldRecord {
        WorldRecord { world: name.to_owned(), scenario: self.scenario.clone() }
    }

    fn is_on_disk(&self, name: &str) -> Result<bool, SpineError> {
        Ok(self.stored()?.get(name).is_some_and(|stored| stored.there))
    }

    fn host(self: &Arc<Self>, record: WorldRecord) -> Result<WorldHandle, SpineError> {
        let name = record.world.clone();
        let rig = Rig { disk: self.disk.clone(), ..Rig::default() };
        let mut hosted = host::start_beside(rig, &self.shared, record)?;
        let handle = hosted.handle.clone();
        let (tell, ended) = watch::channel(None);
        let end = hosted.take_ended();
        let failed_by: Arc<Mutex<Option<SpineError>>> = Arc::default();
        let one = One { hosted: hosted.into(), ended, failure: failed_by.clone() };
        self.worlds.write().insert(name.clone(), one);
        let this = self.clone();
        tokio::spawn(async move {
            let failure = match end.await {
                Ok(Ok(()) | Err(SpineError::Interrupted)) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => Some(SpineError::Unrecoverable {
                    world: name.clone(),
                    detail: "its thread panicked".into(),
                }),
            };
            let is_failed = failure.is_some();
            if let Some(error) = failure {
                tracing::error!(world = name, "{}", chain(&error));
                *failed_by.lock() = Some(error);
            }
            tell.send_replace(Some(is_failed));
            this.ended.notify_waiters();
        });
        Ok(handle)
    }

    /// Those that are hosted, by name.
    pub fn worlds(&self) -> Vec<WorldHandle> {
        self.worlds.read().values().map(|one| one.hosted.handle.clone()).collect()
    }

    /// The one that the process was told to host; where that is not hosted any more, the first by name.
    pub fn main(&self) -> Option<WorldHandle> {
        self.world(&self.main).or_else(|| self.worlds().into_iter().next())
    }

    /// A hosted one.
    pub fn world(&self, name: &str) -> Option<WorldHandle> {
        self.worlds.read().get(name).map(|one| one.hosted.handle.clone())
    }

    /// Resolves when a world has failed and none goes on.
    pub async fn all_failed(&self) {
        loop {
            let told = self.ended.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            {
                let worlds = self.worlds.read();
                let ends = || worlds.values().map(|one| *one.ended.borrow());
                if ends().all(|end| end.is_some()) && ends().any(|end| end == Some(true)) {
                    return;
                }
            }
            told.await;
        }
    }

    /// Ends all of them in order.
    ///
    /// # Errors
    /// The first failure of any world.
    pub async fn stop(&self) -> Result<(), SpineError> {
        // What waits for its turn finds no server any more; what has it comes to its end first.
        self.stopping.store(true, Relaxed);
        self.stop_all().await;
        let _turn = self.turn.lock().await;
        self.stop_all().await;
        let failure = self.worlds.read().values().find_map(|one| one.failure.lock().take());
        failure.map_or(Ok(()), Err)
    }

    async fn stop_all(&self) {
        let ending: Vec<(Arc<Hosted>, watch::Receiver<Option<bool>>)> =
            self.worlds.read().values().map(|one| (one.hosted.clone(), one.ended.clone())).collect();
        tokio::task::block_in_place(|| ending.iter().for_each(|(hosted, _)| hosted.stop()));
        for (_, mut ended) in ending {
            // Its sender lives until it has told.
            let _ = ended.wait_for(Option::is_some).await;
        }
    }

    /// Makes a world from its scenario and hosts it, from now on at each start.
    ///
    /// # Errors
    /// When there is one of that name, too many are hosted, or it cannot be made.
    pub async fn create(self: &Arc<Self>, record: WorldRecord) -> Result<WorldHandle, HostingError> {
        self.to_its_end(|this| async move {
            let name = record.world.clone();
            if this.world(&name).is_some() || this.is_on_disk(&name)? {
                return Err(HostingError::WrongState(format!("there is a world \"{name}\" already")));
            }
            this.may_come(&name)?;
            let handle = this.host(record)?;
            if !this.settled(&name).await {
                let failure = this.unload_now(&name).await;
                return Err(failure.map_or_else(is_stopping, Into::into));
            }
            this.note(&name, true)?;
            Ok(handle)
        })
        .await
    }

    /// Hosts a world that is only in the data directory, from now on at each start.
    ///
    /// # Errors
    /// When there is none of that name, or too many are hosted.
    pub async fn load(self: &Arc<Self>, name: &str) -> Result<WorldHandle, HostingError> {
        let name = name.to_owned();
        self.to_its_end(|this| async move {
            if let Some(handle) = this.world(&name)
                && handle.status.state().0 != WorldState::Failed
            {
                return Ok(handle);
            }
            if !this.is_on_disk(&name)? {
                return Err(HostingError::Unknown(name));
            }
            this.may_come(&name)?;
            // One that has failed.
            this.unload_now(&name).await;
            this.note(&name, true)?;
            Ok(this.host(this.record_of(&name))?)
        })
        .await
    }

    /// Ends the host of a world; it stays in the data directory.
    ///
    /// # Errors
    /// When it is not hosted, or is the last one.
    pub async fn unload(self: &Arc<Self>, name: &str) -> Result<(), HostingError> {
        let name = name.to_owned();
        self.to_its_end(|this| async move {
            this.may_go(&name)?;
            this.note(&name, false)?;
            this.unload_now(&name).await;
            Ok(())
        })
        .await
    }

    /// Removes a world, hosted or not, with all that is kept of it.
    ///
    /// # Errors
    /// When there is none, it is the last one, or it cannot be removed.
    pub async fn remove(self: &Arc<Self>, name: &str) -> Result<(), HostingError> {
        let name = name.to_owned();
        self.to_its_end(|this| async move {
            if this.world(&name).is_some() {
                this.may_go(&name)?;
                this.unload_now(&name).await;
            }
            if !this.is_on_disk(&name)? {
                return Err(HostingError::Unknown(name));
            }
            Ok(Catalogue::open(&this.disk, &this.shared.config.data.dir)?.remove(&name)?)
        })
        .await
    }

    /// One such work at a time, and each to its end, whether or not somebody still waits for it: where a client that goes
    /// away could end it in the middle, a second host could begin on a world whose first one has not ended.
    async fn to_its_end<T, W>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> W + Send + 'static,
    ) -> Result<T, HostingError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, HostingError>> + Send + 'static,
    {
        let busy = || HostingError::Busy("too many worlds wait to be made, loaded or removed".into());
        let place = self.waiting.clone().try_acquire_owned().map_err(|_| busy())?;
        let this = self.clone();
        let working = tokio::spawn(async move {
            let _place = place;
            let _turn = this.turn.lock().await;
            if this.stopping.load(Relaxed) {
                return Err(is_stopping());
            }
            work(this.clone()).await
        });
        working.await.unwrap_or_else(|_| Err(HostingError::WrongState("the work panicked".into())))
    }

    /// Refuses one world more than may be hosted (L1). One that is hosted, or has failed, has its place.
    fn may_come(&self, name: &str) -> Result<(), HostingError> {
        let max = self.shared.config.data.worlds_max;
        let worlds = self.worlds.read();
        if worlds.contains_key(name) || worlds.len() < max {
            return Ok(());
        }
        Err(HostingError::WrongState(format!("{max} worlds are hosted already (data.worlds_max)")))
    }

    fn may_go(&self, name: &str) -> Result<(), HostingError> {
        let worlds = self.worlds.read();
        if !worlds.contains_key(name) {
            return Err(HostingError::WrongState(format!("world \"{name}\" is not hosted")));
        }
        if worlds.len() == 1 {
            return Err(HostingError::WrongState(format!("world \"{name}\" is the last one that is hosted")));
        }
        Ok(())
    }

    /// Ends a world's host, and says how it had failed.
    async fn unload_now(&self, name: &str) -> Option<SpineError> {
        let One { hosted, mut ended, failure } = self.worlds.write().remove(name)?;
        tokio::task::block_in_place(|| hosted.stop());
        // Its sender lives until it has told.
        let _ = ended.wait_for(Option::is_some).await;
        self.shared.metrics.forget(name);
        failure.lock().take()
    }

    /// Waits until a world is there; false when it has ended before.
    async fn settled(&self, name: &str) -> bool {
        let Some((handle, mut ended)) =
            self.worlds.read().get(name).map(|one| (one.hosted.handle.clone(), one.ended.clone()))
        else {
            return false;
        };
        while handle.running().is_none() {
            let pause = tokio::time::sleep(std::time::Duration::from_millis(5));
            tokio::select! {
                () = pause => {}
                _ = ended.wait_for(Option::is_some) => return false,
            }
        }
        true
    }

    fn note(&self, name: &str, on: bool) -> Result<(), SpineError> {
        let mut catalogue = Catalogue::open(&self.disk, &self.shared.config.data.dir)?;
        catalogue.note(Event::Hosted { name: name.to_owned(), on })
    }

    /// The worlds of the data directory, hosted or not.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn stored(&self) -> Result<BTreeMap<String, catalogue::Stored>, SpineError> {
        catalogue::stored(&self.disk, &self.shared.config.data.dir)
    }
}
