//! Questions about entities, held against a plain look at each row.

use crate::{created, options};
use everworld_engine::{
    Image, Parallel, Registry, Uid, WorldBuilder, component, labels,
    query::{Aggregation, Filter, Region, Select, Sort, everything},
    random::Draws,
    row, slow_component,
};
use serde_json::{Value, json};
use std::{cmp::Ordering, sync::Arc};

labels! {
    /// What someone does.
    pub enum Trade: u8 { None = "none", Baker = "baker", Smith = "smith" }
}
row! {
    /// Something to remember.
    pub struct Slot { subject: Uid, strength: f32, kind: u32 }
}
component! {
    /// What someone lacks.
    pub struct Needs("needs", version 1) { coins: i64, hunger: f32, trade: Trade, spare: [u8; 3] }
}
component! {
    /// What someone remembers.
    pub struct Mind("mind", version 1) { slots: [Slot; 2] }
}
component! {
    /// Where someone is.
    pub struct Position("position", version 1) { x: f32, y: f32 }
}
slow_component! {
    /// What someone is called.
    pub struct Name("name", version 1) { first: String, tags: Vec<String> }
}

/// 20,000 of which each has a part of the columns: more than one chunk.
fn world() -> (Arc<Registry>, Image) {
    let mut builder = WorldBuilder::new(1, 1.0);
    builder.column::<Needs>().column::<Mind>().column::<Position>().slow_column::<Name>();
    builder.setup(|world| {
        let mut draws = Draws::new(5, 0, 0, 0);
        for number in 0..20_000u32 {
            let needs = Needs {
                hunger: (draws.below(11) as f32) / 10.0,
                coins: i64::from(draws.below(7)) - 3,
                trade: Trade(draws.below(4) as u8),
                spare: [0; 3],
            };
            let slot = |draws: &mut Draws| Slot {
                subject: Uid::new(u64::from(draws.below(5))),
                strength: draws.unit32(),
                kind: draws.below(3),
            };
            let mind = Mind { slots: [slot(&mut draws), slot(&mut draws)] };
            let position = Position { x: draws.unit32() * 10.0, y: draws.unit32() * 10.0 };
            match number % 5 {
                0 => world.spawn((needs,)),
                1 => world.spawn((needs, mind)),
                2 if number % 100 == 2 => {
                    let name = Name {
                        first: ["Ada", "Bo"][number as usize % 2].into(),
                        tags: vec![format!("t{}", number % 3)],
                    };
                    world.spawn((needs, name))
                }
                _ => world.spawn((needs, mind, position)),
            };
        }
    });
    let live = created(builder, 2, Parallel::Auto);
    (live.registry().clone(), live.image())
}

/// All entities as JSON, by Uid.
fn all(registry: &Arc<Registry>, image: &Image) -> Vec<(u64, Value)> {
    let (found, more) = everything(registry).page(image, None, None, usize::MAX / 2);
    assert!(!more);
    let select = Select::default();
    found
        .iter()
        .map(|found| (found.uid.get(), Value::Object(select.components(image, registry, found.place))))
        .collect()
}

#[test]
fn conditions_hold_for_those_and_no_others() {
    let (registry, image) = world();
    let all = all(&registry, &image);
    assert_eq!(all.len(), 20_000);
    let pool = options(2, Parallel::Auto).pool;
    let check = |text: &str, naive: &dyn Fn(&Value) -> bool| {
        let filter = text.parse::<Filter>().unwrap().bind(&registry).unwrap();
        let (found, _) = pool.install(|| filter.page(&image, None, None, 100_000));
        let found: Vec<u64> = found.iter().map(|found| found.uid.get()).collect();
        let expected: Vec<u64> = all.iter().filter(|(_, row)| naive(row)).map(|(uid, _)| *uid).collect();
        assert!(found == expected, "{text}: {} found, {} expected", found.len(), expected.len());
        assert_eq!(filter.count(&image), expected.len() as u64);
        assert!(!expected.is_empty() && expected.len() < all.len(), "{text} says something");
    };
    let hunger = |row: &Value| row["needs"]["hunger"].as_f64().unwrap();
    let coins = |row: &Value| row["needs"]["coins"].as_i64().unwrap();
    check("needs.hunger>0.8", &|row| hunger(row) > 0.8);
    check("needs.hunger>=0.8", &|row| hunger(row) >= 0.8);
    check("needs.hunger==0.3", &|row| hunger(row) == 0.3);
    check("needs.hunger!=0.3", &|row| hunger(row) != 0.3);
    check("needs.coins<-1", &|row| coins(row) < -1);
    check("needs.coins<=0.5", &|row| coins(row) <= 0);
    check("needs.coins in (1, 3)", &|row| [1, 3].contains(&coins(row)));
    check("needs.trade==baker", &|row| row["needs"]["trade"] == "baker");
    check("needs.trade==3", &|row| row["needs"]["trade"] == 3);
    check("not (needs.trade in (baker, \"smith\")) and needs.coins>0", &|row| {
        row["needs"]["trade"] != "baker" && row["needs"]["trade"] != "smith" && coins(row) > 0
    });
    check("position", &|row| row.get("position").is_some());
    check("mind and not position", &|row| row.get("mind").is_some() && row.get("position").is_none());
    check("mind.slots.1.subject==3", &|row| row["mind"]["slots"][1]["subject"] == "3");
    check("mind.slots.*.subject==\"3\"", &|row| {
        row["mind"]["slots"].as_array().is_some_and(|slots| slots.iter().any(|slot| slot["subject"] == "3"))
    });
    check("position.x<5 or name.first==Ada", &|row| {
        row["position"]["x"].as_f64().is_some_and(|x| x < 5.0) || row["name"]["first"] == "Ada"
    });
    check("name.tags.*==t1", &|row| {
        row["name"]["tags"].as_array().is_some_and(|tags| tags.contains(&json!("t1")))
    });
    check("not name", &|row| row.get("name").is_none());
}

#[test]
fn a_region_is_of_those_with_a_position() {
    let (registry, image) = world();
    let check = |region: Region, inside: &dyn Fn(f64, f64) -> bool| {
        let found = everything(&registry).within(region).unwrap().count(&image);
        let at = |row: &Value| Some((row["position"]["x"].as_f64()?, row["position"]["y"].as_f64()?));
        let expected = all(&registry, &image)
            .iter()
            .filter(|(_, row)| at(row).is_some_and(|(x, y)| inside(x, y)))
            .count();
        assert_eq!(found, expected as u64, "{region:?}");
        assert!(found > 0);
    };
    check(Region::Circle { x: 3.0, y: 4.0, r: 1.5 }, &|x, y| {
        (x - 3.0) * (x - 3.0) + (y - 4.0) * (y - 4.0) <= 1.5 * 1.5
    });
    check(Region::Box { low: (1.0, 2.0), high: (3.0, 9.0) }, &|x, y| {
        (1.0..=3.0).contains(&x) && (2.0..=9.0).contains(&y)
    });
}

#[test]
fn pages_follow_each_other_without_gaps_in_any_order() {
    let (registry, image) = world();
    let filter = "needs.coins>0".parse::<Filter>().unwrap().bind(&registry).unwrap();
    let all = all(&registry, &image);
    let pool = options(2, Parallel::Auto).pool;
    for sort in [None, Some("needs.hunger"), Some("-needs.hunger"), Some("-position.x"), Some("needs.trade")]
    {
        let bound = sort.map(|sort| Sort::bind(sort, &registry).unwrap());
        let (mut uids, mut after) = (Vec::new(), None);
        loop {
            let (page, more) = pool.install(|| filter.page(&image, bound.as_ref(), after, 700));
            uids.extend(page.iter().map(|found| found.uid.get()));
            after = page.last().map(everworld_engine::query::FoundRow::after);
            if !more {
                break;
            }
            assert_eq!(page.len(), 700);
        }
        let mut expected: Vec<&(u64, Value)> =
            all.iter().filter(|(_, row)| row["needs"]["coins"].as_i64().unwrap() > 0).collect();
        let pointer = sort.map(|sort| format!("/{}", sort.trim_start_matches('-').replace('.', "/")));
        expected.sort_by(|(_, one), (_, other)| {
            let number = |row: &Value| {
                let value = row.pointer(pointer.as_ref()?)?;
                let label = value.as_str().and_then(Trade::from_name).map(|trade| f64::from(trade.0));
                label.or(value.as_f64())
            };
            match (number(one), number(other)) {
                (None, None) => Ordering::Equal,
                (None, _) => Ordering::Greater,
                (_, None) => Ordering::Less,
                (Some(one), Some(other)) if sort.is_some_and(|sort| sort.starts_with('-')) => {
                    other.total_cmp(&one)
                }
                (Some(one), Some(other)) => one.total_cmp(&other),
            }
        });
        let expected: Vec<u64> = expected.iter().map(|(uid, _)| *uid).collect();
        assert!(uids == expected, "{sort:?}");
    }
}

#[test]
fn sums_are_those_of_the_rows_for_any_number_of_threads() {
    let (registry, image) = world();
    let all = all(&registry, &image);
    let terms = [
        "count",
        "min(needs.coins)",
        "max(needs.hunger)",
        "avg(needs.hunger)",
        "sum(needs.coins)",
        "count(position.x)",
    ];
    let terms: Vec<String> = terms.map(str::to_owned).into();
    let wanted = Aggregation::bind(&terms, Some("needs.trade"), &registry).unwrap();
    let filter = everything(&registry);
    let one = filter.aggregate(&image, &wanted).unwrap();
    let pool = options(3, Parallel::Auto).pool;
    assert_eq!(pool.install(|| filter.aggregate(&image, &wanted)).unwrap(), one);
    let groups: Vec<&Value> = one.iter().map(|group| &group.group).collect();
    assert_eq!(groups, [&json!("none"), &json!("baker"), &json!("smith"), &json!(3)]);
    for group in &one {
        let rows: Vec<&Value> =
            all.iter().map(|(_, row)| row).filter(|row| row["needs"]["trade"] == group.group).collect();
        let hunger: f64 = rows.iter().map(|row| row["needs"]["hunger"].as_f64().unwrap()).sum();
        let coins: Vec<i64> = rows.iter().map(|row| row["needs"]["coins"].as_i64().unwrap()).collect();
        assert_eq!(group.values["count"], rows.len());
        assert_eq!(group.values["min(needs.coins)"], *coins.iter().min().unwrap());
        assert_eq!(group.values["sum(needs.coins)"], coins.iter().sum::<i64>());
        assert_eq!(group.values["max(needs.hunger)"], 1.0);
        let avg = group.values["avg(needs.hunger)"].as_f64().unwrap();
        assert!((avg - hunger / rows.len() as f64).abs() < 1e-6, "{avg}");
        assert_eq!(
            group.values["count(position.x)"],
            rows.iter().filter(|row| row.get("position").is_some()).count()
        );
    }
    let nobody = "needs.hunger>2".parse::<Filter>().unwrap().bind(&registry).unwrap();
    let none = nobody.aggregate(&image, &Aggregation::bind(&terms, None, &registry).unwrap()).unwrap();
    assert_eq!(
        (none.len(), &none[0].values["count"], &none[0].values["avg(needs.hunger)"]),
        (1, &json!(0), &Value::Null)
    );
}

#[test]
fn what_is_not_there_is_named() {
    let (registry, image) = world();
    let check = |text: &str, says: &str| {
        let error = text.parse::<Filter>().unwrap().bind(&registry).err().unwrap().to_string();
        assert!(error.contains(says), "{text}: {error}");
    };
    check("nothing", "there is no component \"nothing\"; components: ");
    check("needs.thirst>1", "there is no number \"needs.thirst\"; there are: needs.coins, needs.hunger");
    check("mind.slots.2.kind==1", "there is no number");
    check("mind.slots==1", "there is no number");
    check("needs.trade==cook", "one of none, baker, smith");
    check("needs.trade<baker", "without an order");
    check("needs.hunger>high", "a number");
    check("mind.slots.0.subject==x", "a Uid");
    assert!(Sort::bind("name.first", &registry).err().unwrap().0.contains("without numbers"));
    assert!(Sort::bind("mind.slots.*.kind", &registry).err().unwrap().0.contains("several numbers"));
    assert!(Aggregation::bind(&["median(needs.hunger)".into()], None, &registry).is_err());
    assert!(Select::bind(&["needs.thirst".into()], &registry).err().unwrap().0.contains("hunger"));
    let (one, _) = everything(&registry).page(&image, None, None, 1);
    let select =
        Select::bind(&["needs.hunger".into(), "needs.coins".into(), "position".into()], &registry).unwrap();
    let entity = serde_json::to_value(select.entity(&image, &registry, &one[0])).unwrap();
    let members: Vec<&str> =
        entity["components"]["needs"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((members, entity["components"].get("mind")), (vec!["coins", "hunger"], None));
}
