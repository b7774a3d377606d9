//! Checkpoints as objects of an HTTP store, each under a name of its own, so that a store with a retention lock keeps every one.

use std::io;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, IF_NONE_MATCH};
use http::{StatusCode, Uri};

use super::Checkpoint;
use crate::config::PutAnchor;
use crate::fetch;

/// Puts one checkpoint at `URL/NAME/ORIGIN/RECORDS`.
///
/// # Errors
/// Why it is not there; the text is for the operator.
pub(super) async fn put(to: &PutAnchor, covers: &Checkpoint, note: &str) -> io::Result<()> {
    let url = address(&to.url, covers).map_err(io::Error::other)?;
    let mut headers = HeaderMap::new();
    // What stands there already is never replaced by us.
    headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
    if let Some(bearer) = &to.bearer {
        headers.insert(AUTHORIZATION, token(&bearer.from_env).map_err(io::Error::other)?);
    }
    let answer = fetch::put(&url, headers.clone(), Bytes::copy_from_slice(note.as_bytes())).await.map_err(io::Error::other)?;
    match answer.status {
        status if status.is_success() => Ok(()),
        StatusCode::PRECONDITION_FAILED => {
            headers.remove(IF_NONE_MATCH);
            let there = fetch::get_with(&url, headers).await.map_err(io::Error::other)?;
            // An earlier attempt came through although its answer did not. Anything else is another log of this name: one was copied.
            let is_ours = there.status.is_success() && *there.body == *note.as_bytes();
            if is_ours { Ok(()) } else { Err(io::Error::other("another checkpoint stands there: does another log have this name?")) }
        }
        status => Err(io::Error::other(format!("the server answered {status}"))),
    }
}

/// Twenty digits sort as numbers do.
fn address(url: &str, covers: &Checkpoint) -> Result<Uri, String> {
    fetch::parse(&format!("{}/{}/{:020}", url.trim_end_matches('/'), covers.name, covers.last().unwrap_or(0)))
}

fn token(variable: &str) -> Result<HeaderValue, String> {
    let token = std::env::var(variable).map_err(|_| format!("the environment variable `{variable}` is not set"))?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim())).map_err(|_| format!("`{variable}` is not a token"))?;
    value.set_sensitive(true);
    Ok(value)
}
