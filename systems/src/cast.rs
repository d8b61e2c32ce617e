//! The cast: named characters, as they are written in a scenario or come by an input.
//!
//! Each has a trade, a home, traits, a wish, a secret and ties; a tie that the other one sees in another way is refused.

use crate::{memory, scenario::Expected, sense::number_of};
use everworld_components::{
    Annals, Episode, EpisodeKind, Faction, Goal, Health, Home, Memory, Mood, Name, Needs, Occupation, Pack,
    Party, Persona, Position, Purse, Remembered, Ties, TownMap, Trade, Traits, Velocity,
};
use everworld_engine::{Registry, column::Fault, input::InputWorld, prelude::*};
use serde::{Deserialize, Serialize};

/// A named character.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Character {
    pub(crate) name: String,
    pub(crate) trade: String,
    /// Where they live, as parts of the town's side.
    pub(crate) home: [f32; 2],
    /// Openness, conscientiousness, extraversion, agreeableness, neuroticism.
    pub(crate) traits: [f32; 5],
    pub(crate) wish: String,
    pub(crate) secret: String,
    #[serde(default)]
    pub(crate) ties: Vec<Bond>,
}

/// What somebody is to a character.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bond {
    /// Who.
    pub(crate) to: String,
    /// What they are to the character: one of [`RELATIONS`].
    #[serde(rename = "as")]
    pub(crate) relation: String,
    /// From -1 to 1; what is usual, where it is not given.
    #[serde(default)]
    pub(crate) affinity: Option<f32>,
}

/// What somebody can be to another, what that one then is to them, and how much such two usually like each other.
pub(crate) const RELATIONS: &[(&str, &str, f32)] = &[
    ("mother", "child", 0.7),
    ("father", "child", 0.7),
    ("child", "parent", 0.8),
    ("sibling", "sibling", 0.5),
    ("spouse", "spouse", 0.8),
    ("beloved", "", 0.8),
    ("friend", "friend", 0.6),
    ("neighbour", "neighbour", 0.1),
    ("partner", "partner", 0.3),
    ("master", "apprentice", 0.3),
    ("apprentice", "master", 0.4),
    ("debtor", "creditor", -0.1),
    ("creditor", "debtor", -0.2),
    ("protector", "ward", 0.4),
    ("ward", "protector", 0.4),
    ("rival", "rival", -0.5),
    ("enemy", "enemy", -0.7),
];

fn relation(name: &str) -> Option<&'static (&'static str, &'static str, f32)> {
    RELATIONS.iter().find(|(known, ..)| *known == name)
}

/// Who is a child of somebody is that of a mother or a father.
fn fits(is: &str, expected: &str) -> bool {
    is == expected || (expected == "parent" && matches!(is, "mother" | "father"))
}

impl Bond {
    fn affinity(&self) -> f32 {
        self.affinity.or_else(|| relation(&self.relation).map(|(.., usual)| *usual)).unwrap_or(0.0)
    }
}

impl Character {
    /// What is wrong with it by itself, as (key, expected, found).
    fn faults(&self) -> Vec<(String, String, String)> {
        let mut faults = Vec::new();
        let mut that = |right: bool, key: &str, expected: String, found: String| {
            if !right {
                faults.push((key.to_owned(), expected, found));
            }
        };
        let trades = format!("one of {}", Trade::NAMES.join(", "));
        that(Trade::from_name(&self.trade).is_some(), "trade", trades, format!("{:?}", self.trade));
        for (name, parts) in [("home", &self.home[..]), ("traits", &self.traits[..])] {
            let are_parts = parts.iter().all(|part| (0.0..=1.0).contains(part));
            that(are_parts, name, "0 to 1 each".into(), format!("{parts:?}"));
        }
        let is_name = (1..=64).contains(&self.name.trim().len()) && self.name.parse::<u64>().is_err();
        that(is_name, "name", "1 to 64 letters, and no number".into(), format!("{:?}", self.name));
        for (key, said) in [("wish", &self.wish), ("secret", &self.secret)] {
            that(!said.trim().is_empty(), key, "what it is".into(), "nothing".into());
        }
        for bond in &self.ties {
            let key = "ties";
            let known: Vec<&str> = RELATIONS.iter().map(|(name, ..)| *name).collect();
            let is_known = relation(&bond.relation).is_some();
            let found = format!("{:?}, to {}", bond.relation, bond.to);
            that(is_known, key, format!("\"as\" to be one of {}", known.join(", ")), found);
            let is_part = bond.affinity.is_none_or(|affinity| (-1.0..=1.0).contains(&affinity));
            that(
                is_part,
                key,
                "an affinity of -1 to 1".into(),
                format!("{:?}, to {}", bond.affinity, bond.to),
            );
            that(bond.to != self.name, key, "somebody else".into(), "a tie to themselves".into());
            let twice = self.ties.iter().filter(|other| other.to == bond.to).count() > 1;
            that(!twice, key, "one tie to each".into(), format!("several to {}", bond.to));
        }
        that(self.ties.len() <= 16, "ties", "at most 16".into(), self.ties.len().to_string());
        faults
    }
}

/// Checks a cast: each by itself, and their ties to each other.
pub(crate) fn check(cast: &[Character], expected: &mut Expected<'_>) {
    for (i, character) in cast.iter().enumerate() {
        let name = &character.name;
        let key = |key: &str| format!("cast[{i}].{key}");
        for (at, wanted, found) in character.faults() {
            expected.that(false, key(&at), wanted, format!("{found} ({name})"));
        }
        let is_taken = cast[..i].iter().any(|other| other.name == *name);
        expected.that(!is_taken, key("name"), "one that nobody else has", format!("{name:?}"));
        for bond in &character.ties {
            let Some(other) = cast.iter().find(|other| other.name == bond.to) else {
                let names: Vec<&str> = cast.iter().map(|other| other.name.as_str()).collect();
                let found = format!("{:?} ({name})", bond.to);
                expected.that(false, key("ties"), format!("one of the cast: {}", names.join(", ")), found);
                continue;
            };
            let back = other.ties.iter().find(|back| back.to == *name);
            let wanted = relation(&bond.relation).map_or("", |(_, inverse, _)| *inverse);
            let Some(back) = back.filter(|_| !wanted.is_empty()) else { continue };
            // One may be somebody's beloved, whatever they are to that one.
            let agrees = fits(&back.relation, wanted) || back.relation == "beloved";
            let (other, relation) = (&bond.to, &bond.relation);
            let found =
                format!("{other} is the {relation} of {name}, and {name} the {} of {other}", back.relation);
            expected.that(agrees, key("ties"), format!("{name} to be the {wanted} of {other}"), found);
        }
    }
}

/// The columns of somebody, as they are spawned.
pub(crate) type Person = (
    (Position, Velocity, Needs, Traits, Mood, Home, Occupation),
    (Purse, Pack, Goal, Health, Faction, Memory, Ties),
);

/// Which party a trade sides with.
pub(crate) fn party_of(trade: Trade) -> Party {
    match trade {
        Trade::Smith | Trade::Weaver | Trade::Carpenter | Trade::Merchant | Trade::Innkeeper => Party::Guilds,
        Trade::Priest | Trade::Healer => Party::Temple,
        Trade::Farmer | Trade::Baker => Party::Fields,
        Trade::Guard => Party::Watch,
        _ => Party::None,
    }
}

/// Gives somebody who is there a name, a character, and what they know of themselves and others.
pub(crate) fn introduce(
    world: &mut InputWorld<'_>,
    uid: Uid,
    character: &Character,
    find: impl Fn(&str) -> Option<Uid>,
) {
    let [openness, conscientiousness, extraversion, agreeableness, neuroticism] = character.traits;
    world.insert(uid, Traits { openness, conscientiousness, extraversion, agreeableness, neuroticism });
    world.insert(uid, Name { name: character.name.clone() });
    let ties = character.ties.iter().map(|bond| format!("{}: {}", bond.to, bond.relation)).collect();
    let Character { wish, secret, .. } = character.clone();
    world.insert(uid, Persona { wish: wish.clone(), secret: secret.clone(), ties });
    let now = world.time().tick.0 as u32;
    let own = number_of(uid);
    let mut known = world.get::<Ties>(uid).copied().unwrap_or_default();
    for bond in &character.ties {
        if let Some(other) = find(&bond.to) {
            let tie = known.with(number_of(other));
            (tie.affinity, tie.familiarity) = (bond.affinity(), 0.8);
        }
    }
    world.insert(uid, known);
    // What nobody may know, they know themselves.
    let own_secret =
        Episode { tick: now, subject: own, weight: 0.9, kind: EpisodeKind::Rumour, valence: -50, place: 0 };
    let mut memory = world.get::<Memory>(uid).copied().unwrap_or_default();
    memory::remember(&mut memory, own_secret, now, own);
    world.insert(uid, memory);
    let mut annals = world.resource_mut::<Annals>();
    if let Err(at) = annals.cast.binary_search(&uid.get()) {
        annals.cast.insert(at, uid.get());
    }
    let trade = Trade::from_name(&character.trade).unwrap_or(Trade::None).0;
    annals.remembered.insert(uid.get(), Remembered { name: character.name.clone(), trade, wish, secret });
}

/// So many the cast may have (L1).
pub(crate) const CAST_MAX: usize = 256;

/// Brings a named character into the town.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct AddCharacter(Character);

impl Input for AddCharacter {
    const KIND: &'static str = "add_character";
    const DOC: &'static str = "Brings a named character into the town: {\"name\", \"trade\", \"home\": [x, y] as parts of the town's side, \"traits\": [openness, conscientiousness, extraversion, agreeableness, neuroticism], \"wish\", \"secret\", \"ties\": [{\"to\", \"as\", \"affinity\"}]}.";

    fn check(&self, _: &Registry) -> Vec<Fault> {
        let faults = self.0.faults().into_iter();
        faults
            .map(|(key, wanted, found)| {
                Fault::new(format!("/{key}"), format!("expected {wanted}, found {found}"))
            })
            .collect()
    }

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        let character = self.0;
        let annals = world.resource::<Annals>().clone();
        if annals.cast.len() >= CAST_MAX {
            return Err(InputError::Rejected(format!(
                "the cast has {CAST_MAX} already, which is all there is room for"
            )));
        }
        let mut names = Vec::new();
        for uid in annals.cast.iter().map(|uid| Uid::new(*uid)) {
            if let Some(Name { name }) = world.get::<Name>(uid) {
                names.push((name.clone(), uid));
            }
        }
        let find = |name: &str| names.iter().find(|(known, _)| known == name).map(|(_, uid)| *uid);
        if find(&character.name).is_some() {
            return Err(InputError::Rejected(format!("somebody is called {:?} already", character.name)));
        }
        if let Some(bond) = character.ties.iter().find(|bond| find(&bond.to).is_none()) {
            return Err(InputError::Rejected(format!("ties: nobody of the cast is called {:?}", bond.to)));
        }
        let map = *world.resource::<TownMap>();
        let [x, y] = character.home.map(|part| part * map.side);
        let trade = Trade::from_name(&character.trade).unwrap_or(Trade::None);
        let uid = world.spawn(newcomer(&map, Home { x, y }, trade));
        introduce(world, uid, &character, find);
        Ok(Outcome { created: vec![uid] })
    }
}

/// Somebody who comes with an empty purse, so that no coins come with them, and some meals.
fn newcomer(map: &TownMap, home: Home, trade: Trade) -> Person {
    let (x, y) = map.market_near(home.x, home.y);
    let goal = Goal { x: home.x, y: home.y, ..Goal::default() };
    let faction = Faction { party: party_of(trade), zeal: 128 };
    (
        (
            Position { x: home.x, y: home.y },
            Velocity::default(),
            Needs { hunger: 0.3, ..Needs::default() },
            Traits::default(),
            Mood::default(),
            home,
            Occupation { x, y, trade, starts: 32, lasts: 32, skill: 128 },
        ),
        (
            Purse::default(),
            Pack { food: 4, wares: 0 },
            goal,
            Health::default(),
            faction,
            Memory::default(),
            Ties::default(),
        ),
    )
}

/// Tells somebody a rumour, which may go around from there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlantRumour {
    /// Who is told: a name of the cast, or a Uid.
    with: String,
    /// Whom it is about: a name of the cast, or a Uid.
    about: String,
    /// How heavy it is, from 0 to 1.
    #[serde(default = "full")]
    weight: f32,
}

fn full() -> f32 {
    1.0
}

impl Input for PlantRumour {
    const KIND: &'static str = "plant_rumour";
    const DOC: &'static str = "Tells somebody a rumour, which may go around from there: {\"with\", \"about\"} are names of the cast or Uids, {\"weight\"} is from 0 to 1.";

    fn check(&self, _: &Registry) -> Vec<Fault> {
        let right = (0.0..=1.0).contains(&self.weight);
        let fault = || Fault::new("/weight", format!("expected 0 to 1, found {}", self.weight));
        (!right).then(fault).into_iter().collect()
    }

    fn apply(self, world: &mut InputWorld<'_>) -> Result<Outcome, InputError> {
        let find = |asked: &str| -> Result<Uid, InputError> {
            let uid = asked.parse::<u64>().ok().map(Uid::new).or_else(|| {
                let cast = world.resource::<Annals>().cast.iter().map(|uid| Uid::new(*uid));
                cast.into_iter().find(|uid| world.get::<Name>(*uid).is_some_and(|name| name.name == asked))
            });
            let is_there = |uid: &Uid| world.get::<Goal>(*uid).is_some();
            uid.filter(is_there).ok_or_else(|| InputError::Rejected(format!("nobody is called {asked:?}")))
        };
        let (with, about) = (find(&self.with)?, find(&self.about)?);
        let now = world.time().tick.0 as u32;
        let Some(mut memory) = world.get::<Memory>(with).copied() else {
            return Err(InputError::Rejected(format!("{:?} remembers nothing", self.with)));
        };
        let subject = number_of(about);
        let rumour = Episode {
            tick: now,
            subject,
            weight: self.weight,
            kind: EpisodeKind::Rumour,
            valence: -50,
            place: 0,
        };
        // About oneself, the ear of the one who is told comes first.
        memory::remember(&mut memory, rumour, now, subject);
        world.insert(with, memory);
        Ok(Outcome::default())
    }
}
