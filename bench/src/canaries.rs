//! `canaries`: each planted bug must be noticed by the harness that is there for it, and the same world without the
//! bug must not be. A harness that cannot fail proves nothing.

use crate::{
    Outcome, bitrot, crash, det,
    det::DetArgs,
    harness,
    heavy::{Heavy, HeavyArgs},
    report::{Bound, Report, Row},
    scenarios::planted,
};
use everworld::Plugin;
use everworld_engine::{Sabotage, WorldBuilder};
use everworld_persistence::sim;

pub(crate) fn run() -> Outcome {
    harness::count_panics();
    let mut rows = Vec::new();
    let det_args = DetArgs {
        scenarios: Vec::new(),
        threads: vec![1, 2, 4, 8],
        seeds: 1,
        npcs: 300,
        ticks: 60,
        shuffle_systems: 2,
        shuffle_rows_every: 10,
    };
    let det = |plugin: &Plugin, tamper: fn(&mut WorldBuilder)| -> anyhow::Result<u64> {
        Ok(det::hashes(&det_args, plugin, 1, tamper)?.0.len() as u64 - 1)
    };
    let heavy = |plugin: &Plugin, shuffle_rows, tamper: fn(&mut WorldBuilder)| {
        Heavy::default().play(&HeavyArgs::small(60, shuffle_rows), plugin, tamper)
    };
    let mut canary = |name: &str, harness: &str, caught: u64, sound: u64| {
        rows.push(Row::bounded(
            name,
            &format!("caught by {harness}"),
            caught as f64,
            "findings",
            Bound::AtLeast(1.0),
        ));
        rows.push(Row::bounded(name, "without the bug", sound as f64, "findings", Bound::AtMost(0.0)));
    };

    let sound = det(&planted::SOUND, |_| {})?;
    canary("a system reads a HashMap in its order", "det", det(&planted::HASH_MAP, |_| {})?, sound);
    canary("a system takes dt from the wall clock", "det", det(&planted::WALL_CLOCK, |_| {})?, sound);
    let sound = heavy(&planted::SOUND, true, |_| {})?.differences;
    let found = heavy(&planted::CACHED_ROW, true, |_| {})?.differences;
    canary("a row number is kept across ticks", "heavy --shuffle-rows", found, sound);
    let found = heavy(&planted::ROW_SALT, true, |_| {})?.differences;
    canary("chance is salted by a row number", "heavy --shuffle-rows", found, sound);
    let lose: fn(&mut WorldBuilder) =
        |world| world.sabotage(Sabotage::LoseEdge("planted::fill", "planted::read"));
    // Fewer runs: each waits some time for a reader that comes too early.
    let few = DetArgs {
        threads: vec![1, 2, 4],
        ticks: 20,
        shuffle_systems: 0,
        shuffle_rows_every: 0,
        ..det_args.clone()
    };
    let apart = |tamper| -> anyhow::Result<u64> {
        Ok(det::hashes(&few, &planted::APART, 1, tamper)?.0.len() as u64 - 1)
    };
    canary("the plan loses a dependency", "det", apart(lose)?, apart(|_| {})?);
    let found =
        heavy(&planted::BIRTHS, false, |world| world.sabotage(Sabotage::ForgetSpawns))?.mirror_differences;
    let sound = heavy(&planted::BIRTHS, false, |_| {})?.mirror_differences;
    canary("a spawn is not marked", "heavy", found, sound);
    let lied = crash::power_fails_after_acknowledgements(true)?.faults();
    let sound = crash::power_fails_after_acknowledgements(false)?.faults();
    canary("an acknowledgement before the sync", "crash", lied, sound);
    let early = crash::power_fails_at_a_seal(true)?.faults();
    let sound = crash::power_fails_at_a_seal(false)?.faults();
    canary("a tick is shown before its Seal is synced", "crash", early, sound);
    let sound = bitrot::some_of_the_log(1)?;
    sim::skip_checksums(true);
    let rotten = bitrot::some_of_the_log(1);
    sim::skip_checksums(false);
    let wrong = rotten?;
    canary("checksums are not compared", "bitrot", wrong.wrong + wrong.lost, sound.wrong + sound.lost);
    Ok(Report::new("canaries", rows, None))
}
