//! The one of three ways to a server.

use std::sync::Arc;

use super::http_link::HttpLink;
use super::old_sse::OldSseLink;
use super::request::{Exchange, Reply};
use super::stdio::StdioLink;
use crate::error::Error;

/// A way to a server.
#[derive(Clone, Debug)]
pub(super) enum Link {
    Http(Arc<HttpLink>),
    Stdio(Arc<StdioLink>),
    OldSse(Arc<OldSseLink>),
}

impl Link {
    /// Sends the request and waits for its answer. Dropped before that, the request is withdrawn or cancelled.
    ///
    /// # Errors
    /// When there is no answer; the effect says whether anything had left.
    pub(super) async fn exchange(&self, exchange: &Exchange<'_>) -> Result<Reply, Error> {
        match self {
            Self::Http(link) => link.exchange(exchange).await,
            Self::Stdio(link) => link.exchange(exchange).await,
            // Boxed, since it is rare and would make the state of every call larger.
            Self::OldSse(link) => Box::pin(link.exchange(exchange)).await,
        }
    }

    /// Whether it takes no calls any more.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Http(link) => link.gone.is_cancelled(),
            Self::Stdio(link) => link.is_gone(),
            Self::OldSse(link) => link.is_gone(),
        }
    }

    /// Waits until the link itself is gone and says why. An HTTP link only goes when a look at the server fails.
    pub(super) async fn lost(&self) -> String {
        match self {
            Self::Http(link) => {
                link.gone.cancelled().await;
                "stopped".to_owned()
            }
            Self::Stdio(link) => link.lost().await,
            Self::OldSse(link) => link.lost().await,
        }
    }

    /// Ends it, and what it holds on the server; does not wait.
    pub(super) fn close(&self) {
        match self {
            Self::Http(link) => link.close(),
            Self::Stdio(link) => link.close(),
            Self::OldSse(link) => link.close(),
        }
    }
}
