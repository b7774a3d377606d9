//! Checkpoints as objects of an HTTP store, each under a name of its own, so that a store with a retention lock keeps every one.
//!
//! What a store took is read back once: one that keeps nothing, or something else, has failed. A store may forbid the reading.

use std::io;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, IF_NONE_MATCH};
use http::{StatusCode, Uri};

use super::Checkpoint;
use crate::config::PutAnchor;
use crate::fetch::{self, Document};

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
    headers.remove(IF_NONE_MATCH);
    let there = async { fetch::get_with(&url, headers).await.map_err(io::Error::other) };
    match answer.status {
        status if status.is_success() => kept(note, &there.await?),
        StatusCode::PRECONDITION_FAILED => {
            let there = there.await?;
            // An earlier attempt came through although its answer did not. Anything else is another log of this name: one was copied.
            let is_ours = there.status.is_success() && *there.body == *note.as_bytes();
            if is_ours { Ok(()) } else { Err(io::Error::other("another checkpoint stands there: does another log have this name?")) }
        }
        status => Err(io::Error::other(format!("the server answered {status}"))),
    }
}

/// Whether what was taken is there.
fn kept(note: &str, there: &Document) -> io::Result<()> {
    match there.status {
        // A token that may only write is a good one for this.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(()),
        status if status.is_success() && *there.body == *note.as_bytes() => Ok(()),
        status if status.is_success() => Err(io::Error::other("the server took the checkpoint and keeps something else")),
        status => Err(io::Error::other(format!("the server took the checkpoint and does not have it: it answered {status}"))),
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
