//! Births and deaths, in towns where people are mortal: once a day for everybody.
//!
//! Who starves, or is ill and weak, may die; what they own falls to the town. Friends who live together may have a child,
//! which has of each trait the mean of both, and some of its own (Bouchard and McGue 2003, "Genetic and environmental
//! influences on human psychological differences").

use crate::{memory::FRIEND, sense::number_of};
use everworld_components::{
    Condition, Customs, Faction, Goal, Health, Home, Memory, Mood, Needs, Occupation, Pack, Position, Purse,
    Ties, Traits, Treasury, Velocity,
};
use everworld_engine::{event, prelude::*, random::Draws};

/// In a day: of those who starve, of those who are ill, and of all others, so many die.
const STARVES: f32 = 0.3;
const DIES_ILL: f32 = 0.02;
const DIES: f32 = 1.0 / (50.0 * 365.0);
/// In a day, of those who live with a friend so many have a child: about as many as die.
const BEARS: f32 = 1.0 / (25.0 * 365.0);
/// Whoever lives that near lives in the same house, in metres.
const SAME_HOUSE: f32 = 1.0;

event! {
    /// Somebody died.
    pub struct Died("died") {
        /// Coins that fall to the town.
        coins: u32,
        /// 1 where it was of hunger.
        of_hunger: u16,
        /// 1 where it was of an illness.
        of_illness: u16,
    }
}
event! {
    /// Somebody had a child.
    pub struct Born("born") {
        /// The other parent.
        with: Uid,
    }
}

type Mortal = (
    &'static Uid,
    &'static Needs,
    &'static Health,
    Write<Purse>,
    &'static Ties,
    &'static Home,
    &'static Traits,
    &'static Faction,
    &'static Pack,
);

/// Who is born, and who dies.
#[expect(clippy::too_many_arguments, reason = "a life is made of much")]
pub(crate) fn pass(
    turn: Turn,
    customs: Res<Customs>,
    random: Random,
    index: Res<UidIndex>,
    effects: Effects,
    died: Emit<Died>,
    born: Emit<Born>,
    mut treasury: ResMut<Treasury>,
    homes: Query<(&Home, &Traits)>,
    mut people: Rows<Mortal>,
) {
    if customs.mortal == 0 {
        return;
    }
    let inherited: i64 =
        people.sum(|(uids, needs, healths, mut purses, ties, own_homes, traits, factions, packs)| {
            let mut inherited = 0;
            for i in turn.rows(uids) {
                let mut draws = random.of(uids[i]);
                let (starves, is_ill) = (needs[i].hunger >= 1.0, healths[i].condition == Condition::Ill);
                let risk = match (starves, is_ill) {
                    (true, _) => STARVES,
                    (_, true) => DIES_ILL,
                    _ => DIES,
                };
                if draws.chance(risk) {
                    let coins = purses[i].coins;
                    inherited += i64::from(coins);
                    purses.set(i, Purse { coins: 0 });
                    let (of_hunger, of_illness) = (u16::from(starves), u16::from(is_ill && !starves));
                    died.emit(uids[i], Died { coins, of_hunger, of_illness });
                    effects.despawn(uids[i], uids[i]);
                    continue;
                }
                let (me, home) = (number_of(uids[i]), &own_homes[i]);
                let lives_here = |who: u32| {
                    let other = homes.get(index.get(Uid::new(u64::from(who)))?).ok()?;
                    let (x, y) = (other.0.x - home.x, other.0.y - home.y);
                    (x * x + y * y <= SAME_HOUSE * SAME_HOUSE).then_some(*other.1)
                };
                // The one who came later bears it, so that each pair is asked once.
                let friends =
                    ties[i].known.iter().filter(|tie| tie.affinity >= FRIEND && tie.who != 0 && tie.who < me);
                let mut partner: Option<(u32, Traits, f32)> = None;
                for tie in friends {
                    if partner.is_none_or(|(who, _, most)| (tie.affinity, who) > (most, tie.who))
                        && let Some(traits) = lives_here(tie.who)
                    {
                        partner = Some((tie.who, traits, tie.affinity));
                    }
                }
                let Some((with, other, _)) = partner else { continue };
                if packs[i].food > 0 && draws.chance(BEARS) {
                    born.emit(uids[i], Born { with: Uid::new(u64::from(with)) });
                    effects.spawn(uids[i], child(&mut draws, home, &traits[i], &other, factions[i]));
                }
            }
            inherited
        });
    if inherited != 0 {
        treasury.coins += inherited;
    }
}

/// Somebody new.
fn child(
    draws: &mut Draws,
    home: &Home,
    one: &Traits,
    other: &Traits,
    faction: Faction,
) -> impl bevy_ecs::bundle::Bundle + use<> {
    let mut of = |a: f32, b: f32| math::unit32(0.5 * (a + b) + draws.between32(-0.2, 0.2));
    let traits = Traits {
        openness: of(one.openness, other.openness),
        conscientiousness: of(one.conscientiousness, other.conscientiousness),
        extraversion: of(one.extraversion, other.extraversion),
        agreeableness: of(one.agreeableness, other.agreeableness),
        neuroticism: of(one.neuroticism, other.neuroticism),
    };
    (
        (
            Position { x: home.x, y: home.y },
            Velocity::default(),
            Needs::default(),
            traits,
            Mood::default(),
            *home,
        ),
        (
            Occupation { x: home.x, y: home.y, starts: 32, lasts: 32, ..Occupation::default() },
            Purse::default(),
            Pack { food: 3, wares: 0 },
            Goal { x: home.x, y: home.y, ..Goal::default() },
            Health::default(),
            Faction { zeal: 0, ..faction },
            Memory::default(),
            Ties::default(),
        ),
    )
}
