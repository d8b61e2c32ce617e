//! Stories: the chronicle of a world, and those whom it is about. Bulk work (T4).

use super::{
    App,
    bulk::Outcome,
    past::{Parameters, parameters},
    problem::Problem,
};
use crate::questions::{At, Questions};
use axum::{
    extract::{Path, State},
    response::Response,
};
use everworld_engine::{Image, Tick};
use everworld_systems::{Story, chronicle::Asked};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChronicleQuery {
    from: Option<u64>,
    to: Option<u64>,
    about: Option<String>,
}

impl App {
    /// Tells something of the newest state that may be seen.
    async fn tell(
        &self,
        world: &str,
        kind: &'static str,
        tell: impl FnOnce(&Image, &Story) -> Result<Value, Problem> + Send + 'static,
    ) -> Result<Response, Problem> {
        let (_, running) = self.running(world)?;
        let (view, questions) = (running.view().await, self.questions(world)?);
        let work = move || -> Outcome {
            let (story, image) = (questions.story()?, of(&questions, view)?);
            let mut told = tell(&image, &story)?;
            told["tick"] = image.tick.0.into();
            Ok(told)
        };
        self.bulk.answer(kind, self.about(world), work).await
    }
}

/// The view, which is at hand; else the newest tick as it is kept.
fn of(questions: &Questions, view: Option<Arc<Image>>) -> Result<Arc<Image>, Problem> {
    match view {
        Some(view) => Ok(view),
        None => Ok(questions.image_at(questions.place(At::default())?)?.0),
    }
}

pub(super) async fn chronicle(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
    query: Parameters<ChronicleQuery>,
) -> Result<Response, Problem> {
    let ChronicleQuery { from, to, about } = parameters(query)?;
    let asked = Asked { from: from.map(Tick), to: to.map(Tick), about };
    app.tell(&world, "chronicle", move |image, story| {
        let told = (story.chronicle)(image, &asked).map_err(|error| Problem::not_found(error.to_string()))?;
        Ok(json!({"markdown": told}))
    })
    .await
}

pub(super) async fn characters(
    State(app): State<Arc<App>>,
    Path(world): Path<String>,
) -> Result<Response, Problem> {
    app.tell(&world, "characters", |image, story| {
        let known = (story.characters)(image).map_err(|error| Problem::not_found(error.to_string()))?;
        let items = known.into_iter().map(|(uid, name)| json!({"uid": uid.get().to_string(), "name": name}));
        Ok(json!({"items": items.collect::<Vec<_>>()}))
    })
    .await
}

fn portrait(image: &Image, story: &Story, who: &str) -> Result<Value, Problem> {
    (story.portrait)(image, who).map_err(|error| Problem::not_found(error.to_string()))
}

pub(super) async fn character(
    State(app): State<Arc<App>>,
    Path((world, who)): Path<(String, String)>,
) -> Result<Response, Problem> {
    app.tell(&world, "character", move |image, story| portrait(image, story, &who)).await
}

pub(super) async fn memories(
    State(app): State<Arc<App>>,
    Path((world, who)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let tell = move |image: &Image, story: &Story| {
        let mut portrait = portrait(image, story, &who)?;
        Ok(json!({"uid": portrait["uid"].take(), "items": portrait["remembers"].take()}))
    };
    app.tell(&world, "memories", tell).await
}
