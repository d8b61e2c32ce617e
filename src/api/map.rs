//! `GET /map`: where entities are, as numbers for a picture.

use super::{
    App,
    media::{self, BINARY},
    past::{Parameters, parameters},
    problem::Problem,
    query::{Names, Question, numbers},
};
use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use everworld_engine::{
    Image,
    query::{BoundFilter, Cells, Density, Picture, Point},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Cells beside and above each other, where nothing is said.
const SIDE: usize = 128;
/// The most of them (L1).
pub(super) const SIDE_MAX: usize = 512;
/// Pictures with more numbers are drawn and written by the threads for bulk work.
const BULK_NUMBERS: usize = 20_000;
/// The most points (L1).
pub(super) const POINTS_MAX: usize = 100_000;
const POINTS: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MapQuery {
    #[serde(default)]
    layer: Layer,
    bbox: Option<String>,
    w: Option<usize>,
    h: Option<usize>,
    limit: Option<usize>,
    #[serde(default)]
    with: Names,
    #[serde(default)]
    without: Names,
    r#where: Option<String>,
    color_by: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Layer {
    #[default]
    Density,
    Points,
}

/// What was drawn.
enum Drawn {
    Density(Density),
    Points(Vec<Point>, usize),
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<MapQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let MapQuery { layer, bbox, w, h, limit, with, without, r#where, color_by } = parameters(query)?;
    let (handle, running) = app.running(&world)?;
    let picture = Picture::bind(color_by.as_deref(), &running.registry)?;
    let filter = Question::of_whom([with, without, Names::default()], r#where, [None, None])
        .bind(&running.registry)?
        .filter;
    let bbox = bbox.map(|text| numbers::<4>("bbox", &text, "x,y,x,y, two corners")).transpose()?;
    let view = running.view().await.ok_or_else(|| Problem::unavailable("there is no view yet"))?;
    let (shown, image) = handle.shown_with(|| running.mirror.view().unwrap_or_else(|| view.clone()));
    let (width, height) = (w.unwrap_or(SIDE), h.unwrap_or(SIDE));
    let (seen, limit) = (image.clone(), limit.unwrap_or(POINTS));
    let is_binary = media::wanted(&headers, &[BINARY]).is_some();
    let draw = move || {
        let cells = cells(bbox, &picture, &filter, &seen, (width, height));
        let drawn = match layer {
            Layer::Density => Drawn::Density(picture.density(&filter, &seen, &cells)),
            Layer::Points => {
                let (points, total) = picture.points(&filter, &seen, &cells, limit);
                Drawn::Points(points, total)
            }
        };
        let corners = [cells.low.0, cells.low.1, cells.high.0, cells.high.1].map(shortest);
        let bytes = if is_binary {
            binary(&drawn)
        } else {
            let mut answer = json!({"tick": seen.tick, "branch": shown.branch, "bbox": corners});
            if let (Value::Object(answer), Value::Object(members)) = (&mut answer, document(drawn, &cells)) {
                answer.extend(members);
            }
            answer.to_string().into_bytes()
        };
        (corners, bytes)
    };
    let numbers = match layer {
        Layer::Density => width * height,
        Layer::Points => limit,
    };
    let is_bulk = image.entities() > app.live.config().http.bulk_rows || numbers > BULK_NUMBERS;
    let (corners, bytes) = if is_bulk {
        let pool = app.bulk.options.pool.clone();
        app.bulk.wait_for("map", move || pool.install(draw)).await?
    } else {
        draw()
    };
    let about = [
        ("x-world-tick", image.tick.to_string()),
        ("x-map-bbox", corners.map(|corner| corner.to_string()).join(",")),
        ("x-map-size", format!("{width},{height}")),
        ("content-type", if is_binary { BINARY } else { "application/json" }.to_owned()),
    ];
    Ok((about, bytes).into_response())
}

fn document(drawn: Drawn, cells: &Cells) -> Value {
    match drawn {
        Drawn::Density(Density { counts, means }) => json!({
            "layer": "density", "w": cells.width, "h": cells.height, "counts": counts, "means": means,
        }),
        Drawn::Points(points, total) => {
            let point =
                |point: &Point| json!([shortest(point.x), shortest(point.y), point.value.map(shortest)]);
            json!({"layer": "points", "points": points.iter().map(point).collect::<Vec<_>>(), "total": total})
        }
    }
}

/// The box that is asked for, or the smallest that holds all.
fn cells(
    bbox: Option<[f64; 4]>,
    picture: &Picture,
    filter: &BoundFilter,
    image: &Image,
    (width, height): (usize, usize),
) -> Cells {
    let (low, high) = match bbox {
        Some([ax, ay, bx, by]) => ((ax.min(bx), ay.min(by)), (ax.max(bx), ay.max(by))),
        None => picture.bounds(filter, image).unwrap_or_default(),
    };
    Cells { low, high, width, height }
}

/// As rows have it, if it is an f32: by its shortest decimal form.
fn shortest(value: f64) -> f64 {
    let short = value as f32;
    if f64::from(short) == value { short.to_string().parse().unwrap_or(value) } else { value }
}

/// Little-endian: the counts as u32, then the means as f32 if there are any, NaN for none; or x, y and value of each point
/// as f32.
fn binary(drawn: &Drawn) -> Vec<u8> {
    let real = |value: Option<f64>| value.map_or(f32::NAN, |value| value as f32).to_le_bytes();
    match drawn {
        Drawn::Density(Density { counts, means }) => {
            let counts = counts.iter().flat_map(|count| count.to_le_bytes());
            counts.chain(means.iter().flat_map(|mean| real(*mean))).collect()
        }
        Drawn::Points(points, _) => {
            let numbers = |point: &Point| [Some(point.x), Some(point.y), point.value];
            points.iter().flat_map(numbers).flat_map(real).collect()
        }
    }
}
