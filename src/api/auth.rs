//! Who asks: bearer tokens, their roles, and how much each may ask.

use super::{App, Role, Route, problem::Problem};
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, time::Instant};

/// Set by us, and taken from whoever sends it: who asks.
pub(super) const PRINCIPAL: &str = "x-everworld-principal";
/// Whoever asks where there are no tokens.
pub(super) const LOCAL: &str = "local";

/// How much each principal may still ask: a token bucket that holds one second's worth.
#[derive(Default)]
pub(crate) struct Buckets(Mutex<BTreeMap<String, (f64, Instant)>>);

impl Buckets {
    /// Takes one, if there is one. `per_sec` 0 is without a limit.
    fn take(&self, principal: &str, per_sec: f64, now: Instant) -> bool {
        if per_sec <= 0.0 {
            return true;
        }
        let mut buckets = self.0.lock();
        let (left, then) = buckets.get(principal).copied().unwrap_or((per_sec.max(1.0), now));
        let left = (left + (now - then).as_secs_f64() * per_sec).min(per_sec.max(1.0));
        let taken = left >= 1.0;
        // Principals are the names of tokens: as many as there are of those (L1).
        buckets.insert(principal.to_owned(), (if taken { left - 1.0 } else { left }, now));
        taken
    }
}

/// Notes who asks, or says why he may not.
pub(super) fn check(
    app: &App,
    route: Option<&Route>,
    request: &mut Request<Body>,
) -> Result<(), Box<Response>> {
    // A method that the route does not have is answered behind us, for whoever may look.
    let needed = route.map_or(Role::Viewer, |route| route.role);
    let principal = principal(app, request.headers(), needed)?;
    if !app.buckets.take(&principal, app.live.config().http.rate_per_sec, Instant::now()) {
        super::server::reject(&app.metrics, "rate");
        let why = format!("\"{principal}\" asks more than http.rate_per_sec allows");
        return Err(Box::new(Problem::too_many(why).into_response()));
    }
    if let Ok(value) = HeaderValue::from_str(&principal) {
        request.headers_mut().insert(PRINCIPAL, value);
    }
    Ok(())
}

fn principal(app: &App, headers: &HeaderMap, needed: Role) -> Result<String, Box<Response>> {
    if app.tokens.is_empty() {
        return Ok(LOCAL.into());
    }
    let given = headers.get(header::AUTHORIZATION);
    let token = given.and_then(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| app.tokens.find(token.trim())).flatten()
    });
    match token {
        // Also an open route says so when a token is wrong: its sender thinks it is right.
        None if needed == Role::Open && given.is_none() => Ok("anyone".into()),
        None => {
            super::server::reject(&app.metrics, "token");
            let why =
                if given.is_some() { "the token is not known" } else { "this route needs a bearer token" };
            let mut response = Problem::unauthorized(why).into_response();
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            Err(Box::new(response))
        }
        Some(token) if token.role < needed => {
            super::server::reject(&app.metrics, "role");
            let why = format!("this route is for {needed}, \"{}\" is {}", token.name, token.role);
            Err(Box::new(Problem::forbidden(why).into_response()))
        }
        Some(token) => Ok(token.name.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bucket_fills_again() {
        let (buckets, begin) = (Buckets::default(), Instant::now());
        let take = |millis| buckets.take("a", 2.0, begin + Duration::from_millis(millis));
        assert_eq!([take(0), take(0), take(0), take(400), take(500)], [true, true, false, false, true]);
        assert!(buckets.take("b", 2.0, begin) && buckets.take("a", 0.0, begin));
    }
}
