//! A small world in which everything happens that could depend on an order or be lost at a crash: births, deaths,
//! columns that come and go, timers, chance, sums, slow columns, inputs of any size, and failures when asked for.

use bevy_ecs::prelude::Resource;
use everworld::{Plugin, Scenario, ScenarioError};
use everworld_engine::{Column, Migration, fold::FixedSum, input::InputWorld, prelude::*, slow_component};
use serde::{Deserialize, Serialize};

/// The plugin.
pub(crate) const PLUGIN: Plugin = Plugin::new("churn", SCENARIO, build);

/// The same of the build before: a column has another version.
pub(crate) const PLUGIN_BEFORE: Plugin = Plugin::new("churn", SCENARIO, build_older);

const SCENARIO: &str = "name = 'churn'\nplugin = 'churn'\nseed = 1\npopulation = 100\ndt_secs = 1.0";

component! {
    /// What is spent and won.
    pub(crate) struct Energy("energy", version 1) { value: f32, bites: u32 }
}
component! {
    /// At whom one aims.
    pub(crate) struct Target("target", version 1) { uid: Uid }
}
component! {
    /// Who rests.
    pub(crate) struct Tired("tired", version 1) { since: u64 }
}
component! {
    /// Who was hit last, by whom.
    pub(crate) struct Wounded("wounded", version 1) { by: Uid }
}
component! {
    /// What comes and goes without a reason. The build before had it under another name, and not since when.
    pub(crate) struct Luck("luck", version 2) { since: u64, value: u64 }
}
resource! {
    /// The luck of all.
    #[derive(Default)]
    pub(crate) struct Fortune("fortune", version 2) { sum: u64, before: u64 }
}
slow_component! {
    /// What was delivered to someone.
    pub(crate) struct Letter("letter", version 1) {
        /// The text.
        text: String,
    }
}
resource! {
    /// Sums over all.
    #[derive(Default)]
    pub(crate) struct Total("total", version 1) { sum: FixedSum, born: u64 }
}
resource! {
    /// The marks of what was delivered, in the order of arrival.
    #[derive(Default)]
    pub(crate) struct Received("received", version 1) {
        /// Marks, as the harness gave them.
        pub(crate) marks: Vec<u64>,
        /// Depends on every mark and text and their order.
        pub(crate) digest: u64,
    }
}
resource! {
    /// Whether a system is to panic.
    #[derive(Default)]
    pub(crate) struct Cracks("cracks", version 1) { deep: bool }
}

const WAKE: u32 = 7;
const HEAL: u32 = 100;
/// What every planted panic says.
pub(crate) const PLANTED: &str = "planted panic";

fn spend(random: Random, mut rows: Rows<(&'static Uid, Write<Energy>), Without<Tired>>) {
    rows.for_each(|(uids, mut energies)| {
        for i in 0..uids.len() {
            let spent = random.of(uids[i]).unit32() * 0.2;
            energies.row_mut(i).value -= spent;
        }
    });
}

fn aim(random: Random, time: Res<TickTime>, mut rows: Rows<(&'static Uid, Write<Target>)>) {
    rows.for_each(|(uids, mut targets)| {
        for i in 0..uids.len() {
            if (time.tick.0 + uids[i].get()).is_multiple_of(3) {
                let uid = Uid::new(1 + u64::from(random.of(uids[i]).below(200)));
                targets.set(i, Target { uid });
            }
        }
    });
}

fn bite(index: Res<UidIndex>, targets: Query<&Target>, mut energies: Query<&mut Energy>) {
    for target in &targets {
        // Integers add up in any order.
        if let Some(mut energy) = index.get(target.uid).and_then(|entity| energies.get_mut(entity).ok()) {
            energy.bites += 1;
        }
    }
}

fn rest(
    time: Res<TickTime>,
    timers: Timers,
    effects: Effects,
    mut rows: Rows<(&'static Uid, &'static Energy), Without<Tired>>,
) {
    rows.for_each(|(uids, energies)| {
        for (uid, energy) in uids.iter().zip(energies) {
            if energy.value < 0.0 {
                effects.insert(*uid, *uid, Tired { since: time.tick.0 });
                timers.after(5 + uid.get() % 3, *uid, WAKE);
            }
        }
    });
}

fn wake(due: Due, effects: Effects, index: Res<UidIndex>, mut energies: Query<&mut Energy>) {
    for uid in due.of(WAKE) {
        effects.remove::<Tired>(uid, uid);
        if let Some(mut energy) = index.get(uid).and_then(|entity| energies.get_mut(entity).ok()) {
            energy.value += 2.0;
        }
    }
}

fn breed(effects: Effects, random: Random, mut rows: Rows<(&'static Uid, &'static Energy)>) {
    rows.for_each(|(uids, energies)| {
        for (uid, energy) in uids.iter().zip(energies) {
            let mut draws = random.of(*uid);
            if energy.value > 1.5 && draws.chance(0.1) {
                effects.spawn(*uid, (Energy { value: draws.unit32(), bites: 0 }, Target::default()));
            }
            if energy.bites > 12 + uid.get() as u32 % 8 {
                effects.despawn(*uid, *uid);
            }
        }
    });
}

/// Several aim at one: who is heard last must not be a matter of threads or rows.
fn wound(effects: Effects, timers: Timers, mut rows: Rows<(&'static Uid, &'static Target)>) {
    rows.for_each(|(uids, targets)| {
        for (uid, target) in uids.iter().zip(targets) {
            if target.uid != Uid::NONE && uid.get() % 5 == 0 {
                effects.insert(*uid, target.uid, Wounded { by: *uid });
                timers.after(2, target.uid, HEAL + uid.get() as u32 % 7);
            }
        }
    });
}

fn hope(
    random: Random,
    time: Res<TickTime>,
    mut fortune: ResMut<Fortune>,
    mut rows: Rows<(&'static Uid, Write<Luck>)>,
) {
    fortune.sum += time.tick.0;
    rows.for_each(|(uids, mut lucks)| {
        for i in 0..uids.len() {
            if random.of(uids[i]).below(8) == 0 {
                let luck = lucks.row_mut(i);
                *luck = Luck { value: luck.value.wrapping_mul(31).wrapping_add(1), since: time.tick.0 };
            }
        }
    });
}

/// What the build before this one had in the place of `Luck`.
mod older {
    use super::{Random, ResMut, Rows, Uid, Write, component, resource};

    component! {
        /// What comes and goes without a reason.
        pub(crate) struct Luck("luck", version 1) { points: u64 }
    }

    resource! {
        /// The luck of all.
        #[derive(Default)]
        pub(crate) struct Fortune("fortune", version 1) { sum: u64 }
    }

    impl From<Fortune> for super::Fortune {
        fn from(old: Fortune) -> Self {
            Self { sum: 0, before: old.sum }
        }
    }

    pub(super) fn hope(
        random: Random,
        mut fortune: ResMut<Fortune>,
        mut rows: Rows<(&'static Uid, Write<Luck>)>,
    ) {
        fortune.sum += 1;
        rows.for_each(|(uids, mut lucks)| {
            for i in 0..uids.len() {
                lucks.row_mut(i).points += u64::from(random.of(uids[i]).below(3));
            }
        });
    }
}

/// Letters grow and shrink.
fn answer(time: Res<TickTime>, mut letters: Query<(&Uid, &mut Letter)>) {
    for (uid, mut letter) in &mut letters {
        if (uid.get() + time.tick.0).is_multiple_of(11) {
            letter.text.truncate(200);
            letter.text.push_str("; yes");
        }
    }
}

/// How many are weary. Derived: what nobody rebuilds is empty.
#[derive(Resource, Default)]
pub(crate) struct Weary(u64);

fn look(mut weary: ResMut<Weary>, mut rows: Rows<&'static Energy>) {
    weary.0 = rows.sum(|energies| energies.iter().filter(|energy| energy.value < 0.5).count() as u64);
}

fn heed(weary: Res<Weary>, mut total: ResMut<Total>) {
    total.born += weary.0;
}

fn add_up(mut total: ResMut<Total>, index: Res<UidIndex>, mut rows: Rows<&'static Energy>) {
    total.sum =
        rows.sum(|energies| energies.iter().map(|energy| FixedSum::of(f64::from(energy.value))).sum());
    total.born += index.len() as u64;
}

/// Fails in every tick once it was told to.
fn crack(cracks: Res<Cracks>, mut total: ResMut<Total>) {
    assert!(!cracks.deep, "{PLANTED} in a system");
    total.born += 1;
}

/// Brings a text of any length.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deliver {
    mark: u64,
    text: String,
}

impl Input for Deliver {
    const KIND: &'static str = "deliver";
    const DOC: &'static str = "Brings a text of any length.";

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        let mut received = world.resource_mut::<Received>();
        received.marks.push(self.mark);
        received.digest = digest(received.digest, self.mark, &self.text);
        // Somebody has it, if he lives.
        let uid = Uid::new(1 + self.mark % 50);
        world.insert(uid, Letter { text: self.text });
        Ok(Outcome::default())
    }
}

/// FNV-1a over all that came.
fn digest(before: u64, mark: u64, text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    text.bytes().fold(mark.to_le_bytes().into_iter().fold(before, step), step)
}

/// Brings somebody back to strength and others into the world.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settle {
    mark: u64,
    count: u32,
}

impl Input for Settle {
    const KIND: &'static str = "settle";
    const DOC: &'static str = "Brings new ones into the world.";

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        world.resource_mut::<Received>().marks.push(self.mark);
        let first = world
            .spawn_many((0..self.count).map(|i| (Energy { value: i as f32, bites: 0 }, Target::default())));
        Ok(Outcome { created: vec![first] })
    }
}

/// Lets a system, or this input itself, panic.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Break {
    what: Broken,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Broken {
    System,
    Input,
}

impl Input for Break {
    const KIND: &'static str = "break";
    const DOC: &'static str = "Lets a system, or this input, panic.";

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        match self.what {
            Broken::System => world.resource_mut::<Cracks>().deep = true,
            Broken::Input => panic!("{PLANTED} in an input"),
        }
        Ok(Outcome::default())
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what every plugin returns")]
fn build(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    ground(world);
    world.column::<Luck>().resource(Fortune::default()).system(system(hope));
    world.migrate(Migration::from("fortune", 1).value::<older::Fortune, Fortune>(Fortune::from));
    world.migrate(Migration::from("luck", 1).rename("points", "value").default("since", 7));
    settle_first(world, scenario, Luck::default());
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "what every plugin returns")]
fn build_older(world: &mut WorldBuilder, scenario: &Scenario) -> Result<(), ScenarioError> {
    ground(world);
    world.column::<older::Luck>().resource(older::Fortune::default()).system(system(older::hope));
    settle_first(world, scenario, older::Luck::default());
    Ok(())
}

fn settle_first<T: Column + Default>(world: &mut WorldBuilder, scenario: &Scenario, luck: T) {
    let population = scenario.population;
    world.setup(move |world| {
        let energy = |i| Energy { value: i as f32 / population as f32, bites: 0 };
        world.spawn_many((0..population).map(|i| (energy(i), Target::default(), luck)));
    });
}

fn ground(world: &mut WorldBuilder) {
    world.column::<Energy>().column::<Target>().column::<Tired>().column::<Wounded>().slow_column::<Letter>();
    world.resource(Total::default()).resource(Received::default()).resource(Cracks::default());
    world.derived::<Weary>();
    world.input::<Deliver>().input::<Settle>().input::<Break>();
    world
        .system(system(spend))
        .system(system(aim))
        .system(system(bite).after(aim))
        .system(system(rest).after(spend))
        .system(system(wake))
        .system(system(wound))
        .system(system(breed).every(2))
        .system(system(answer))
        .system(system(crack))
        .system(system(look))
        .system(system(heed).after(look))
        .system(system(add_up).after(breed));
}
