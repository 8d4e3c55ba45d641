//! Guards: who may open a WebSocket, asked in order before [`Handler::on_upgrade`](super::Handler::on_upgrade).
//!
//! [`Tokens`] and [`Jwt`] are ready made; an application gives its own as a [`Guard`], or decides in `on_upgrade` with
//! [`Request::bearer_token`] and [`Request::query_value`]. The `Origin` check is [`Origins`], the limit on connections
//! of one peer [`Limits::connections_per_peer_max`](super::Limits::connections_per_peer_max).

mod jwt;
mod origin;
mod tokens;

pub use jwt::{Jwt, JwtAlgorithm, JwtError, JwtOptions};
pub use origin::Origins;
pub use tokens::{Tokens, TokensError};

use super::handler::{Refusal, Request};
use crate::time::Duration;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::fmt;

/// What a token says of its bearer: a JSON object.
pub type Claims = serde_json::Map<String, serde_json::Value>;

/// Decides on requests for a WebSocket. One value serves all workers: it only reads what it was made with.
pub trait Guard: Send + Sync + fmt::Debug {
    /// Lets the request through, perhaps with what is known of the client now
    /// ([`Request::claims`]), or refuses it. `unix` is the time since 1970 in UTC; `None` where nobody told the
    /// worker ([`Worker::set_unix_time`](super::Worker::set_unix_time)).
    ///
    /// # Errors
    /// What the client is answered with.
    fn check(&self, request: &Request<'_>, unix: Option<Duration>) -> Result<Option<Claims>, Refusal>;
}

/// The token that a request bears: in its `Authorization` header, or in the query under `query_key`, where a page's
/// `encodeURIComponent` has encoded what tokens of base64 have.
fn token_of<'a>(request: &Request<'a>, query_key: Option<&str>) -> Result<Cow<'a, str>, Refusal> {
    let in_query = || percent_decode_str(request.query_value(query_key?)?).decode_utf8().ok();
    request.bearer_token().map(Cow::Borrowed).or_else(in_query).ok_or_else(|| {
        let what = match query_key {
            Some(key) => {
                format!("send the header `Authorization: Bearer TOKEN`, or `{key}=TOKEN` in the query")
            }
            None => "send the header `Authorization: Bearer TOKEN`".into(),
        };
        unauthorized(&what, "Bearer")
    })
}

/// RFC 6750 section 3.
fn unauthorized(what: &str, challenge: &str) -> Refusal {
    Refusal::new(401, what).header("WWW-Authenticate", challenge)
}
