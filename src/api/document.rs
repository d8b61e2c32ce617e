//! docs/API.md, from the one list of routes.

use super::ROUTES;
use std::fmt::Write as _;

const RULES: &str = "\
# The HTTP API

Generated from `src/api/routes.rs` by `cargo test`; not edited by hand. The parameters and the shapes of bodies and answers are
in `docs/openapi.json`, which a server has at `/v1/openapi.json`. A parameter that a route does not know is refused with 400.

All of it is JSON under `/v1`, in snake_case. Uids are strings, since they pass 2^53; ticks are numbers. Durations end in
`_ms`, `_us` or `_secs`. Every read is of one tick and says which, in `tick` and in `X-World-Tick`. Every write to a world is
an input: it is checked, logged and synced before it is answered.

**Writes** answer 202 with `input_id`, `seq` and `earliest_tick` once they are durable; `?ack=applied` waits, up to 5 s, for the
tick that applied them and adds what became of them; after that `state` is `waiting`, and `GET /inputs/{id}` tells the rest. `?at_tick=` lets an input wait for a later tick. `Idempotency-Key` makes a retry the
same input, also after a crash; with another body it is refused. `X-Request-Id` goes into the log with the name of the token.
`If-Match` on a change of an entity (its `ETag`) waits for the tick in the same way and answers 412 when the entity
had changed.

A batch of inputs as NDJSON (`POST /inputs`) is looked at as a whole before the first is logged; then each is an input by itself,
and the answer has their `seqs`. Where the world takes no more, `accepted` says how many lines it has taken and `refused` why.

**Lists** are `{\"items\", \"next\", \"tick\"}`. `next` is an opaque cursor: with it, and the same question, the list goes on in
the view that it began in. A view that nobody came back to for a minute, or that others pushed out, is gone: 410. `limit` is at
most 1000.

**Conditions** (`where`): a component that an entity must have, or a field compared with a value: `needs.hunger>0.8`, with `==`
`!=` `<` `<=` `>` `>=` and `in (a, b)`, joined with `and`, `or`, `not` and parentheses. Labels are compared by name, Uids by
number; `*` is any element of an array: `mind.slots.*.subject==7`. A number is rounded as its field is, so `x==0.1` finds an f32
that was set to 0.1. Of an entity without the component no comparison holds. `near=x,y,r` and `bbox=x,y,x,y` mean the component
`position` with fields `x` and `y`.

**All rows** come with `Accept: application/x-ndjson` (one entity on each line), `text/csv` (a header of `uid` and the fields by
their paths, `needs.hunger`; what an entity lacks is empty) or `application/vnd.apache.arrow.stream` (the same columns, typed), as
fast as they are read. What ends without the last chunk is not all of it. `POST /import` takes the first two of them in again,
as new entities: Uids are the world's to give.

**Pages** have an `ETag`: with `If-None-Match` the same question of the same tick is answered 304. `Server-Timing` says how long an
answer waited for a thread (`queue`) and how long it took (`work`), in milliseconds.

**Maps** (`/map`): rows of cells from the lower left corner, or points. As `application/octet-stream`: the counts of the cells as u32,
then, with `color_by`, the means as f32, NaN where nobody is; or x, y and value of each point as f32; all little-endian.
`X-Map-Bbox` and `X-Map-Size` say where.

**Sums** (`POST /query`): `aggregate` takes `count` and `min`, `max`, `avg`, `sum` and `count` of a field, `avg(needs.hunger)`;
`group_by` a field. Sums of reals are exact to 2^-32 per summand, in any order.

**Streams** (`/changes`): first a cut, in messages of type `cut` until one says `\"complete\": true`; then messages of type
`changes` with `from` and `tick`, who came (`enter`), who is gone (`leave`) and which components changed (`changed`; null: it
has no more). `from` is the tick of the message before: nothing is left out, but ticks are joined when the reader, or the view,
is behind. A rewind begins with another cut. Server-sent events, or NDJSON by `Accept`; an id is `tick.branch`, and
`Last-Event-ID` goes on there if that view is still kept. Every 10 s without news something is sent. Who reads nothing for 30 s
is left.

**Events** (`/events`, and lines of `/v1/logs` in the same way): a page of what is kept, oldest first, or a stream of what is
new. An event has `id` (`tick.number`), `tick`, `branch` and `topic`: `tick` (ticks that are shown together are one), `input` (what
became of it), `entity` (who came and who went in a tick: how many, and the first 100 by name), `job` (work that takes long, and its
end), `snapshot`, `system` (one is left out), `state`, `alert` (somebody should look). What systems of the world emit has the
name of its kind as `topic`, `entity` (whom it is about) and its fields in `event`, in one order for each run of a tick, and ids
of three parts; beyond `tick.events_max` of a kind and tick it is only counted, and the last one that is told says how many were
`dropped`. `entity=` finds those that name an entity in a field, too. `Last-Event-ID` or `after` goes on behind an event. The last
65,536 events of systems are kept, of others a sixteenth of that, and 2048 lines; no id is used again, also after a restart of
the server; who misses some is told `lagged` with their numbers.

**Statistics** (`/statistics`): the figures by which worlds of a kind are measured (the order of a flock, how many are happy, how
many coins there are), sampled each `statistics.every_secs` from what may be seen: the newest by default, behind `after`, or as a
stream. The last 4096 samples are kept; the last one is `world_statistic` among the metrics. 404 where a kind is measured by
nothing. `everworld run --stats-every N` takes them of exact ticks.

**Errors** are `application/problem+json` (RFC 9457): `type`, `title`, `status`, `detail`, and for 422 `errors` with a JSON
pointer each. 400 malformed, 401 no or a wrong token, 403 not for this role, 404, 409 not in this state, 410 not kept any more,
412 changed since, 413, 415, 422 invalid, 429 more than `http.rate_per_sec`, 503 too busy, coming back or stopping; 429 and 503
with `Retry-After`.

**Tokens**: without any the server listens on this machine only and answers whoever names it so in `Host`. `everworld token
create --role viewer|operator|admin` prints one and keeps its SHA-256 in a file of mode 0600; `EVERWORLD_TOKENS` holds
`role=token` pairs. Then each request but those to open routes shows one: `Authorization: Bearer ew_...`; the commands take it
from `EVERWORLD_TOKEN`. Each role may what those before it may.

";

/// The document.
pub fn document() -> String {
    let mut text = String::from(RULES);
    text.push_str("## Routes\n\n| | path | role | |\n|---|---|---|---|\n");
    for route in ROUTES {
        let doc = route.doc.replace('|', "\\|");
        // Into a string it cannot fail.
        let _ = writeln!(text, "| {} | `{}` | {} | {doc} |", route.method, route.path, route.role);
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn docs_api_md_is_what_is_generated() {
        expect_test::expect_file!["../../docs/API.md"].assert_eq(&super::document());
    }

    #[test]
    fn docs_openapi_json_is_what_is_generated() {
        let document = serde_json::to_string_pretty(&crate::api::openapi()).unwrap();
        expect_test::expect_file!["../../docs/openapi.json"].assert_eq(&(document + "\n"));
    }
}
