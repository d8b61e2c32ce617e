//! One hash per seed (W1, W3, W4): for any number of threads, order of registration, order of rows.
//!
//! Small here; `everworld-bench det` does the same with 20,000 NPCs.

use crate::support::{created, options, town};
use everworld_engine::{LiveWorld, StateHash};
use std::collections::BTreeSet;

const TICKS: u64 = 300;

fn sets(seed: u64, npcs: u64) -> Vec<String> {
    vec![format!("seed={seed}"), format!("population={npcs}")]
}

fn play(mut live: LiveWorld, mut between: impl FnMut(u64, &mut LiveWorld)) -> StateHash {
    for tick in 1..=TICKS {
        live.tick(&[]).unwrap();
        between(tick, &mut live);
    }
    live.state_hash()
}

#[test]
fn w1_w3_one_hash_per_seed() {
    let mut seen = BTreeSet::new();
    for seed in 1..=10 {
        let hashes: BTreeSet<StateHash> = [1, 2, 4, 8]
            .into_iter()
            .map(|threads| play(created(town(&sets(seed, 1_000)), threads), |_, _| {}))
            .collect();
        assert_eq!(hashes.len(), 1, "seed {seed}: {hashes:?}");
        let mut permuted = town(&sets(seed, 1_000));
        permuted.permute_registration(seed);
        assert!(
            hashes.contains(&play(created(permuted, 2), |_, _| {})),
            "seed {seed}, permuted registration"
        );
        let shuffled = play(created(town(&sets(seed, 1_000)), 2), |tick, live| {
            if tick % 25 == 0 {
                let image = live.image().shuffled(tick);
                live.restore(&image).unwrap();
            }
        });
        assert!(hashes.contains(&shuffled), "seed {seed}, shuffled rows");
        seen.extend(hashes);
    }
    assert_eq!(seen.len(), 10, "each seed gives another town");
}

#[test]
fn w1_threads_decide_nothing_in_a_town_of_20000() {
    let hashes: BTreeSet<StateHash> = [1, 2, 4, 8]
        .into_iter()
        .map(|threads| play(created(town(&sets(1, 20_000)), threads), |_, _| {}))
        .collect();
    assert_eq!(hashes.len(), 1, "{hashes:?}");
}

#[test]
fn w4_a_restore_at_every_tick_is_unobservable() {
    let expected = play(created(town(&sets(3, 400)), 1), |_, _| {});
    let heavy = play(created(town(&sets(3, 400)), 2), |tick, live| {
        let mut fresh = town(&sets(3, 400)).build(options(1 + tick as usize % 2)).unwrap();
        fresh.restore(&live.image()).unwrap();
        *live = fresh;
    });
    assert_eq!(heavy, expected);
}
