//! Turns, what is handed from row to row, and rows that are in no cell now: on any threads, in any order of rows (W1, W3).

use crate::{created, options};
use everworld_engine::{
    Geometry, Grid, InCells, Parallel, Projected, Projection, Space, StateHash, WorldBuilder, component,
    event, grid, prelude::*, row, turn::GROUP,
};

component! {
    struct Post("post", version 1) { x: f64, turns: u64, got: u64, from: u64, near: u32, is_out: u32 }
}
event! {
    /// Something for somebody.
    struct Parcel("parcel") { by: Uid, weight: u64 }
}
resource! {
    #[derive(Clone, Copy, Debug, Default)]
    struct Street("street", version 1) { metres: f64 }
}

const SEND: Phase = Phase("send");
const TAKE: Phase = Phase("take");
const LOOK: Phase = Phase("look");

const PEOPLE: u64 = 5_000;
const TURNS: u64 = 7;

/// Those who are out.
struct Walkers;

impl Space for Walkers {
    const NAME: &'static str = "walkers";
    type Map = Street;
    type Columns = Projected<Walker>;
    type Filter = ();

    fn geometry(street: &Street) -> Geometry {
        Geometry::bounded([street.metres, 10.0], 10.0)
    }

    fn place(Projected(walker): &Self::Columns) -> [f64; 3] {
        [walker.x, 5.0, 0.0]
    }

    fn is_in(Projected(walker): &Self::Columns) -> bool {
        walker.is_out == 1
    }
}

row! {
    /// What a grid keeps of a post.
    struct Walker { x: f64, is_out: u32, number: u32 }
}

impl Projection for Walker {
    type From = (Post, Uid);

    fn of((post, uid): Self::From) -> Self {
        Self { x: post.x, is_out: post.is_out, number: uid.get() as u32 }
    }
}

fn send(turn: Turn, parcels: Emit<Parcel>, mut posts: Rows<(&'static Uid, Write<Post>)>) {
    posts.for_each(|(uids, mut posts)| {
        for i in turn.rows(uids) {
            posts.row_mut(i).turns += 1;
            // Two to a neighbour, one to oneself.
            let to = Uid::new(uids[i].get() % PEOPLE + 1);
            for weight in [1, 2] {
                parcels.emit(to, Parcel { by: uids[i], weight });
            }
        }
        assert!(turn.rows(uids).eq((0..uids.len()).filter(|i| turn.is_of(uids[*i]))));
    });
}

fn take(index: Res<UidIndex>, parcels: Res<Happened<Parcel>>, mut posts: Rows<Write<Post>>) {
    posts.for_those(&index, &parcels, |mut posts, parcels| {
        for (i, parcel) in parcels {
            let post = posts.row_mut(*i);
            post.got += parcel.weight;
            // In the order in which they happened.
            post.from = post.from.rotate_left(3) ^ (parcel.by.get() << 8) ^ parcel.weight;
        }
    });
}

fn look(mut posts: InCells<Walkers, Write<Post>, u32>) {
    posts.for_each(
        |cell, near| {
            assert!(cell.rows().is_sorted_by_key(|Projected(walker)| walker.number));
            for (Projected(post), near) in cell.rows().iter().zip(near) {
                assert_eq!(post.is_out, 1);
                let others = cell.runs().flat_map(|(_, others)| others);
                *near = others.filter(|Projected(other)| (other.x - post.x).abs() <= 10.0).count() as u32;
            }
        },
        |mut posts, near| {
            for i in 0..posts.len() {
                posts.row_mut(i).near = near.of(i);
            }
        },
    );
}

/// Every third comes out, and who is out goes in, by turns.
fn go(time: Res<TickTime>, mut posts: Rows<(&'static Uid, Write<Post>)>) {
    posts.for_each(|(uids, mut posts)| {
        for (i, uid) in uids.iter().enumerate() {
            posts.row_mut(i).is_out = u32::from((uid.get() + time.tick.0).is_multiple_of(3));
        }
    });
}

fn world() -> WorldBuilder {
    let mut world = WorldBuilder::new(3, 1.0);
    world
        .column::<Post>()
        .resource(Street { metres: 4_000.0 })
        .message::<Parcel>()
        .phases(&[SEND, TAKE, LOOK])
        .system(system(send).phase(SEND).spread(TURNS))
        .system(system(take).phase(TAKE))
        .system(system(go).phase(TAKE))
        .grid::<Walkers>(|grid| grid.phase(LOOK))
        .system(system(look).phase(LOOK).after(grid::build::<Walkers>))
        .setup(|world| {
            world.spawn_many(
                (0..PEOPLE).map(|i| (Post { x: (i * 7_919 % 4_000) as f64, ..Post::default() },)),
            );
        });
    world
}

#[test]
fn w1_w3_turns_parcels_and_walkers_come_to_the_same() {
    let mut hashes: Vec<StateHash> = Vec::new();
    for (threads, shuffled) in [(1, false), (2, false), (4, false), (3, true)] {
        let mut live = created(world(), threads, Parallel::Always);
        for tick in 0..2 * TURNS {
            if shuffled {
                let image = live.image().shuffled(tick);
                live.restore(&image).unwrap();
            }
            live.tick(&[]).unwrap();
            assert!(live.report().events.is_empty(), "a message is told nowhere");
        }
        let image = live.image();
        let posts: Vec<Post> =
            image.tables.iter().filter_map(everworld_engine::TableImage::rows_of).flatten().collect();
        // Each had two turns, and got what two turns of one neighbour are.
        assert!(posts.iter().all(|post| post.turns == 2 && post.got == 6), "{threads}");
        // As many as there are, by looking at all.
        for post in &posts {
            let near = posts.iter().filter(|other| other.is_out == 1 && (other.x - post.x).abs() <= 10.0);
            assert_eq!(post.near as usize, if post.is_out == 1 { near.count() } else { 0 });
        }
        let out = posts.iter().filter(|post| post.is_out == 1).count();
        assert_eq!(Grid::<Walkers>::of(&image).unwrap().len(), out);
        hashes.push(live.state_hash());
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}

#[test]
fn turns_are_declared_and_go_by_groups() {
    let live = created(world(), 1, Parallel::Never);
    let plan = live.plan();
    assert_eq!(plan.nodes.iter().find(|node| node.name == "turns::send").unwrap().spread, TURNS);
    assert!(plan.to_string().contains("turns::send  spread over 7 ticks"), "{plan}");
    assert_eq!(GROUP, 64);
    fn idle(_: Rows<&'static Post>) {}
    for (spread, says) in [(0, "spread over 0 ticks"), (3, "takes no Turn")] {
        let mut world = WorldBuilder::new(1, 1.0);
        world.column::<Post>().system(system(idle).spread(spread));
        let faults = world.build(options(1, Parallel::Never)).err().unwrap().to_string();
        assert!(faults.contains(says), "{faults}");
    }
}
