//! One declaration: JSON, schema, query fields, lanes, marks.

use crate::created;
use everworld_engine::{
    Column as _, LiveWorld, Marked, Parallel, Rows, Uid, WorldBuilder, Write,
    column::{lanes, row_bytes_of},
    component, labels, row, slow_component, system,
};
use expect_test::expect;
use serde_json::json;

labels! {
    pub enum Mood: u16 { Calm = "calm", Angry = "angry" }
}
row! {
    /// A remembered thing.
    pub struct Slot { who: Uid, weight: f32, kind: u32 }
}
component! {
    /// All kinds of fields.
    pub struct Everything("everything", version 3) {
        /// Somebody.
        friend: Uid,
        slots: [Slot; 2],
        ratio: f64,
        part: f32 where 0.0..=1.0,
        small: i16 where -5..=5,
        mood: Mood,
    }
}
slow_component! {
    /// A text.
    pub struct Title("title", version 1) { text: String, tags: Vec<String> }
}
component! {
    pub struct Count("count", version 1) { value: u64 }
}

fn world() -> LiveWorld {
    let mut world = WorldBuilder::new(1, 1.0);
    world.column::<Everything>().slow_column::<Title>();
    created(world, 1, Parallel::Never)
}

#[test]
fn rows_go_to_json_and_back() {
    let live = world();
    let column = live.registry().column("everything").unwrap();
    let row = Everything {
        friend: Uid::new(u64::MAX),
        slots: [Slot { who: Uid::new(7), weight: 0.1, kind: 2 }, Slot::default()],
        ratio: 1.5,
        part: 0.25,
        small: -3,
        mood: Mood::Angry,
    };
    let shown = column.to_json(row_bytes_of(&row));
    expect![[r#"{"friend":"18446744073709551615","mood":"angry","part":0.25,"ratio":1.5,"slots":[{"kind":2,"weight":0.1,"who":"7"},{"kind":0,"weight":0.0,"who":"0"}],"small":-3}"#]]
        .assert_eq(&shown.to_string());
    let mut faults = Vec::new();
    assert_eq!(column.from_json(&shown, None, "", &mut faults), row_bytes_of(&row));
    assert!(faults.is_empty());
    // A member that is left out keeps its value.
    let patched = column.from_json(&json!({"part": 1}), Some(row_bytes_of(&row)), "", &mut faults);
    assert_eq!(patched, row_bytes_of(&Everything { part: 1.0, ..row }));
}

#[test]
fn every_wrong_member_is_named() {
    let live = world();
    let check = |value: serde_json::Value, expected: &str| {
        let mut faults = Vec::new();
        live.registry().column("everything").unwrap().from_json(&value, None, "/at", &mut faults);
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults.join("; "), expected);
    };
    check(json!(3), "/at: expected an object with friend, slots, ratio, part, small, mood");
    check(
        json!({"frend": "1"}),
        "/at/frend: unknown field, expected one of friend, slots, ratio, part, small, mood",
    );
    check(json!({"friend": 1}), "/at/friend: expected a Uid: a decimal number in a string");
    check(json!({"part": 1.5}), "/at/part: expected a number from 0 to 1, found 1.5");
    check(
        json!({"part": "x", "small": 6}),
        "/at/part: expected a number; /at/small: expected a number from -5 to 5, found 6",
    );
    check(json!({"small": 0.5}), "/at/small: expected a whole number");
    check(json!({"mood": "sad"}), "/at/mood: expected one of calm, angry");
    check(json!({"slots": []}), "/at/slots: expected an array of 2");
    check(json!({"slots": [{}, {"kind": -1}]}), "/at/slots/1/kind: expected a number from 0 to 4294967295");
    check(json!({"ratio": 1e308}), "");
}

#[test]
fn schema_fields_and_lanes_come_from_the_declaration() {
    let live = world();
    let column = live.registry().column("everything").unwrap();
    let schema = column.json_schema();
    assert_eq!(schema["properties"]["part"], json!({"type": "number", "minimum": 0.0, "maximum": 1.0}));
    assert_eq!(schema["properties"]["friend"]["description"], "Somebody.");
    assert_eq!(schema["properties"]["mood"]["enum"], json!(["calm", "angry"]));
    assert_eq!(schema["description"], "All kinds of fields.");
    expect![[r#"everything.friend everything.slots.0.who everything.slots.0.weight everything.slots.0.kind everything.slots.1.who everything.slots.1.weight everything.slots.1.kind everything.ratio everything.part everything.small everything.mood"#]]
        .assert_eq(&column.query_fields().join(" "));
    let lanes = lanes(Everything::FIELDS);
    let mut end = 0;
    for lane in &lanes {
        assert_eq!(lane.offset, end, "lanes cover the row without gaps");
        end += lane.width;
    }
    assert_eq!(end, size_of::<Everything>());
}

#[test]
fn slow_columns_go_through_serde() {
    let live = world();
    let column = live.registry().column("title").unwrap();
    let mut faults = Vec::new();
    let value = json!({"text": "a", "tags": ["b"]});
    let stored = column.from_json(&value, None, "", &mut faults);
    assert!(faults.is_empty());
    assert_eq!(column.to_json(&stored), value);
    column.from_json(&json!({"text": 1}), None, "/title", &mut faults);
    assert_eq!(faults[0].pointer, "/title");
}

/// The bits say exactly which rows were written.
#[test]
fn written_rows_are_marked() {
    fn some(mut rows: Rows<(Write<Count>, &'static Uid)>) {
        rows.for_each(|(mut counts, uids): (Marked<Count>, &[Uid])| {
            for i in 0..counts.len() {
                if uids[i].get() % 10 == 0 {
                    counts.row_mut(i).value += 1;
                }
                // The same value again is no change.
                let same = counts[i];
                counts.set(i, same);
            }
        });
    }
    fn all(mut rows: Rows<Write<Count>>) {
        rows.for_each(|mut counts| counts.all_mut().iter_mut().for_each(|count| count.value += 1));
    }
    let run = |config, parallel| {
        let mut world = WorldBuilder::new(1, 1.0);
        world.column::<Count>().system(config);
        world.setup(|world| _ = world.spawn_many((0..40_000).map(|value| Count { value })));
        let mut live = created(world, 2, parallel);
        live.tick(&[]).unwrap();
        live
    };
    for parallel in [Parallel::Always, Parallel::Never] {
        let mut live = run(system(some), parallel);
        assert_eq!(live.marked_rows(), 4_000);
        live.tick(&[]).unwrap();
        assert_eq!(live.marked_rows(), 4_000, "marks add up until a capture");
        let _ = live.capture();
        assert_eq!(live.marked_rows(), 0, "a capture takes the marks");
        assert_eq!(run(system(all), parallel).marked_rows(), 40_000);
    }
}
