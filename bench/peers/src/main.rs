//! Flocking in other frameworks: one contestant, the same birds in every round, one line of JSON on stdout.
//!
//! `everworld-peers --contestant flecs|flecs-sorted|krabmaga --birds FILE --side S --threads T --steps N --rounds R`.
//! FILE holds four little-endian f64 per bird: x, y, vx, vy. Each round begins with a new world, which is not timed; the
//! first round does not count. Mesa is in mesa/flocking.py, with the same arguments and the same output.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads its arguments, a file and a clock; no tick does"
)]

mod flecs_flock;
mod flock;
mod krab_flock;

use flock::{Bird, Summary};
use std::{env, fs, process::ExitCode, time::Instant};

const USAGE: &str = "usage: everworld-peers --contestant flecs|flecs-sorted|krabmaga --birds FILE --side S \
                     --threads T --steps N --rounds R";

/// A world of birds in some framework.
pub(crate) trait Contestant {
    /// All birds turn and fly once.
    fn step(&mut self);
    /// The birds as they are now, in the order in which they were given.
    fn birds(&self) -> Vec<Bird>;
}

#[derive(Clone, Copy)]
struct Entry {
    key: &'static str,
    name: &'static str,
    version: &'static str,
    multi_threaded: bool,
    /// Side, birds, threads.
    world: fn(f64, &[Bird], usize) -> Box<dyn Contestant>,
}

const ENTRIES: [Entry; 3] = [
    Entry {
        key: "flecs",
        name: "flecs_ecs, idiomatic",
        version: "0.2.2",
        multi_threaded: true,
        world: |side, birds, threads| Box::new(flecs_flock::idiomatic(side, birds, threads)),
    },
    Entry {
        key: "flecs-sorted",
        name: "flecs_ecs, sorted flat grid",
        version: "0.2.2",
        multi_threaded: true,
        world: |side, birds, threads| Box::new(flecs_flock::sorted(side, birds, threads)),
    },
    Entry {
        key: "krabmaga",
        name: "krABMaga",
        version: "0.6.2",
        multi_threaded: false,
        world: |side, birds, _| Box::new(krab_flock::Flock::new(side, birds)),
    },
];

fn main() -> ExitCode {
    match run(env::args().skip(1)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl Iterator<Item = String>) -> Result<String, String> {
    let args = Args::parse(args)?;
    let bytes =
        fs::read(&args.birds).map_err(|error| format!("could not read \"{}\": {error}", args.birds))?;
    let birds = flock::read(&bytes, args.side)
        .map_err(|error| format!("could not use \"{}\": {error}", args.birds))?;
    let mut times = Vec::with_capacity(args.rounds);
    let mut summary = Summary::default();
    // One round that does not count: pages, caches, threads.
    for round in 0..=args.rounds {
        let mut world = (args.entry.world)(args.side, &birds, args.threads);
        let begun = Instant::now();
        (0..args.steps).for_each(|_| world.step());
        let millis = begun.elapsed().as_secs_f64() * 1e3;
        if round > 0 {
            times.push(millis / args.steps as f64);
        }
        summary = Summary::of(&world.birds());
    }
    let Entry { name, version, multi_threaded, .. } = args.entry;
    let threads = if multi_threaded { args.threads } else { 1 };
    let Summary { order_parameter, checksum } = summary;
    // Debug prints numbers, and lists of them, as JSON does.
    Ok(format!(
        "{{\"name\": \"{name}\", \"version\": \"{version}\", \"threads\": {threads}, \"ms_per_step\": {times:?}, \
         \"order_parameter\": {order_parameter:?}, \"checksum\": {checksum:?}}}"
    ))
}

struct Args {
    entry: Entry,
    birds: String,
    side: f64,
    threads: usize,
    steps: usize,
    rounds: usize,
}

impl Args {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        const NAMES: [&str; 6] = ["--contestant", "--birds", "--side", "--threads", "--steps", "--rounds"];
        let mut values: [Option<String>; 6] = Default::default();
        while let Some(name) = args.next() {
            let place = NAMES.iter().position(|known| *known == name);
            let place = place.ok_or_else(|| format!("unknown argument \"{name}\"\n{USAGE}"))?;
            values[place] = Some(args.next().ok_or_else(|| format!("{name} needs a value\n{USAGE}"))?);
        }
        let mut value = |place: usize| {
            values[place].take().ok_or_else(|| format!("{} is missing\n{USAGE}", NAMES[place]))
        };
        let key = value(0)?;
        let entry = ENTRIES.into_iter().find(|entry| entry.key == key);
        let entry = entry.ok_or_else(|| format!("unknown contestant \"{key}\"\n{USAGE}"))?;
        let birds = value(1)?;
        let text = value(2)?;
        // Three cells along a side at least, so that no bird is looked at twice.
        let side = text.parse().ok().filter(|side| (3.1 * flock::RADIUS..=1e9).contains(side));
        let side = side.ok_or_else(|| {
            format!("--side must be a number from {} to 1e9, not \"{text}\"", 3.1 * flock::RADIUS)
        })?;
        let mut count = |place: usize, most: usize| {
            let text = value(place)?;
            let count = text.parse().ok().filter(|count| (1..=most).contains(count));
            count.ok_or_else(|| format!("{} must be a number from 1 to {most}, not \"{text}\"", NAMES[place]))
        };
        let (threads, steps, rounds) = (count(3, 256)?, count(4, 1_000_000)?, count(5, 1_000)?);
        Ok(Self { entry, birds, side, threads, steps, rounds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_manifest() {
        let manifest = include_str!("../Cargo.toml");
        for (package, key) in
            [("flecs_ecs", "flecs"), ("flecs_ecs", "flecs-sorted"), ("krabmaga", "krabmaga")]
        {
            let entry = ENTRIES.iter().find(|entry| entry.key == key).unwrap();
            let pinned = format!("{package} = {{ version = \"={}\"", entry.version);
            assert!(manifest.contains(&pinned), "{pinned}");
        }
    }

    #[test]
    fn arguments_are_checked() {
        let check = |text: &str, expected: &str| {
            let error = Args::parse(text.split_whitespace().map(String::from)).err();
            let error = error.as_deref().and_then(|error| error.lines().next());
            assert_eq!(error, Some(expected).filter(|expected| !expected.is_empty()), "{text}");
        };
        let rest = "--birds b --side 150 --threads 2 --steps 1";
        check(&format!("--contestant flecs {rest} --rounds 1"), "");
        check(&format!("--contestant flecs {rest}"), "--rounds is missing");
        check(&format!("--contestant flecs {rest} --rounds"), "--rounds needs a value");
        check(&format!("--contestant specs {rest} --rounds 1"), "unknown contestant \"specs\"");
        check("--agents 1", "unknown argument \"--agents\"");
        let rounds = "--rounds must be a number from 1 to 1000, not \"0\"";
        check(&format!("--contestant krabmaga {rest} --rounds 0"), rounds);
        let side = "--side must be a number from 46.5 to 1e9, not \"NaN\"";
        check("--contestant flecs --birds b --side NaN", side);
    }
}
