//! `heavy`: a world that is taken apart and put together again at every tick, beside one that is left alone (W4).
//!
//! The one that is left alone is captured and mirrored as a server does it; what the mirror says goes through the
//! store, encoded as a difference to the tick before, and what is read back is what the other one is restored from.
//! So a change that capture overlooks, a byte that the store changes and a state outside the state all show.

use crate::{
    Outcome, harness,
    harness::{Inputs, none, some},
    report::{Report, Row},
};
use anyhow::Context as _;
use clap::Args;
use everworld::Plugin;
use everworld_engine::{Image, LiveWorld, Mirror, MirrorHooks, WorldBuilder};
use everworld_persistence::{Snapshot, SnapshotMeta, Store, StoreOptions, sim::SimDisk};
use std::{path::Path, sync::Arc};

#[derive(Args, Clone)]
pub(crate) struct HeavyArgs {
    /// Ticks; each of them is restored
    #[arg(long, default_value_t = 1_000)]
    ticks: u64,
    /// NPCs at the start
    #[arg(long, default_value_t = 500)]
    npcs: u64,
    /// What all chance is drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Put the rows into another order at each restore
    #[arg(long)]
    shuffle_rows: bool,
    /// The scenarios
    #[arg(long, value_delimiter = ',', default_value = "town,churn")]
    scenarios: Vec<String>,
}

impl HeavyArgs {
    pub(crate) fn small(ticks: u64, shuffle_rows: bool) -> Self {
        Self { ticks, npcs: 300, seed: 1, shuffle_rows, scenarios: Vec::new() }
    }
}

pub(crate) fn run(args: &HeavyArgs) -> Outcome {
    let mut rows = Vec::new();
    for name in &args.scenarios {
        rows.extend(Heavy::default().play(args, harness::plugin(name)?, |_| {})?.rows(args, name));
    }
    Ok(Report::new("heavy", rows, None))
}

/// What a run came to.
#[derive(Default)]
pub(crate) struct Heavy {
    restores: u64,
    entities_changed: u64,
    inputs: u64,
    /// Ticks after which the world that was restored had another hash.
    pub(crate) differences: u64,
    /// Ticks at which the mirror was not what the world was.
    pub(crate) mirror_differences: u64,
    /// Images that were not the same when they came back from the store.
    pub(crate) store_differences: u64,
    first: Option<u64>,
}

impl Heavy {
    fn rows(&self, args: &HeavyArgs, name: &str) -> Vec<Row> {
        let order = if args.shuffle_rows { ", rows shuffled" } else { "" };
        let case = format!("{name}, seed {}{order}", args.seed);
        let mut rows = vec![
            some(&case, "restores", self.restores, "ticks"),
            Row::plain(&case, "births and deaths", self.entities_changed as f64, "rows"),
            Row::plain(&case, "inputs", self.inputs as f64, "inputs"),
            none(&case, "other hash after restore", self.differences, "ticks"),
            none(&case, "mirror differs", self.mirror_differences, "ticks"),
            none(&case, "store differs", self.store_differences, "ticks"),
        ];
        if let Some(first) = self.first {
            rows.push(Row::plain(&case, "first at tick", first as f64, "tick"));
        }
        rows
    }

    /// Runs both worlds side by side.
    pub(crate) fn play(
        mut self,
        args: &HeavyArgs,
        plugin: &Plugin,
        tamper: impl Fn(&mut WorldBuilder),
    ) -> anyhow::Result<Self> {
        let size = (args.npcs, args.seed);
        let mut alone = harness::world_of(plugin, size, 2, &tamper)?;
        let mut apart = harness::world_of(plugin, size, 2, &tamper)?;
        alone.create()?;
        let mirror = Mirror::start("heavy", alone.buffers().clone(), MirrorHooks::default())?;
        let mut keeping = Keeping::new()?;
        self.put_together(&mut alone, &mut apart, &mirror, &mut keeping, args)?;
        let mut inputs = Inputs::new(plugin.name, args.seed);
        for _ in 0..args.ticks {
            let inputs = inputs.of(alone.now().next());
            self.inputs += inputs.len() as u64;
            let before = alone.entities();
            alone.tick(&inputs)?;
            apart.tick(&inputs)?;
            self.entities_changed += alone.entities().abs_diff(before) as u64;
            if alone.state_hash() != apart.state_hash() {
                self.differences += 1;
                self.first.get_or_insert(alone.now().0);
            }
            self.put_together(&mut alone, &mut apart, &mirror, &mut keeping, args)?;
        }
        Ok(self)
    }

    /// Brings `apart` to the state of `alone`, on the way that a snapshot goes.
    fn put_together(
        &mut self,
        alone: &mut LiveWorld,
        apart: &mut LiveWorld,
        mirror: &Mirror,
        keeping: &mut Keeping,
        args: &HeavyArgs,
    ) -> anyhow::Result<()> {
        mirror.offer(alone.capture());
        let image = mirror.handle().settled().context("the mirror has an image")?;
        mirror.allow(image.tick);
        let mut truth = None;
        if image.hash != alone.state_hash() || image.compute_hash() != image.hash {
            self.mirror_differences += 1;
            self.first.get_or_insert(alone.now().0);
            // The other faults are looked for all the same.
            truth = Some(Arc::new(alone.image()));
        }
        let image = truth.unwrap_or(image);
        let kept = keeping.there_and_back(&image)?;
        if kept != *image {
            self.store_differences += 1;
            self.first.get_or_insert(alone.now().0);
        }
        let restored = if args.shuffle_rows { image.shuffled(image.tick.0) } else { kept };
        apart.restore(&restored).context("what came back from the store is a state")?;
        self.restores += 1;
        Ok(())
    }
}

/// A store on a disk in memory that takes every tick.
struct Keeping {
    store: Store,
}

impl Keeping {
    fn new() -> anyhow::Result<Self> {
        let options = StoreOptions {
            roll_secs: 30,
            dense_secs: 0,
            sparse_every_secs: 1_000,
            ..StoreOptions::default()
        };
        let (store, _) = Store::open(Arc::new(SimDisk::default()), Path::new("data/store"), options)?;
        Ok(Self { store })
    }

    /// Writes the image as a snapshot, mostly as a difference to the last one, and reads it back.
    fn there_and_back(&mut self, image: &Arc<Image>) -> anyhow::Result<Image> {
        let tick = image.tick;
        let meta = SnapshotMeta {
            branch: 0,
            tick,
            hash: image.hash,
            applied_seq: image.taken_seq(),
            lsn: tick.0 + 1,
            chain: 0,
            build_id: [0; 16],
            entities: image.entities() as u64,
            // A second passes in a tick: epochs roll, old ones go.
            unix_millis: tick.0 * 1_000,
        };
        self.store.write(&Snapshot { meta, image: image.clone(), host: &[], ledger: &[] })?;
        self.store.prune(meta.unix_millis)?;
        Ok(self.store.load(0, tick)?.image)
    }
}
