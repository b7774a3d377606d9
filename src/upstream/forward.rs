//! The stage *forward* of the path: a recorded call in, the server's answer out.
//!
//! INVARIANT: what is sent is what was recorded: name, arguments and id come out of the [`Recorded`] proof.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Notice, Reply, Request, Sent, Slot, Upstream};
use crate::audit::trail::Recorded;
use crate::error::Error;
use crate::mcp::json::Node;
use crate::mcp::messages::{Downstream, Meta};

/// Progress of one call that waits to be passed on; a faster server's is dropped.
const MAX_NOTICES: usize = 16;

impl Upstream {
    /// Sends a recorded call to its server and waits for the answer, its deadline, or the agent's cancellation.
    ///
    /// # Errors
    /// What failed on the way, and whether the call may have taken effect.
    pub async fn forward(
        &self,
        recorded: &Recorded<'_>,
        slot: Slot,
        meta: Meta<'_, '_>,
        message: &[u8],
        downstream: &dyn Downstream,
    ) -> Result<Reply, Error> {
        let (invocation, sent) = (recorded.invocation(), Sent::default());
        let target = invocation.target;
        let relayed = meta.relayed(message);
        let token = meta.progress_token();
        let (notices, mut told) = token.map(|_| mpsc::channel(MAX_NOTICES)).unzip();
        let request = Request {
            method: invocation.method.as_str(),
            name: &target.own_name,
            arguments: Some(invocation.arguments.text()),
            meta: &relayed,
            headers: &[],
            session_key: &invocation.caller.principal.id,
            notices: notices.as_ref(),
            log_level: None,
            cancel: downstream.cancelled(),
            deadline: Instant::now() + Duration::from_millis(target.timeout_ms),
            max_result_bytes: target.max_result_bytes,
            idempotent: target.is_idempotent(),
            tag: invocation.id.as_u128(),
            sent: &sent,
        };
        let mut call = std::pin::pin!(self.call(&slot, request));
        let (Some(token), Some(told)) = (token, told.as_mut()) else { return call.await };
        loop {
            tokio::select! {
                biased;
                Some(notice) = told.recv() => pass_on(&notice, token, message, downstream),
                reply = &mut call => {
                    while let Ok(notice) = told.try_recv() {
                        pass_on(&notice, token, message, downstream);
                    }
                    return reply;
                }
            }
        }
    }
}

/// Passes progress on under the agent's own token.
fn pass_on(notice: &Notice, token: &Node<'_>, message: &[u8], downstream: &dyn Downstream) {
    let Notice::Progress(params) = notice else { return };
    let Some(rest) = params.strip_prefix(b"{") else { return };
    let mut out = Vec::with_capacity(params.len() + 64);
    out.extend_from_slice(b"{\"progressToken\":");
    out.extend_from_slice(token.text(message));
    if !rest.starts_with(b"}") {
        out.push(b',');
    }
    out.extend_from_slice(rest);
    downstream.notify("notifications/progress", &out);
}
