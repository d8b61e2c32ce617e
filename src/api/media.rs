//! Media types: what a client sends, and what it would have (RFC 9110, 8.3 and 12.5.1).

use super::problem::Problem;
use axum::{
    body::Bytes,
    http::{HeaderMap, header},
    response::IntoResponse,
};
use serde::Serialize;

pub(super) const NDJSON: &str = "application/x-ndjson";
pub(super) const CSV: &str = "text/csv";
pub(super) const ARROW: &str = "application/vnd.apache.arrow.stream";
pub(super) const EVENT_STREAM: &str = "text/event-stream";
pub(super) const BINARY: &str = "application/octet-stream";
const JSON: &str = "application/json";

/// Most answers are no longer.
const ANSWER_BYTES: usize = 4 << 10;

/// As text. Quicker than [`axum::Json`], which grows a buffer as it is written to, bit by bit.
pub(super) fn to_json(answer: &impl Serialize) -> Result<Bytes, Problem> {
    let mut bytes = Vec::with_capacity(ANSWER_BYTES);
    match serde_json::to_writer(&mut bytes, answer) {
        Ok(()) => {
            // A reader may take its time: room to grow is not held for it.
            bytes.shrink_to_fit();
            Ok(bytes.into())
        }
        Err(_) => Err(Problem::failed("the answer is no JSON")),
    }
}

/// An answer that is JSON.
pub(super) fn json(bytes: Bytes) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, JSON)], bytes)
}

/// What the body is, without its parameters.
pub(super) fn sent(headers: &HeaderMap) -> &str {
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    media.split(';').next().unwrap_or_default().trim()
}

/// The one of some types that a client names and likes best. JSON is what it gets otherwise: where it names that, too, and
/// likes it as well, there is none.
pub(super) fn wanted(headers: &HeaderMap, offered: &[&'static str]) -> Option<&'static str> {
    let mut best: Option<(f32, &'static str)> = None;
    let mut json = 0.0_f32;
    for one in headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok()) {
        for one in one.split(',') {
            let mut parts = one.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0_f32);
            if media.eq_ignore_ascii_case(JSON) {
                json = json.max(weight);
            }
            let named = offered.iter().find(|offered| media.eq_ignore_ascii_case(offered));
            if let Some(named) = named.filter(|_| weight > best.map_or(0.0, |(best, _)| best)) {
                best = Some((weight, *named));
            }
        }
    }
    best.filter(|(weight, _)| *weight > json).map(|(_, named)| named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_that_is_liked_best_is_taken() {
        let check = |accept: &str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(wanted(&headers, &[CSV, NDJSON]), expected, "{accept}");
        };
        check("text/csv", Some(CSV));
        check("TEXT/CSV; header=present", Some(CSV));
        check("text/csv;q=0.5, application/x-ndjson", Some(NDJSON));
        check("application/json, text/csv", None);
        check("application/json;q=0.9, text/csv", Some(CSV));
        check("application/json, text/csv;q=0.1", None);
        check("text/csv;q=0", None);
        check("text/html, */*;q=0.8", None);
        check("*/*", None);
    }
}
