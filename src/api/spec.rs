//! What a route takes and gives, as data: the OpenAPI document comes from it, and so does the check of the query.

use super::{
    App, ROUTES, Route,
    media::{CSV, NDJSON},
    problem::Problem,
};
use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use std::{
    pin::Pin,
    sync::{Arc, LazyLock},
};

/// A parameter of a query.
#[derive(Clone, Copy)]
pub struct Param {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) is_required: bool,
}

/// The most items on a page.
pub(super) const LIMIT_MAX: usize = 1_000;

/// The most characters of a parameter; what is longer goes into a body.
const TEXT_MAX: usize = 1_024;

/// What a parameter may be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A whole number within bounds, both included.
    Whole(u64, u64),
    /// Two numbers or more with commas between.
    Numbers(usize),
    /// `true`, `false`.
    Flag,
    /// It is there or not.
    Switch,
    OneOf(&'static [&'static str]),
    /// A tick: `now`, `1200`, with a branch `0/1200`.
    Place,
    /// A member of a stream: `480.17`, a part of one `480.17.2`.
    Id,
    /// Anything else, which its reader understands; an example.
    Text(&'static str),
}

const fn param(name: &'static str, kind: Kind) -> Param {
    Param { name, kind, is_required: false }
}

impl Param {
    pub(super) const fn whole(name: &'static str, low: u64, high: u64) -> Self {
        param(name, Kind::Whole(low, high))
    }

    pub(super) const fn text(name: &'static str, example: &'static str) -> Self {
        param(name, Kind::Text(example))
    }

    pub(super) const fn place(name: &'static str) -> Self {
        param(name, Kind::Place)
    }

    pub(super) const fn id(name: &'static str) -> Self {
        param(name, Kind::Id)
    }

    pub(super) const fn numbers(name: &'static str, count: usize) -> Self {
        param(name, Kind::Numbers(count))
    }

    pub(super) const fn flag(name: &'static str) -> Self {
        param(name, Kind::Flag)
    }

    pub(super) const fn switch(name: &'static str) -> Self {
        param(name, Kind::Switch)
    }

    pub(super) const fn one_of(name: &'static str, values: &'static [&'static str]) -> Self {
        param(name, Kind::OneOf(values))
    }

    pub(super) const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    fn schema(&self) -> Value {
        match self.kind {
            Kind::Whole(low, high) => json!({"type": "integer", "minimum": low, "maximum": high}),
            Kind::Numbers(count) => {
                const NUMBER: &str = r"-?[0-9]{1,6}(\.[0-9]{1,3})?";
                let pattern = format!("^{}$", vec![NUMBER; count].join(","));
                json!({"type": "string", "pattern": pattern})
            }
            Kind::Flag => json!({"type": "boolean"}),
            Kind::Switch => json!({"type": "string", "enum": ["", "true"]}),
            Kind::OneOf(values) => json!({"type": "string", "enum": values}),
            Kind::Place => json!({"type": "string", "pattern": "^([0-9]{1,6}/)?([0-9]{1,12}|now)$"}),
            Kind::Id => json!({"type": "string", "pattern": r"^([0-9]{1,12}\.){0,2}[0-9]{1,12}$"}),
            Kind::Text(example) => {
                json!({"type": "string", "minLength": 1, "maxLength": TEXT_MAX, "examples": [example]})
            }
        }
    }

    fn check(&self, value: &str) -> Result<(), Problem> {
        let expected = match self.kind {
            Kind::Whole(low, high) => {
                if value.parse::<u64>().is_ok_and(|value| (low..=high).contains(&value)) {
                    return Ok(());
                }
                format!("{low} to {high}")
            }
            Kind::Flag if ["true", "false"].contains(&value) => return Ok(()),
            Kind::Flag => "true or false".into(),
            Kind::Switch if ["true", ""].contains(&value) => return Ok(()),
            Kind::Switch => "true, or nothing".into(),
            Kind::OneOf(values) if values.contains(&value) => return Ok(()),
            Kind::OneOf(values) => format!("one of {}", values.join(", ")),
            Kind::Text(_) if (1..=TEXT_MAX).contains(&value.chars().count()) => return Ok(()),
            Kind::Text(_) => {
                let count = value.chars().count();
                let detail = format!("{}: expected 1 to {TEXT_MAX} characters, found {count}", self.name);
                return Err(Problem::malformed(detail));
            }
            // Their readers say more.
            Kind::Place | Kind::Id | Kind::Numbers(_) => return Ok(()),
        };
        let found = if value.parse::<f64>().is_ok() { value.to_owned() } else { format!("\"{value}\"") };
        Err(Problem::malformed(format!("{}: expected {expected}, found {found}", self.name)))
    }
}

/// The route that a request has come to.
pub(super) fn route_of(request: &Request<Body>) -> Option<&'static Route> {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let method = if request.method() == "HEAD" { "GET" } else { request.method().as_str() };
    ROUTES.iter().find(|route| route.path == path && route.method == method)
}

/// Refuses a query that its route does not know.
pub(super) fn check(route: Option<&Route>, request: &Request<Body>) -> Result<(), Problem> {
    let Some(route) = route else { return Ok(()) };
    check_query(route, request.uri().query().unwrap_or_default())
}

fn check_query(route: &Route, query: &str) -> Result<(), Problem> {
    let mut seen = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let param = route.query.iter().find(|param| param.name == name);
        let param = param.ok_or_else(|| {
            let known: Vec<&str> = route.query.iter().map(|param| param.name).collect();
            let known = if known.is_empty() {
                "this route has none".into()
            } else {
                format!("there are {}", known.join(", "))
            };
            Problem::malformed(format!("there is no parameter \"{name}\"; {known}"))
        })?;
        if seen.contains(&param.name) {
            return Err(Problem::malformed(format!("{name}: it is given twice")));
        }
        seen.push(param.name);
        param.check(&value)?;
    }
    // What is missing is told by who needs it.
    Ok(())
}

/// The shapes of bodies and answers.
const SCHEMAS: &str = include_str!("schemas.json");

/// What a parameter of a path may be.
fn path_schema(path: &str, name: &str) -> Value {
    let pattern = match name {
        "w" => "^[a-z0-9_-]{1,64}$",
        "uid" => "^[0-9]{1,19}$",
        "id" if path.contains("/snapshots/") => "^[0-9]{1,6}-[0-9]{1,18}$",
        "s" => "^[a-z][a-z0-9_:]{0,63}$",
        "n" | "id" => "^[0-9]{1,18}$",
        _ => "^[a-z][a-z0-9_]{0,63}$",
    };
    json!({"type": "string", "pattern": pattern})
}

/// The OpenAPI document of all routes.
pub fn openapi() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation(route);
    }
    let schemas: Value = serde_json::from_str(SCHEMAS).expect("schemas.json is in the source");
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Everworld",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The admin API of a world server: docs/API.md has the rules that hold for all routes.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "Not done, and why (RFC 9457)",
                    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
                },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters = Vec::new();
    for name in route.path.split('{').skip(1).filter_map(|part| part.split('}').next()) {
        let schema = path_schema(route.path, name);
        parameters.push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
    }
    for param in route.query {
        parameters.push(
            json!({"name": param.name, "in": "query", "required": param.is_required, "schema": param.schema()}),
        );
    }
    let mut responses = Map::new();
    for answer in route.answers {
        let response = responses
            .entry(answer.status.to_string())
            .or_insert_with(|| json!({"description": answer.description(), "content": {}}));
        if let Some(schema) = answer.schema {
            let schema = if schema == "Text" { json!({"type": "string"}) } else { reference(schema) };
            response["content"][answer.media] = json!({"schema": schema});
        } else if !answer.media.is_empty() {
            response["content"][answer.media] = json!({});
        }
    }
    responses.insert("default".into(), json!({"$ref": "#/components/responses/Problem"}));
    let words: Vec<&str> =
        route.path.split(['/', '{', '}']).filter(|word| !word.is_empty() && *word != "v1").collect();
    let mut operation = json!({
        "operationId": format!("{}_{}", route.method.to_lowercase(), words.join("_")),
        "summary": route.doc,
        "description": format!("Role: {}.", route.role),
        "parameters": parameters,
        "responses": responses,
    });
    if route.role > super::Role::Open {
        operation["security"] = json!([{"token": []}]);
    }
    if let Some((schema, is_required)) = route.body {
        let media: &[&str] = if schema == "Population" { &[NDJSON, CSV] } else { &["application/json"] };
        let content: Map<String, Value> =
            media.iter().map(|media| ((*media).to_owned(), json!({"schema": reference(schema)}))).collect();
        operation["requestBody"] = json!({"required": is_required, "content": content});
    }
    operation
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// What a route answers when it has done what was asked.
pub struct Answer {
    pub(super) status: u16,
    pub(super) media: &'static str,
    pub(super) schema: Option<&'static str>,
}

impl Answer {
    pub(super) const fn json(status: u16, schema: &'static str) -> Self {
        Self { status, media: "application/json", schema: Some(schema) }
    }

    pub(super) const fn text(media: &'static str) -> Self {
        Self { status: 200, media, schema: Some("Text") }
    }

    pub(super) const fn bytes(media: &'static str) -> Self {
        Self { status: 200, media, schema: None }
    }

    pub(super) const fn empty(status: u16) -> Self {
        Self { status, media: "", schema: None }
    }

    fn description(&self) -> &'static str {
        match self.status {
            202 => "Taken: it is durable, or will be found at `location`",
            304 => "As it was",
            503 => "Not ready",
            _ => "Done",
        }
    }
}

// Boxed: the list names this function, whose type must not depend on the list.
pub(super) fn show(State(_): State<Arc<App>>) -> Pin<Box<dyn Future<Output = Response> + Send>> {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| openapi().to_string());
    let json = [(header::CONTENT_TYPE, "application/json")];
    Box::pin(std::future::ready((json, DOCUMENT.as_str()).into_response()))
}
