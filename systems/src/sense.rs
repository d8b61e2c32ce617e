//! Who is around: through a grid over those who are out among others, looked at by everybody in their turn.
//!
//! Whom one would talk with is chosen by liking, familiarity and chance, and who has chosen oneself already counts for more:
//! so pairs come about that both chose. Illness passes between those who are near (Kermack and McKendrick 1927).

use crate::needs::is_there;
use everworld_components::{
    Action, Condition, Contagion, Goal, Health, Mood, Position, TIES, Ties, TownMap, Traits,
};
use everworld_engine::{Geometry, Grid, Projected, Projection, Space, event, prelude::*, random::mix, row};

/// How far one hears another talk in a crowd, in metres.
pub(crate) const EARSHOT: f32 = 5.0;
/// The cells of the grid, in metres: somewhat more, as most of the town is empty at any time.
const CELL: f64 = 9.0;
/// About so many of those within earshot are weighed as a partner.
const WEIGHED: u32 = 16;
/// So many of those who stand along one line of cells are looked at: where there are more, some of them.
const CROWD_SEEN: usize = 24;
const _: () = assert!(CROWD_SEEN <= 64, "a bit for each");
/// Nobody is better than somebody who is worth less than that.
const WORTH_TALKING: f32 = 0.3;
/// For so many minutes two find each other as attractive by chance.
const LUCK_TICKS: u64 = 30;
/// Someone is disliked, and feared, from here on.
const FEARED: f32 = -0.4;

event! {
    /// Somebody fell ill.
    pub struct FellIll("fell_ill") {
        /// For so many hours.
        hours: u32,
        /// How many who were ill were near.
        near: u32,
    }
}

/// The people who are out, by where they are.
pub(crate) struct People;

impl Space for People {
    const NAME: &'static str = "people";
    type Map = TownMap;
    type Columns = Projected<Neighbour>;
    type Filter = With<Ties>;

    fn geometry(map: &TownMap) -> Geometry {
        Geometry::bounded([f64::from(map.side); 2], CELL)
    }

    fn place(Projected(row): &Self::Columns) -> [f64; 3] {
        [f64::from(row.x), f64::from(row.y), 0.0]
    }

    fn is_in(Projected(row): &Self::Columns) -> bool {
        row.shows & IS_OUT > 0
    }
}

row! {
    /// What others see of someone.
    pub(crate) struct Neighbour {
        /// Metres to the east.
        x: f32,
        /// Metres to the north.
        y: f32,
        /// By this they are remembered.
        number: u32,
        /// Whom they chose to be with.
        target: u32,
        /// Bits: [`IS_OUT`], [`TALKS`], [`IS_ILL`].
        shows: u32,
    }
}

const IS_OUT: u32 = 1;
const TALKS: u32 = 2;
const IS_ILL: u32 = 4;

impl Projection for Neighbour {
    type From = (Position, Goal, Uid, Health);

    #[inline]
    fn of((position, goal, uid, health): Self::From) -> Self {
        let bit = |is: bool, bit: u32| if is { bit } else { 0 };
        let shows = bit(goal.action.is_public(), IS_OUT)
            | bit(goal.action == Action::Talk, TALKS)
            | bit(health.condition == Condition::Ill, IS_ILL);
        Self { x: position.x, y: position.y, number: number_of(uid), target: goal.target, shows }
    }
}

/// The number by which others remember someone; nobody beyond what has room is remembered.
#[inline]
pub(crate) fn number_of(uid: Uid) -> u32 {
    u32::try_from(uid.get()).unwrap_or(0)
}

type Person = (
    &'static Uid,
    Write<Goal>,
    Write<Mood>,
    Write<Health>,
    &'static Position,
    &'static Ties,
    &'static Traits,
);

/// What one sees.
#[derive(Default)]
struct Seen {
    near: u32,
    ill: f32,
    partner: u32,
    worth: f32,
    dread: f32,
}

/// Looks around.
pub(crate) fn look(
    turn: Turn,
    time: Res<TickTime>,
    random: Random,
    contagion: Res<Contagion>,
    grid: Res<Grid<People>>,
    fell_ill: Emit<FellIll>,
    mut people: Rows<Person>,
) {
    let luck = mix(time.seed ^ mix(time.tick.0 / LUCK_TICKS));
    // Once a day somebody may fall ill by themselves.
    let day_turns = (1_440 / turn.ticks()).max(1);
    people.for_each(|(uids, mut goals, mut moods, mut healths, positions, ties, traits)| {
        for i in turn.rows(uids) {
            let (uid, goal) = (uids[i], goals[i]);
            let mut seen = Seen::default();
            if goal.action.is_public() {
                let talks = goal.action == Action::Talk && is_there(&goal, &positions[i]);
                let me = Onlooker {
                    number: number_of(uid),
                    place: positions[i],
                    goal,
                    ties: &ties[i],
                    known: if talks { ties[i].known.map(|tie| tie.who) } else { [0; TIES] },
                    openness: traits[i].openness,
                    luck,
                    talks,
                };
                me.look(&grid, &mut seen);
            }
            let near = seen.near.min(255) as u8;
            goals.set(i, Goal { target: seen.partner, near, ..goal });
            if seen.dread > 0.0 {
                let alarm = seen.dread * (0.5 + traits[i].neuroticism);
                moods.set(i, Mood { arousal: moods[i].arousal.max(math::unit32(alarm)), ..moods[i] });
            }
            explain!(uid, "has {} people within earshot", seen.near);

            let is_day_turn = (time.tick.0 / turn.ticks() + uid.get()).is_multiple_of(day_turns);
            if healths[i].condition == Condition::Well && (seen.ill > 0.0 || is_day_turn) {
                // To stay well, nobody near may have passed it on.
                let stays = math::pow32(1.0 - contagion.by_contact, seen.ill)
                    * if is_day_turn { 1.0 - contagion.by_day } else { 1.0 };
                if !random.of(uid).chance(stays) {
                    healths.set(i, Health { condition: Condition::Ill, hours: contagion.hours });
                    let hours = u32::from(contagion.hours);
                    fell_ill.emit(uid, FellIll { hours, near: seen.ill as u32 });
                    explain!(uid, "falls ill; {} who are ill are near", seen.ill);
                }
            }
        }
    });
}

struct Onlooker<'a> {
    number: u32,
    place: Position,
    goal: Goal,
    ties: &'a Ties,
    /// Whom the ties are to: looked for more often than found.
    known: [u32; TIES],
    openness: f32,
    luck: u64,
    talks: bool,
}

impl Onlooker<'_> {
    fn look(&self, grid: &Grid<People>, seen: &mut Seen) {
        // By how many there were the last time: in a crowd one cannot weigh everybody.
        let every = 1 + u32::from(self.goal.near) / WEIGHED;
        let chance = mix(self.luck ^ u64::from(self.number));
        let mut talkers = (chance as u32) % every;
        let place = [f64::from(self.place.x), f64::from(self.place.y), 0.0];
        let (mut near, mut ill) = (0.0, 0.0);
        grid.around(place, |run| {
            let all = &grid.rows()[run.members];
            // Of a crowd some, from anywhere on; each stands for as many as are left out.
            let start = if all.len() > CROWD_SEEN { (chance >> 32) as usize % all.len() } else { 0 };
            let (before, after) = all.split_at(start);
            let weight = all.len().max(CROWD_SEEN) as f32 / CROWD_SEEN as f32;
            let after = &after[..after.len().min(CROWD_SEEN)];
            let before = &before[..before.len().min(CROWD_SEEN - after.len())];
            for rows in [after, before] {
                // Who is within earshot first, without a guess at each: few of those around are.
                let within = rows.iter().enumerate().fold(0u64, |within, (i, Projected(row))| {
                    let distance = self.place.distance_squared(row.x, row.y);
                    within | (u64::from(distance <= EARSHOT * EARSHOT) << i)
                });
                for i in math::bits_of(within) {
                    let Projected(other) = rows[i];
                    // Oneself; those whom nobody remembers, as there is no number for them, do not see each other either.
                    if other.number == self.number {
                        continue;
                    }
                    near += weight;
                    ill += if other.shows & IS_ILL > 0 { weight } else { 0.0 };
                    if self.talks && other.shows & TALKS > 0 {
                        talkers += 1;
                        let has_chosen_me = other.target == self.number;
                        if has_chosen_me || talkers.is_multiple_of(every) {
                            self.weigh(other.number, has_chosen_me, seen);
                        }
                    }
                }
            }
        });
        (seen.near, seen.ill) = (near as u32, ill);
    }

    /// What a partner would be worth.
    fn weigh(&self, other: u32, has_chosen_me: bool, seen: &mut Seen) {
        let (low, high) = (self.number.min(other), self.number.max(other));
        let chance =
            (mix(self.luck ^ ((u64::from(high) << 32) | u64::from(low))) >> 40) as f32 / (1 << 24) as f32;
        // All at once, rather than up to the first.
        let is_known = self.known.iter().map(|who| u8::from(*who == other)).sum::<u8>() > 0;
        let tie = if is_known { self.ties.to(other) } else { None };
        let (liking, known) = tie.map_or((0.0, 0.0), |tie| (tie.affinity, tie.familiarity));
        if liking < FEARED {
            seen.dread = seen.dread.max(-liking);
            return;
        }
        let worth = 0.35 * chance
            + 0.8 * liking
            + 0.3 * known
            + if known == 0.0 { 0.3 * self.openness } else { 0.0 }
            + if has_chosen_me { 0.5 } else { 0.0 }
            + if other == self.goal.target { 0.1 } else { 0.0 };
        if other != 0
            && (worth > seen.worth || (worth == seen.worth && other < seen.partner))
            && worth > WORTH_TALKING
        {
            (seen.partner, seen.worth) = (other, worth);
        }
    }
}
