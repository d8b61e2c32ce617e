//! Which parameters a system may have (invariants W2, W3).
//!
//! What keeps a value outside the state, reads change ticks or changes structure at will would give another
//! result after a restore. bevy's parameters do not say so in their access, hence by the names of their types.

/// Parameters that a system may have, by the start of their type's full name.
const ALLOWED: &[&str] = &[
    "bevy_ecs::system::query::Query<",
    "bevy_ecs::system::query::Single<",
    "bevy_ecs::system::query::Populated<",
    "bevy_ecs::change_detection::params::Res<",
    "bevy_ecs::change_detection::params::ResMut<",
    "core::option::Option<bevy_ecs::change_detection::params::Res",
    "&mut bevy_ecs::world::World",
    "everworld_engine::random::Random",
    "everworld_engine::turn::Turn",
    "everworld_engine::rows::Rows<",
    "everworld_engine::grid::InCells<",
    "everworld_engine::effects::Effects",
    "everworld_engine::event::Emit<",
    "everworld_engine::timers::Timers",
    "everworld_engine::timers::Due",
];

/// Allowed when all in it are.
const PARAM_SET: &str = "bevy_ecs::system::system_param::ParamSet<";

/// What may stand nowhere in a parameter, and why.
const REFUSED: &[(&str, &str)] = &[
    (
        "bevy_ecs::system::system_param::Local<",
        "keeps a value outside the state; use a registered resource or column",
    ),
    ("bevy_ecs::query::filter::Changed<", "sees every row as changed after a restore"),
    ("bevy_ecs::query::filter::Added<", "sees every row as added after a restore"),
    ("bevy_ecs::query::fetch::SpawnDetails", "knows when an entity was spawned, which a restore renews"),
    ("bevy_ecs::query::filter::Spawned", "sees every entity as spawned after a restore"),
    ("bevy_ecs::change_detection::params::Ref<", "reads change ticks, which a restore renews; use &T"),
    ("bevy_ecs::system::system_param::SystemChangeTick", "reads change ticks, which are not state"),
    ("bevy_ecs::system::commands::", "changes structure in the order of threads; use Effects"),
    ("bevy_ecs::system::system_param::Deferred<", "changes structure in the order of threads; use Effects"),
    ("bevy_ecs::world::deferred_world::DeferredWorld", "changes structure at will; use Effects"),
    ("bevy_ecs::lifecycle::RemovedComponents", "depends on what was removed before a restore"),
    ("bevy_ecs::observer::", "observers act where no plan says so"),
    ("bevy_ecs::change_detection::params::NonSend", "is bound to one thread"),
];

/// Why the parameters of a system are refused, if they are. `params` is the type name of their tuple.
pub(crate) fn refuse(params: &str) -> Option<String> {
    let refused = REFUSED.iter().find(|(name, _)| params.contains(name));
    if let Some((name, why)) = refused {
        let short = name.trim_end_matches(['<', ':']).rsplit("::").next().unwrap_or(name);
        return Some(format!("{short} {why}"));
    }
    unknown(params)
        .map(|param| format!("{param} is not a parameter that the engine knows to be free of hidden state"))
}

/// The first parameter that is not allowed.
fn unknown(params: &str) -> Option<&str> {
    let is_allowed = |param: &str| {
        // Lifetimes stand among the parameters of a set.
        param.starts_with('\'') || ALLOWED.iter().any(|allowed| param.starts_with(allowed))
    };
    let look = |param| match str::strip_prefix(param, PARAM_SET).and_then(|rest| rest.strip_suffix('>')) {
        Some(inner) => unknown(inner),
        None if param.starts_with('(') => unknown(param),
        None => (!is_allowed(param)).then_some(param),
    };
    elements(params).into_iter().find_map(look)
}

/// The elements of a tuple's type name.
fn elements(tuple: &str) -> Vec<&str> {
    let inner = tuple.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')).unwrap_or(tuple);
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (i, c) in inner.char_indices() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 0 => {
                found.push(inner[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    found.push(inner[start..].trim());
    found.retain(|element| !element.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use bevy_ecs::prelude::*;
    use std::any::type_name;

    #[derive(Component)]
    struct Row;

    /// What a parameter of one's own holds does not show in its name.
    #[derive(bevy_ecs::system::SystemParam)]
    struct Own<'s> {
        _count: Local<'s, u32>,
    }

    // These names are what the check reads: a move of a type in bevy must show here.
    #[test]
    fn w2_hidden_state_is_refused_by_name() {
        fn check<P>(expected: Option<&str>) {
            let found = refuse(type_name::<P>());
            let start = found.as_deref().and_then(|text| text.split_whitespace().next());
            assert_eq!(start, expected, "{}: {found:?}", type_name::<P>());
        }
        check::<(Query<&Row>, Query<&mut Row, With<Row>>)>(None);
        check::<(ParamSet<(Query<&Row>, Query<&mut Row>)>,)>(None);
        check::<(ParamSet<(ParamSet<(Query<&Row>,)>, Query<&mut Row>)>,)>(None);
        check::<(ParamSet<(Query<&Row>, &World)>,)>(Some("&bevy_ecs::world::World"));
        check::<(Query<&Row>, ParamSet<(ParamSet<(Own,)>,)>)>(Some(
            "everworld_engine::param::tests::Own<'_>",
        ));
        check::<(Query<bevy_ecs::query::SpawnDetails>,)>(Some("SpawnDetails"));
        check::<(Local<u32>,)>(Some("Local"));
        check::<(ParamSet<(Local<u32>, Query<&Row>)>,)>(Some("Local"));
        check::<(Query<&Row, Changed<Row>>,)>(Some("Changed"));
        check::<(Query<&Row, Or<(With<Row>, Added<Row>)>>,)>(Some("Added"));
        check::<(Query<Ref<Row>>,)>(Some("Ref"));
        check::<(Commands,)>(Some("commands"));
        check::<(Query<&Row>, Deferred<bevy_ecs::world::CommandQueue>)>(Some("Deferred"));
        check::<(RemovedComponents<Row>,)>(Some("RemovedComponents"));
        check::<(NonSend<Row>,)>(Some("NonSend"));
        check::<(&World,)>(Some("&bevy_ecs::world::World"));
        check::<(&mut World,)>(None);
    }
}
