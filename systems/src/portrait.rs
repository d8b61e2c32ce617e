//! Somebody: who they are, what they feel, want and remember, whom they like, and why they do what they do.

use crate::{
    chronicle::{ChronicleError, cast_of, missing},
    memory::retrieval,
    mind::{Axes, Baked, Inner, label},
    names::name_of,
    needs::is_there,
};
use everworld_components::{
    Action, Condition, Day, Episode, EpisodeKind, Faction, Goal, Health, Home, Market, Memory, Mind, Mood,
    Name, Needs, Occupation, Pack, Persona, Position, Purse, Ties, Traits,
};
use everworld_engine::{Image, Uid};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Somebody as JSON, by name or Uid.
///
/// # Errors
/// Where nobody is called so, or there is nobody of that Uid.
pub fn portrait(image: &Image, asked: &str) -> Result<Value, ChronicleError> {
    let uid = match asked.parse::<u64>() {
        Ok(uid) => Uid::new(uid),
        Err(_) => cast_of(image, asked)?,
    };
    of(image, uid).ok_or_else(|| missing(image, uid))
}

fn of(image: &Image, uid: Uid) -> Option<Value> {
    let (table, row) = image.find(uid)?;
    let (home, name) = (table.row_of::<Home>(row), table.slow_row_of::<Name>(row));
    let persona = table.slow_row_of::<Persona>(row);
    let goal: Goal = table.row_of(row)?;
    let position: Position = table.row_of(row)?;
    let needs: Needs = table.row_of(row)?;
    let traits: Traits = table.row_of(row).unwrap_or_default();
    let work: Occupation = table.row_of(row).unwrap_or_default();
    let purse: Purse = table.row_of(row).unwrap_or_default();
    let mut found = json!({
        "uid": uid.get().to_string(),
        "tick": image.tick.0,
        "name": name_of(uid, home.as_ref(), name.as_ref()),
        "trade": work.trade.name(),
        "wish": persona.as_ref().map(|persona| persona.wish.clone()),
        "secret": persona.as_ref().map(|persona| persona.secret.clone()),
        "position": {"x": position.x, "y": position.y},
        "coins": purse.coins,
        "traits": {
            "openness": traits.openness, "conscientiousness": traits.conscientiousness,
            "extraversion": traits.extraversion, "agreeableness": traits.agreeableness,
            "neuroticism": traits.neuroticism,
        },
        "needs": {
            "hunger": needs.hunger, "fatigue": needs.fatigue, "loneliness": needs.loneliness, "purpose": needs.purpose,
        },
        "doing": {
            "action": label(goal.action),
            "since": goal.since,
            "is_there": is_there(&goal, &position),
            "with": (goal.target != 0).then(|| named(image, goal.target)),
            "score": f64::from(goal.score) / 1e3,
        },
    });
    let Some((mood, pack, health)) = table
        .row_of::<Mood>(row)
        .zip(table.row_of::<Pack>(row))
        .zip(table.row_of::<Health>(row))
        .map(|((a, b), c)| (a, b, c))
    else {
        return Some(found);
    };
    found["mood"] = json!({"valence": mood.valence, "arousal": mood.arousal});
    found["pack"] = json!({"food": pack.food, "wares": pack.wares});
    found["health"] = json!({"condition": health.condition.name(), "hours": health.hours});
    if let Some(faction) = table.row_of::<Faction>(row) {
        found["faction"] = json!({"party": faction.party.name(), "zeal": faction.zeal});
    }
    if let (Some(mind), Some(market), Some(day)) =
        (image.value::<Mind>(), image.value::<Market>(), image.value::<Day>())
    {
        let inner = Inner {
            needs: &needs,
            traits: &traits,
            mood: &mood,
            work: &work,
            purse: &purse,
            pack: &pack,
            health: &health,
            near: goal.near,
        };
        let (axes, baked) = (Axes::of(&day, &market, &inner), Baked::of(&mind));
        let scores = baked.scores(&axes, goal.action).into_iter().filter(|(_, score)| *score >= 0.001);
        let score = |(action, score): (Action, f32)| {
            let reasons = baked.reasons(&axes, action).into_iter();
            let reasons: Vec<Value> =
                reasons.map(|(axis, is, counts)| json!({"axis": axis, "is": is, "counts": counts})).collect();
            json!({"action": label(action), "score": score, "considerations": reasons})
        };
        found["scores"] = scores.map(score).collect();
    }
    if let Some(memory) = table.row_of::<Memory>(row) {
        let now = image.tick.0 as u32;
        let mut episodes: Vec<Episode> =
            memory.episodes.into_iter().filter(|episode| episode.kind != EpisodeKind::None).collect();
        episodes.sort_by(|a, b| retrieval(b, now, 0).total_cmp(&retrieval(a, now, 0)));
        let told = |episode: &Episode| {
            json!({
                "tick": episode.tick, "kind": episode.kind.name(), "subject": named(image, episode.subject),
                "weight": episode.weight, "valence": f64::from(episode.valence) / 100.0, "quarter": episode.place,
            })
        };
        found["remembers"] = episodes.iter().map(told).collect();
    }
    if let Some(ties) = table.row_of::<Ties>(row) {
        let mut known: Vec<_> = ties.known.into_iter().filter(|tie| tie.who != 0).collect();
        known.sort_by(|a, b| b.affinity.total_cmp(&a.affinity));
        let told = |tie: &everworld_components::Tie| json!({"who": named(image, tie.who), "affinity": tie.affinity, "familiarity": tie.familiarity});
        found["ties"] = known.iter().map(told).collect();
    }
    found["ill"] = (health.condition == Condition::Ill).into();
    Some(found)
}

fn named(image: &Image, number: u32) -> Value {
    let uid = Uid::new(u64::from(number));
    let found = image.find(uid).map(|(table, row)| {
        name_of(uid, table.row_of::<Home>(row).as_ref(), table.slow_row_of::<Name>(row).as_ref())
    });
    json!({"uid": number.to_string(), "name": found})
}

/// A portrait for people to read.
pub fn describe(portrait: &Value) -> String {
    let mut text = String::new();
    let word = |value: &Value| value.as_str().unwrap_or("nothing known").to_owned();
    let name = |value: &Value| {
        value["name"].as_str().map_or_else(|| "someone who is gone".to_owned(), str::to_owned)
    };
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    _ = writeln!(
        text,
        "{}, {} (Uid {}), at tick {}",
        word(&portrait["name"]),
        word(&portrait["trade"]),
        word(&portrait["uid"]),
        portrait["tick"]
    );
    for (what, key) in [("wishes", "wish"), ("hides", "secret")] {
        if let Some(said) = portrait[key].as_str().filter(|said| !said.is_empty()) {
            _ = writeln!(text, "  {what}: {said}");
        }
    }
    for (what, key) in [("is", "traits"), ("lacks", "needs"), ("feels", "mood")] {
        let Some(fields) = portrait[key].as_object() else { continue };
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name} {:.2}", number(value))).collect();
        _ = writeln!(text, "  {what}: {}", fields.join(", "));
    }
    if portrait["pack"].is_object() {
        let pack = &portrait["pack"];
        _ = writeln!(
            text,
            "  has: {} coins, {} meals, {} wares; is {}",
            portrait["coins"],
            pack["food"],
            pack["wares"],
            word(&portrait["health"]["condition"])
        );
    }
    let doing = &portrait["doing"];
    let way = if doing["is_there"] == true { "" } else { ", on the way there" };
    let with =
        if doing["with"].is_object() { format!(" with {}", name(&doing["with"])) } else { String::new() };
    _ = writeln!(text, "  does: {}{with}{way}, since tick {}", word(&doing["action"]), doing["since"]);
    for score in portrait["scores"].as_array().into_iter().flatten() {
        let reasons = score["considerations"].as_array().into_iter().flatten();
        let reasons: Vec<String> = reasons
            .map(|reason| {
                format!(
                    "{} {:.2} counts {:.2}",
                    word(&reason["axis"]),
                    number(&reason["is"]),
                    number(&reason["counts"])
                )
            })
            .collect();
        _ = writeln!(
            text,
            "    {:<8} {:.3}  {}",
            word(&score["action"]),
            number(&score["score"]),
            reasons.join(", ")
        );
    }
    for tie in portrait["ties"].as_array().into_iter().flatten() {
        _ = writeln!(
            text,
            "  knows: {}, affinity {:+.2}, familiarity {:.2}",
            name(&tie["who"]),
            number(&tie["affinity"]),
            number(&tie["familiarity"])
        );
    }
    for episode in portrait["remembers"].as_array().into_iter().flatten() {
        _ = writeln!(
            text,
            "  remembers: {} {} at tick {}, weight {:.2}",
            word(&episode["kind"]),
            name(&episode["subject"]),
            episode["tick"],
            number(&episode["weight"])
        );
    }
    text
}
