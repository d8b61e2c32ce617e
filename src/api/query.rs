//! Questions about the entities of a tick: lists with pages, counts and sums. All rows are told by [`super::rows`].
//!
//! All of it is read from a view (T2). What is to look at more than `http.bulk_rows` rows is done by the threads for bulk
//! work, which the tick does not feel (T4); so are the rows of a stream, piece by piece, as fast as the client takes them.

use super::{
    App,
    entities::read_json,
    media,
    past::{Parameters, at, parameters},
    problem::Problem,
    rows::{self, Format},
    spec::LIMIT_MAX,
    views::{Cursor, Page, question_id},
};
use crate::host::Running;
use axum::{
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use everworld_engine::{
    Image, Registry, Tick,
    query::{Aggregation, BoundFilter, Filter, Region, Select, Sort},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, Visitor},
};
use serde_json::{Value, json};
use std::{fmt, sync::Arc, time::Duration};

const LIMIT_DEFAULT: usize = 100;
/// `min_tick` is waited for so long.
const MIN_TICK_WAIT: Duration = Duration::from_secs(5);
/// A reader that takes nothing for so long is left.
pub(super) const READER_PATIENCE: Duration = Duration::from_secs(30);

/// What may be asked, as the query of a list or as a body.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Question {
    with: Names,
    without: Names,
    r#where: Option<String>,
    select: Names,
    sort: Option<String>,
    /// `x,y,r`.
    near: Option<String>,
    /// `x,y,x,y`: two corners.
    bbox: Option<String>,
    aggregate: Names,
    group_by: Option<String>,
    count_only: bool,
    limit: Option<usize>,
    cursor: Option<String>,
    at_tick: Option<String>,
    min_tick: Option<u64>,
}

impl Question {
    /// Who is meant, of all that a question can say.
    pub(super) fn of_whom(
        [with, without, select]: [Names; 3],
        r#where: Option<String>,
        [near, bbox]: [Option<String>; 2],
    ) -> Self {
        Self { with, without, r#where, select, near, bbox, ..Self::default() }
    }
}

/// A list of names: an array of them, or one text with commas between.
#[derive(Default)]
pub(super) struct Names(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfNames;

        impl<'de> Visitor<'de> for OfNames {
            type Value = Names;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("names, as an array or with commas between")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Names, E> {
                Ok(Names(text.split(',').map(|part| part.trim().to_owned()).collect()))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut names: A) -> Result<Names, A::Error> {
                let mut list = Vec::new();
                while let Some(name) = names.next_element()? {
                    list.push(name);
                }
                Ok(Names(list))
            }
        }

        deserializer.deserialize_any(OfNames)
    }
}

/// A question whose names are known.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) filter: BoundFilter,
    sort: Option<Sort>,
    pub(super) select: Select,
    pub(super) registry: Arc<Registry>,
    /// Whose cursors are ours.
    pub(super) id: u64,
}

impl Question {
    pub(super) fn bind(&self, registry: &Arc<Registry>) -> Result<Asking, Problem> {
        let mut filter = Filter::with_and_without(&self.with.0, &self.without.0);
        if let Some(text) = &self.r#where {
            filter = filter.and(text.parse()?);
        }
        let mut filter = filter.bind(registry)?;
        for region in
            [self.near.as_deref().map(circle), self.bbox.as_deref().map(rectangle)].into_iter().flatten()
        {
            filter = filter.within(region?)?;
        }
        let sort = self.sort.as_deref().map(|text| Sort::bind(text, registry)).transpose()?;
        let id = question_id(&(
            &self.with.0,
            &self.without.0,
            &self.r#where,
            &self.sort,
            &self.near,
            &self.bbox,
            &self.select.0,
        ));
        Ok(Asking {
            filter,
            sort,
            select: Select::bind(&self.select.0, registry)?,
            registry: registry.clone(),
            id,
        })
    }

    fn limit(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(LIMIT_DEFAULT) {
            limit @ 1..=LIMIT_MAX => Ok(limit),
            limit => Err(Problem::malformed(format!("limit: expected 1 to {LIMIT_MAX}, found {limit}"))),
        }
    }
}

pub(super) fn numbers<const N: usize>(name: &str, text: &str, form: &str) -> Result<[f64; N], Problem> {
    let wrong = || Problem::malformed(format!("{name}: expected {form}, found \"{text}\""));
    let number = |part: &str| part.trim().parse().ok().filter(|number: &f64| number.is_finite());
    let numbers: Option<Vec<f64>> = text.split(',').map(number).collect();
    numbers.and_then(|numbers| numbers.try_into().ok()).ok_or_else(wrong)
}

fn circle(text: &str) -> Result<Region, Problem> {
    let [x, y, r] = numbers("near", text, "x,y,r")?;
    Ok(Region::Circle { x, y, r })
}

fn rectangle(text: &str) -> Result<Region, Problem> {
    let [ax, ay, bx, by] = numbers("bbox", text, "x,y,x,y, two corners")?;
    Ok(Region::Box { low: (ax.min(bx), ay.min(by)), high: (ax.max(bx), ay.max(by)) })
}

/// The view that is meant, with its line.
struct Seen {
    branch: u32,
    image: Arc<Image>,
}

impl App {
    async fn seen(
        &self,
        world: &str,
        question: &Question,
        asking: &Asking,
    ) -> Result<(Seen, Option<Cursor>), Problem> {
        let (handle, running) = self.running(world)?;
        if let Some(text) = &question.cursor {
            let cursor = Cursor::decode(text, asking.id)?;
            let image = self.views.find(world, &cursor)?;
            return Ok((Seen { branch: cursor.branch, image }, Some(cursor)));
        }
        if let Some(text) = &question.at_tick {
            let (questions, place) = (self.questions(world)?, at(Some(text))?);
            let (send, built) = tokio::sync::oneshot::channel();
            let work = move || {
                let place = questions.place(place)?;
                let (image, _) = questions.image_at(place)?;
                // Who asked may have gone.
                let _ = send.send((place.0, image));
                Ok(Value::Null)
            };
            self.bulk.wait("query", work).await?;
            let (branch, image) = built.await.map_err(|_| Problem::failed("the view was not built"))?;
            return Ok((Seen { branch, image }, None));
        }
        let min_tick = question.min_tick.map(Tick);
        let image = at_least(&running, min_tick).await?;
        let (shown, image) = handle.shown_with(|| running.mirror.view().unwrap_or_else(|| image.clone()));
        Ok((Seen { branch: shown.branch, image }, None))
    }
}

/// A view of that tick or a later one; waited for, within bounds.
pub(super) async fn at_least(running: &Running, min_tick: Option<Tick>) -> Result<Arc<Image>, Problem> {
    let deadline = tokio::time::Instant::now() + MIN_TICK_WAIT;
    loop {
        let view = running.view().await.ok_or_else(|| Problem::unavailable("there is no view yet"))?;
        match min_tick {
            Some(min) if view.tick < min => {
                if tokio::time::Instant::now() >= deadline {
                    return Err(Problem::wrong_state(format!(
                        "min_tick: the world is at tick {}, not yet at {min}",
                        view.tick
                    )));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            _ => return Ok(view),
        }
    }
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<Question>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    answer(&app, &world, parameters(query)?, &headers, headers.get(header::IF_NONE_MATCH)).await
}

pub(super) async fn post(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    answer(&app, &world, read_json(&body)?, &headers, None).await
}

async fn answer(
    app: &Arc<App>,
    world: &str,
    question: Question,
    headers: &HeaderMap,
    known_tag: Option<&HeaderValue>,
) -> Result<Response, Problem> {
    let (_, running) = app.running(world)?;
    let asking = question.bind(&running.registry)?;
    let limit = question.limit()?;
    let sums = if question.aggregate.0.is_empty() && question.group_by.is_none() {
        None
    } else {
        Some(Aggregation::bind(&question.aggregate.0, question.group_by.as_deref(), &running.registry)?)
    };
    let (Seen { branch, image }, cursor) = app.seen(world, &question, &asking).await?;
    let tick = image.tick;
    let format = Format::of(headers).filter(|_| sums.is_none() && !question.count_only);
    let mut response = if let Some(format) = format {
        if question.limit.is_some() || question.sort.is_some() || cursor.is_some() {
            return Err(Problem::malformed(
                "such a stream is all rows, in no order: leave limit, sort and cursor out",
            ));
        }
        let Ok(permit) = app.streams.clone().try_acquire_owned() else {
            return Err(Problem::unavailable("too many streams are open (http.streams_max)"));
        };
        rows::stream(app.clone(), asking, image, format, permit)?
    } else {
        let counts = question.count_only;
        let id = question_id(&(
            (branch, asking.id),
            (&question.aggregate.0, &question.group_by, counts),
            (limit, &question.cursor),
        ));
        // The hash tells a world from a former one of its name.
        let tag = format!("\"{branch}.{tick}.{}.{id:x}\"", image.hash);
        let has_it = known_tag.is_some_and(|known| known == tag.as_str());
        // Whether a cursor goes on from what the client has is known as long as the answer is.
        let (answer, is_known) = if let Some(known) = app.answers.get(&image, id) {
            (known, has_it)
        } else {
            let seen = image.clone();
            let work = move || page(&asking, &seen, (branch, limit), cursor, sums.as_ref(), counts);
            let answer = if image.entities() > app.live.config().http.bulk_rows {
                let pool = app.bulk.options.pool.clone();
                app.bulk.wait_for("query", move || pool.install(work)).await??
            } else {
                work()?
            };
            app.answers.keep(&image, id, &answer);
            (answer, false)
        };
        if answer.has_next {
            app.views.keep(world, branch, &image);
        }
        app.views.forget_old();
        let tag = [(header::ETAG, tag)];
        if is_known {
            (StatusCode::NOT_MODIFIED, tag).into_response()
        } else {
            (tag, media::json(answer.bytes)).into_response()
        }
    };
    response.headers_mut().insert("x-world-tick", tick.0.into());
    Ok(response)
}

fn page(
    asking: &Asking,
    image: &Image,
    (branch, limit): (u32, usize),
    cursor: Option<Cursor>,
    sums: Option<&Aggregation>,
    counts: bool,
) -> Result<Page, Problem> {
    let tick = image.tick;
    let plain = |answer: Value| Page { has_next: false, bytes: answer.to_string().into() };
    if let Some(sums) = sums {
        let groups = asking.filter.aggregate(image, sums)?;
        let item =
            |group: &everworld_engine::query::Group| json!({"group": group.group, "values": group.values});
        let items: Vec<Value> = groups.iter().map(item).collect();
        return Ok(plain(json!({"items": items, "next": null, "tick": tick, "branch": branch})));
    }
    if counts {
        return Ok(plain(json!({"count": asking.filter.count(image), "tick": tick, "branch": branch})));
    }
    let (found, more) =
        asking.filter.page(image, asking.sort.as_ref(), cursor.map(|cursor| cursor.after), limit);
    let items = found.iter().map(|found| asking.select.entity(image, &asking.registry, found)).collect();
    let next = found.last().filter(|_| more);
    let next = next.map(|last| Cursor::new(branch, tick, asking.id, last.after()).encode());
    let has_next = next.is_some();
    Ok(Page { has_next, bytes: media::to_json(&Listed { items, next, tick, branch })? })
}

/// A page of a list.
#[derive(Serialize)]
struct Listed<I> {
    items: Vec<I>,
    next: Option<String>,
    tick: Tick,
    branch: u32,
}

/// A piece of bulk work; none when the server stops or has too much of it for long.
pub(super) async fn piece<T: Send + 'static>(
    app: &App,
    asking: &Asking,
    image: &Arc<Image>,
    work: impl FnOnce(&Asking, &Image) -> T + Send + 'static,
) -> Option<T> {
    let (asking, image) = (asking.clone(), image.clone());
    app.bulk.run(READER_PATIENCE, move || work(&asking, &image)).await
}
