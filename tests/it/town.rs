//! What must come out of a town, whatever the seed.

use crate::support::{created, town};
use everworld_components::{Census, DAY_MINUTES, Day, Treasury};
use everworld_engine::{Chunk, Image, LiveWorld};

fn floats<'i>(image: &'i Image, column: &'i str) -> impl Iterator<Item = f32> + 'i {
    let chunks =
        image.tables.iter().filter_map(move |table| table.column(column)).flat_map(|column| &column.chunks);
    chunks.flat_map(|chunk| match &**chunk {
        Chunk::Plain(bytes) => {
            bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
        }
        Chunk::Slow(_) => Vec::new(),
    })
}

fn coins(live: &mut LiveWorld) -> i64 {
    let purses: i64 = floats(&live.image(), "purse").map(|bits| i64::from(bits.to_bits())).sum();
    purses + live.resource::<Treasury>().coins
}

#[test]
fn people_live_by_day_and_sleep_by_night() {
    for seed in [1, 7, 99] {
        let mut live = created(town(&[format!("seed={seed}"), "population=2000".into()]), 2);
        let coins_before = coins(&mut live);
        let side = 2_000f32.sqrt() * 150f32.sqrt();
        let (mut night, mut day, mut at_work, mut by_night_at_market) = (0, 0, 0, 0);
        for _ in 0..2 * DAY_MINUTES {
            live.tick(&[]).unwrap();
            let (census, time) = (*live.resource::<Census>(), *live.resource::<Day>());
            if (22 * 60..24 * 60).contains(&time.minute) || time.minute < 5 * 60 {
                night = night.max(census.awake * 100 / census.people);
                by_night_at_market = by_night_at_market.max(census.at_market);
            } else if time.light > 0.5 {
                day = day.max(census.at_market);
                at_work = at_work.max(census.at_work * 100 / census.people);
            }
            if live.now().0.is_multiple_of(240) {
                let image = live.image();
                assert!(
                    floats(&image, "needs").all(|need| (0.0..=1.0).contains(&need)),
                    "needs stay in 0..1"
                );
                assert!(
                    floats(&image, "position").all(|at| (0.0..=side).contains(&at)),
                    "nobody leaves the map"
                );
            }
        }
        assert!(night < 10, "seed {seed}: {night} % are awake in the night");
        assert!(at_work > 70, "seed {seed}: at most {at_work} % are at work at a time");
        assert!(
            day > 10 * by_night_at_market && day > 500,
            "seed {seed}: {day} at the market by day, {by_night_at_market} by night"
        );
        assert_eq!(coins(&mut live), coins_before, "coins move, and neither come nor go");
        assert!(live.resource::<Census>().people == 2_000, "the travellers have left");
    }
}

#[test]
fn the_cast_is_there_by_name() {
    let live = created(town(&[]), 1);
    let image = live.image();
    let registry = live.registry().clone();
    let names: Vec<String> = image
        .tables
        .iter()
        .filter_map(|table| table.column("name"))
        .flat_map(|column| {
            (0..column.chunks[0].rows(0))
                .map(|row| registry.column("name").unwrap().to_json(image.row(column, row)))
        })
        .map(|name| name["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.len() >= 12 && names.contains(&"Marta Vell".to_owned()), "{names:?}");
}

#[test]
fn travellers_come_in_the_morning_and_go_again() {
    let mut live = created(town(&["population=2000".into()]), 1);
    let mut most = 0;
    for _ in 0..DAY_MINUTES {
        live.tick(&[]).unwrap();
        most = most.max(live.entities());
    }
    assert_eq!((most, live.entities()), (2_005, 2_000));
}

/// The design gives a townsman 568 bytes for all that he will be; he must not outgrow them before.
#[test]
fn a_townsman_fits_into_his_bytes() {
    let live = created(town(&["population=12".into()]), 1);
    let bytes: usize = live.registry().columns().iter().filter_map(|column| column.schema.row_bytes()).sum();
    assert!(bytes <= 568, "{bytes}");
}
