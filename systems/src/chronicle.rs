//! The chronicle: what the town remembers of its cast, told as a story.
//!
//! Days are chapters. Of each day the deeds that matter most are told, around those whom most happened to, in the order of
//! the hours; how something is said is drawn by the world's seed, and never twice in a row the same way. Nothing here decides
//! state: the same annals give the same text.

use crate::{annals::day_of, day::START_MINUTE, names::name_of};
use everworld_components::{
    Annals, DAY_MINUTES, Deed, EpisodeKind, Home, Name, Occupation, Persona, Remembered, Trade,
};
use everworld_engine::{Image, Tick, Uid, random::mix};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// From that tick on.
    pub from: Option<Tick>,
    /// Up to that tick.
    pub to: Option<Tick>,
    /// Only what touches that one: a name, its beginning, or a Uid.
    pub about: Option<String>,
}

/// Why there is no chronicle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChronicleError {
    /// Another kind of world.
    #[error("this world keeps no annals: only a town does")]
    NoAnnals,
    /// Nobody has that Uid.
    #[error("there is nobody with the Uid {0}")]
    NoSuch(Uid),
    /// Somebody of the cast who is no more.
    #[error("{name} died in tick {tick}: the chronicle tells of them")]
    Died {
        /// Who was asked for.
        name: String,
        /// When.
        tick: Tick,
    },
    /// Nobody of the cast.
    #[error("nobody of the cast is called \"{asked}\": {}", .known.join(", "))]
    Nobody {
        /// Who was asked for.
        asked: String,
        /// Who there is.
        known: Vec<String>,
    },
}

/// So many deeds of a day are told, and of one person in it.
const TOLD_MAX: usize = 14;
const PARAGRAPH_MAX: usize = 5;
/// And so many strangers whom the cast met.
const STRANGERS_MAX: usize = 4;

/// Who somebody is, as far as a story needs it.
struct Who {
    name: String,
    first: String,
    trade: Trade,
    persona: Option<Persona>,
}

struct People(BTreeMap<u64, Who>);

impl People {
    /// Those who are told of: the cast, and whoever had to do with them.
    fn of(image: &Image, annals: &Annals) -> Self {
        let mut wanted: BTreeSet<u64> = annals.cast.iter().copied().collect();
        wanted.extend(annals.deeds.iter().map(|deed| deed.whom));
        // Of those who are no more, what the annals remember.
        let of_memory = |(uid, who): (&u64, &Remembered)| {
            let Remembered { name, trade, wish, secret } = who.clone();
            let persona = Some(Persona { wish, secret, ties: Vec::new() });
            (*uid, Who { first: first_name(&name), name, trade: Trade(trade), persona })
        };
        let mut people: BTreeMap<u64, Who> = annals.remembered.iter().map(of_memory).collect();
        for table in &image.tables {
            for (row, uid) in table.uids().enumerate().filter(|(_, uid)| wanted.contains(&uid.get())) {
                let (home, name) = (table.row_of::<Home>(row), table.slow_row_of::<Name>(row));
                let name = name_of(uid, home.as_ref(), name.as_ref());
                let trade = table.row_of::<Occupation>(row).map_or(Trade::None, |work| work.trade);
                let persona = table.slow_row_of::<Persona>(row);
                people.insert(uid.get(), Who { first: first_name(&name), name, trade, persona });
            }
        }
        Self(people)
    }

    fn name(&self, uid: u64) -> String {
        self.0.get(&uid).map_or_else(|| "someone who is gone".into(), |who| who.name.clone())
    }
}

/// What friends call somebody: without rank and family.
fn first_name(name: &str) -> String {
    let words: Vec<&str> = name.split(' ').collect();
    match words[..] {
        ["Father" | "Mother" | "Sister" | "Brother", first, ..] => format!("{} {first}", words[0]),
        ["Captain" | "Master" | "Doctor", first, ..] | [first, ..] => first.to_owned(),
        [] => name.to_owned(),
    }
}

/// The chronicle as Markdown.
///
/// # Errors
/// Where the world keeps no annals, or nobody is called as asked.
pub fn chronicle(image: &Image, asked: &Asked) -> Result<String, ChronicleError> {
    let annals: Annals = image.value().ok_or(ChronicleError::NoAnnals)?;
    let people = People::of(image, &annals);
    let about = asked.about.as_ref().map(|asked| find(asked, &annals, &people)).transpose()?;
    let within = |deed: &&Deed| {
        asked.from.is_none_or(|from| deed.tick >= from.0)
            && asked.to.is_none_or(|to| deed.tick <= to.0)
            && about.is_none_or(|uid| deed.who == uid || deed.whom == uid)
    };
    let mut days: BTreeMap<u64, Vec<Deed>> = BTreeMap::new();
    for deed in annals.deeds.iter().filter(within) {
        days.entry(day_of(deed)).or_default().push(*deed);
    }
    let mut teller =
        Teller { people: &people, annals: &annals, seed: annals.seed, said: BTreeMap::new(), last: 0 };
    let mut text = String::new();
    _ = writeln!(text, "# {}\n", teller.title(about));
    teller.introduce(&mut text, about);
    if days.is_empty() {
        text.push_str("Of this time nothing is told.\n");
    }
    for (day, deeds) in days {
        teller.chapter(&mut text, day, deeds);
    }
    Ok(text)
}

fn find(asked: &str, annals: &Annals, people: &People) -> Result<u64, ChronicleError> {
    let names: Vec<(u64, String)> = annals.cast.iter().map(|uid| (*uid, people.name(*uid))).collect();
    let is_asked = |(uid, name): &&(u64, String)| name == asked || uid.to_string() == asked;
    let begins = |(_, name): &&(u64, String)| {
        name.split(' ').any(|word| word.to_lowercase().starts_with(&asked.to_lowercase()))
    };
    let found =
        names.iter().find(is_asked).or_else(|| names.iter().find(begins).filter(|_| !asked.is_empty()));
    found.map(|(uid, _)| *uid).ok_or_else(|| ChronicleError::Nobody {
        asked: asked.to_owned(),
        known: names.iter().map(|(_, name)| name.clone()).collect(),
    })
}

struct Teller<'a> {
    people: &'a People,
    annals: &'a Annals,
    seed: u64,
    /// How each kind of thing was said the last time.
    said: BTreeMap<String, usize>,
    /// What was drawn last.
    last: u64,
}

impl Teller<'_> {
    fn title(&self, about: Option<u64>) -> String {
        match about {
            Some(uid) => format!("The chronicle of {}", self.people.name(uid)),
            None => "The chronicle of the town".into(),
        }
    }

    /// One way to say something: another one than the last time.
    fn pick<'t>(&mut self, what: &str, ways: &[&'t str]) -> &'t str {
        self.last = mix(self.last ^ self.seed);
        let mut way = (self.last % ways.len() as u64) as usize;
        if self.said.get(what) == Some(&way) {
            way = (way + 1) % ways.len();
        }
        self.said.insert(what.to_owned(), way);
        ways[way]
    }

    fn introduce(&mut self, text: &mut String, about: Option<u64>) {
        let mut sentences = Vec::new();
        for uid in self.annals.cast.iter().filter(|uid| about.is_none_or(|about| about == **uid)) {
            let Some(who) = self.people.0.get(uid) else { continue };
            let Some(persona) = who.persona.clone().filter(|persona| !persona.wish.is_empty()) else {
                continue;
            };
            let trade = match who.trade.name() {
                Some("none") | None => "who has no trade".to_owned(),
                Some(trade) => format!("the {trade}"),
            };
            let way = self.pick(
                "introduce",
                &[
                    "{name}, {trade}, wished {wish}.",
                    "{name}, {trade}, wanted nothing so much as {wish}.",
                    "What {name}, {trade}, hoped for was {wish}.",
                ],
            );
            let wish = persona.wish.trim_end_matches('.').to_owned();
            let parts = [("{name}", who.name.as_str()), ("{trade}", &trade), ("{wish}", &wish)];
            sentences.push(fill(way, &parts));
        }
        if !sentences.is_empty() {
            _ = writeln!(text, "{}\n", sentences.join(" "));
        }
    }

    fn chapter(&mut self, text: &mut String, day: u64, mut deeds: Vec<Deed>) {
        self.last = mix(self.seed ^ mix(day));
        _ = writeln!(text, "## Day {}\n", day + 1);
        // Of what two did both have an entry: the first one tells it.
        let mut told: BTreeSet<(u8, u64, u64)> = BTreeSet::new();
        let is_mutual =
            |deed: &Deed| (deed.kind == 0 || (2..=4).contains(&deed.kind)) && self.is_cast(deed.whom);
        deeds.retain(|deed| {
            let pair = (deed.kind, deed.who.min(deed.whom), deed.who.max(deed.whom));
            !is_mutual(deed) || told.insert(pair)
        });
        // The same thing about the same one is told once a day.
        let mut once: BTreeSet<(u8, u64, u64, u8)> = BTreeSet::new();
        deeds.retain(|deed| once.insert((deed.kind, deed.who, deed.whom, deed.of)));
        // Of strangers who come and go a few are enough.
        let mut strangers = 0;
        deeds.retain(|deed| {
            let is_stranger = deed.kind == 0 && !self.is_cast(deed.whom);
            strangers += usize::from(is_stranger);
            !is_stranger || strangers <= STRANGERS_MAX
        });
        let mut order: Vec<usize> = (0..deeds.len()).collect();
        order.sort_by_key(|i| (std::cmp::Reverse(deeds[*i].salience), *i));
        order.truncate(TOLD_MAX);
        order.sort_unstable();
        let deeds: Vec<Deed> = order.into_iter().map(|i| deeds[i]).collect();

        // Around whom most happened to; each deed is told once.
        let mut left = deeds;
        let mut paragraphs: Vec<(u64, Vec<Deed>)> = Vec::new();
        while !left.is_empty() {
            let mut weights: BTreeMap<u64, u32> = BTreeMap::new();
            for deed in &left {
                *weights.entry(deed.who).or_default() += u32::from(deed.salience);
                if self.is_cast(deed.whom) {
                    *weights.entry(deed.whom).or_default() += u32::from(deed.salience);
                }
            }
            let most = weights.iter().max_by_key(|(uid, weight)| (**weight, std::cmp::Reverse(**uid)));
            let Some(hero) = most.map(|(uid, _)| *uid) else { break };
            let (own, others): (Vec<Deed>, Vec<Deed>) =
                left.into_iter().partition(|deed| deed.who == hero || deed.whom == hero);
            let (own, rest) = own.split_at(own.len().min(PARAGRAPH_MAX));
            left = others.into_iter().chain(rest.iter().copied()).collect();
            left.sort_by_key(|deed| deed.tick);
            paragraphs.push((hero, own.to_vec()));
        }
        // As the day goes on.
        paragraphs.sort_by_key(|(_, own)| own.first().map(|deed| deed.tick));
        for (i, (hero, own)) in paragraphs.iter().enumerate() {
            let paragraph = self.paragraph(*hero, own, i == 0);
            _ = writeln!(text, "{paragraph}\n");
        }
    }

    fn is_cast(&self, uid: u64) -> bool {
        self.annals.cast.binary_search(&uid).is_ok()
    }

    fn paragraph(&mut self, hero: u64, deeds: &[Deed], is_first: bool) -> String {
        let mut sentences: Vec<String> = Vec::new();
        let mut hour = None;
        let mut named = BTreeSet::new();
        for deed in deeds {
            let now = hour_of(deed.tick);
            let when = if hour == Some(now) {
                self.pick(
                    "then",
                    &["Soon after, ", "Then ", "Before long ", "Not an hour later ", "A little later "],
                )
                .to_owned()
            } else {
                self.when(now, is_first && sentences.is_empty())
            };
            hour = Some(now);
            sentences.push(self.sentence(deed, hero, &when, &mut named));
        }
        sentences.join(" ")
    }

    fn when(&mut self, hour: Hour, begins: bool) -> String {
        let ways: &[&str] = match (hour, begins) {
            (Hour::Night, true) => {
                &["It was still dark when ", "In the small hours ", "Before the town was awake, "]
            }
            (Hour::Night, false) => &["In the night ", "Long after dark ", "By lamplight "],
            (Hour::Morning, true) => {
                &["The day was young when ", "With the first light ", "It began in the morning, when "]
            }
            (Hour::Morning, false) => {
                &["In the morning ", "Before noon ", "While the dew was on the roofs, "]
            }
            (Hour::Noon, _) => &["At noon ", "Around midday ", "When the sun stood highest, "],
            (Hour::Afternoon, _) => {
                &["In the afternoon ", "As the shadows grew longer, ", "When the day had turned, "]
            }
            (Hour::Evening, _) => &["In the evening ", "At dusk ", "When the taverns filled, "],
        };
        self.pick(&format!("{hour:?}"), ways).to_owned()
    }

    /// A name: in full when it first comes.
    fn called(&self, uid: u64, named: &mut BTreeSet<u64>) -> String {
        let Some(who) = self.people.0.get(&uid) else { return self.people.name(uid) };
        if !named.insert(uid) {
            return who.first.clone();
        }
        match who.trade.name() {
            // Who is not of the cast is introduced by what they do.
            Some(trade) if !self.is_cast(uid) && who.trade != Trade::None => {
                format!("{} the {trade}", who.name)
            }
            _ => who.name.clone(),
        }
    }

    fn sentence(&mut self, deed: &Deed, hero: u64, when: &str, named: &mut BTreeSet<u64>) -> String {
        let kind = Deed::KINDS.get(usize::from(deed.kind)).copied().unwrap_or("met");
        // Around the hero of the paragraph, where both did the same.
        let (a, b) = match kind {
            "met" | "befriended" | "quarrelled" | "reconciled" if deed.whom == hero => (deed.whom, deed.who),
            _ => (deed.who, deed.whom),
        };
        let a_name = self.called(a, named);
        let b_name = if b == 0 { String::new() } else { self.called(b, named) };
        let secret = self.people.0.get(&b).and_then(|who| who.persona.clone()).map(|persona| persona.secret);
        let way = match kind {
            "met" if deed.valence < 0 => self.pick(
                "met badly",
                &[
                    "{a} met {b} for the first time, and they did not take to each other.",
                    "{a} and {b} exchanged their first words, most of them cold.",
                ],
            ),
            "met" => self.pick(
                "met",
                &[
                    "{a} met {b} for the first time, and they talked for a while.",
                    "{a} fell into talk with {b}, who had been a stranger until then.",
                    "{a} and {b} were strangers no longer.",
                    "{a} made the acquaintance of {b}.",
                ],
            ),
            "befriended" => self.pick(
                "befriended",
                &[
                    "{a} and {b} found that they had become friends.",
                    "{a} laughed with {b} as one laughs with a friend, and so it was.",
                    "{a} counted {b} among the friends from that hour on.",
                    "a friendship was made: {a} and {b}.",
                ],
            ),
            "quarrelled" => self.pick(
                "quarrelled",
                &[
                    "{a} quarrelled with {b}, loud enough for the next table.",
                    "{a} and {b} had words, and neither took them back.",
                    "{a} left {b} standing after a quarrel.",
                    "something {b} said was too much for {a}, and they parted in anger.",
                ],
            ),
            "reconciled" => self.pick(
                "reconciled",
                &[
                    "{a} and {b} made it up.",
                    "{a} gave {b} a hand, and what had been between them was set aside.",
                    "{a} and {b}, who had hardly spoken, sat together as if nothing had been.",
                ],
            ),
            "told" => self.told(deed),
            "rumour" => match secret {
                Some(_) => self.pick(
                    "rumour secret",
                    &[
                        "{a} heard it whispered about {b}: {secret}.",
                        "what is said of {b} behind closed doors reached {a}: {secret}.",
                        "somebody told {a} that {secret}; it was {b} they meant.",
                    ],
                ),
                None => self.pick(
                    "rumour",
                    &["a rumour about {b} reached {a}.", "{a} heard what people say of {b}."],
                ),
            },
            "hungered" => self.pick(
                "hungered",
                &[
                    "{a} went hungry.",
                    "there was nothing left to eat for {a}.",
                    "{a} looked into an empty pack, and hunger would not be talked away.",
                ],
            ),
            "fell_ill" => self.pick(
                "fell ill",
                &[
                    "{a} fell ill.",
                    "{a} woke with a fever.",
                    "{a} felt the cold in every bone, and took to bed.",
                ],
            ),
            "recovered" => self.pick(
                "recovered",
                &["{a} was well again.", "the fever let go of {a}.", "{a} stood up, thin but cured."],
            ),
            "hired" => self.pick(
                "hired",
                &[
                    "{a} took up a new trade, and was a {trade} now.",
                    "{a} put the old tools away: a {trade} was wanted, and a {trade} it would be.",
                ],
            ),
            "born" => self.pick("born", &["{a} had a child with {b}.", "a child was born to {a} and {b}."]),
            _ => self.pick("died", &["{a} died.", "{a} closed those eyes for the last time."]),
        };
        let trade = Trade(deed.of).name().unwrap_or("hand");
        let secret = secret.unwrap_or_default();
        let secret = secret.trim_end_matches('.');
        let told = fill(way, &[("{a}", &a_name), ("{b}", &b_name), ("{secret}", secret), ("{trade}", trade)]);
        capital(&format!("{when}{told}"))
    }

    fn told(&mut self, deed: &Deed) -> &'static str {
        match EpisodeKind(deed.of) {
            EpisodeKind::Quarrelled => self.pick(
                "told quarrel",
                &[
                    "{a} heard of a quarrel that {b} had been in.",
                    "{a} was told that there was bad blood between {b} and somebody.",
                ],
            ),
            EpisodeKind::Befriended => self.pick(
                "told friend",
                &[
                    "{a} heard that {b} had found a friend.",
                    "{a} was told in whose company {b} was seen, and smiled.",
                ],
            ),
            EpisodeKind::Reconciled => self.pick(
                "told peace",
                &["{a} heard that {b} had made peace.", "word of a peace that {b} made reached {a}."],
            ),
            EpisodeKind::Hungered => self.pick(
                "told hunger",
                &["{a} heard that {b} had gone hungry.", "{a} was told how empty the table of {b} had been."],
            ),
            EpisodeKind::FellIll => self
                .pick("told ill", &["{a} heard that {b} lay ill.", "news came to {a} that {b} had a fever."]),
            EpisodeKind::Recovered => self.pick(
                "told well",
                &["{a} heard that {b} was on the mend.", "{a} was glad to hear that {b} was up again."],
            ),
            EpisodeKind::Hired => self.pick(
                "told hired",
                &[
                    "{a} heard that {b} had taken up a new trade.",
                    "{a} was told what {b} did for a living now.",
                ],
            ),
            _ => self.pick(
                "told",
                &[
                    "{a} heard who had been seen with {b}.",
                    "{a} was told of somebody who had met {b}.",
                    "the talk came to {b}, and {a} listened.",
                ],
            ),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hour {
    Night,
    Morning,
    Noon,
    Afternoon,
    Evening,
}

fn hour_of(tick: u64) -> Hour {
    match (tick + START_MINUTE) % DAY_MINUTES / 60 {
        0..=4 | 22..=23 => Hour::Night,
        5..=10 => Hour::Morning,
        11..=13 => Hour::Noon,
        14..=17 => Hour::Afternoon,
        _ => Hour::Evening,
    }
}

fn fill(way: &str, parts: &[(&str, &str)]) -> String {
    parts.iter().fold(way.to_owned(), |text, (part, with)| text.replace(part, with))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

/// The cast, in the order of Uids, with their names.
///
/// # Errors
/// Where the world keeps no annals.
pub fn characters(image: &Image) -> Result<Vec<(Uid, String)>, ChronicleError> {
    let annals: Annals = image.value().ok_or(ChronicleError::NoAnnals)?;
    let people = People::of(image, &annals);
    Ok(annals.cast.iter().map(|uid| (Uid::new(*uid), people.name(*uid))).collect())
}

/// Why somebody is not there.
pub(crate) fn missing(image: &Image, uid: Uid) -> ChronicleError {
    let annals: Annals = image.value().unwrap_or_default();
    let is_death =
        |deed: &&Deed| deed.who == uid.get() && Deed::KINDS.get(usize::from(deed.kind)) == Some(&"died");
    let died = annals.deeds.iter().find(is_death).zip(annals.remembered.get(&uid.get()));
    died.map_or(ChronicleError::NoSuch(uid), |(deed, who)| ChronicleError::Died {
        name: who.name.clone(),
        tick: Tick(deed.tick),
    })
}

/// The Uid of somebody of the cast, by name or number.
///
/// # Errors
/// Where nobody is called so.
pub(crate) fn cast_of(image: &Image, asked: &str) -> Result<Uid, ChronicleError> {
    let annals: Annals = image.value().ok_or(ChronicleError::NoAnnals)?;
    let people = People::of(image, &annals);
    find(asked, &annals, &people).map(Uid::new)
}
