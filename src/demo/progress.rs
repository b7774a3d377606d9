//! Progress of one call, as its client asked for it or not.

use super::protocol::Era;
use serde_json::Value;
use tokio::sync::mpsc;

/// Where the steps of one call are told. Without a token nobody asked, and nothing is sent.
pub(super) struct Progress {
    pub(super) era: Era,
    pub(super) token: Option<Value>,
    pub(super) out: mpsc::Sender<Value>,
}

impl Progress {
    /// Tells that `done` of `total` steps are done, and what that means.
    pub(super) async fn step(&self, done: usize, total: usize, message: &str) {
        if let Some(token) = &self.token {
            // Nobody reads any more when this fails; the session ends by it.
            let _ = self.out.send(self.era.progress(token, done, total, message)).await;
        }
    }
}
