//! MCP over a pair of byte streams, one message a line, both eras on one pipe: `doorward stdio`, `doorward wrap`, and what
//! comes through the admin socket.
//!
//! INVARIANT: nothing but MCP is written; a line beyond the bound is skipped to its end and answered with an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::asks::Back;
use super::changes::{self, Changes};
use super::dispatch::{InFlight, Side, Turn};
use super::stream::notification;
use super::subscribe::{self, Listening};
use super::{Service, headers, level};
use crate::error::{Code, Error};
use crate::gateway::Gateway;
use crate::identity::Principal;
use crate::invocation::Caller;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::framing::unbroken;
use crate::mcp::json::{self, Node, Value};
use crate::mcp::jsonrpc::{Id, Message, message};
use crate::mcp::messages::{Downstream, Meta};
use crate::mcp::respond;
use crate::mcp::revision::Revision;

/// Messages that wait for a slow reader; then its requests wait too.
const MAX_WAITING: usize = 256;

static CONVERSATIONS: AtomicU64 = AtomicU64::new(1);

/// Serves one client until it closes its side, then lets its calls finish.
pub async fn serve(
    service: Service,
    principal: Principal,
    transport: &'static str,
    peer: Option<Arc<str>>,
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin + Send + 'static,
) {
    let (out, lines) = mpsc::channel(MAX_WAITING);
    let writing = tokio::spawn(write(lines, writer));
    let conversation: Arc<str> = format!("{transport}-{}", CONVERSATIONS.fetch_add(1, Ordering::Relaxed)).into();
    let mut client = Client {
        caller: Caller {
            principal,
            transport,
            revision: None,
            client: None,
            capabilities: Capabilities::default(),
            log_level: None,
            timeout: None,
            trace: None,
            peer,
            session: Some(Arc::clone(&conversation)),
        },
        conversation,
        negotiated: None,
        declared: Capabilities::default(),
        calls: TaskTracker::new(),
        left: CancellationToken::new(),
        service,
        out,
    };
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let stopping = client.service.stopping().clone();
    loop {
        let line = tokio::select! {
            line = line(&mut reader, client.service.bounds().max_line_bytes.size()) => line,
            () = stopping.cancelled() => break,
        };
        match line {
            Line::Whole(line) => client.take(line).await,
            Line::TooLong => client.too_long().await,
            Line::End => break,
        }
    }
    client.left.cancel();
    client.calls.close();
    client.calls.wait().await;
    client.service.streams().end(&client.conversation);
    drop(client);
    let _ = writing.await;
}

async fn write(mut lines: mpsc::Receiver<Bytes>, mut writer: impl AsyncWrite + Unpin) {
    while let Some(line) = lines.recv().await {
        let written = async {
            writer.write_all(&unbroken(line)).await?;
            writer.write_all(b"\n").await?;
            writer.flush().await
        };
        if written.await.is_err() {
            // Nobody reads any more; what is under way still ends with its record.
            return;
        }
    }
}

enum Line {
    Whole(Bytes),
    TooLong,
    End,
}

async fn line(reader: &mut (impl AsyncBufReadExt + Unpin), limit: usize) -> Line {
    let (mut line, mut skipping) = (Vec::new(), false);
    loop {
        let available = match reader.fill_buf().await {
            Ok(available) if !available.is_empty() => available,
            _ => return Line::End,
        };
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        if line.len() + taken.len() > limit {
            skipping = true;
            line.clear();
        }
        if !skipping {
            line.extend_from_slice(taken);
        }
        let used = end.map_or(available.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            return if skipping { Line::TooLong } else { Line::Whole(line.into()) };
        }
    }
}

struct Client {
    caller: Caller,
    conversation: Arc<str>,
    negotiated: Option<Revision>,
    declared: Capabilities,
    calls: TaskTracker,
    /// Ends what tells the client of changes; its calls go on.
    left: CancellationToken,
    service: Service,
    out: mpsc::Sender<Bytes>,
}

impl Client {
    async fn too_long(&self) {
        let limit = self.service.bounds().max_line_bytes.value();
        let error = Error::new(Code::PayloadTooLarge, format!("the line has more than {limit} bytes"));
        self.refuse(&self.caller, "unread", None, error).await;
    }

    async fn refuse(&self, caller: &Caller, method: &str, id: Option<&Id>, error: Error) {
        let answer = self.service.gateway().refuse(caller, method, id, error).await;
        if let Err(error) = answer.outcome {
            let _ = self.out.send(respond::error(id, &error, &answer.invocation)).await;
        }
    }

    async fn unread(&self, line: &[u8], error: Error) {
        let answer = self.service.gateway().unread(&self.caller, line, error).await;
        if let Err(error) = answer.outcome {
            let _ = self.out.send(respond::error(None, &error, &answer.invocation)).await;
        }
    }

    async fn take(&mut self, line: Bytes) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let document = match json::parse(&line, self.service.limits()) {
            Ok(document) => document,
            Err(fault) => {
                let error = Error::new(Code::MalformedRequest, format!("the line cannot be read: {fault}")).wire(-32700, 400);
                return self.unread(&line, error).await;
            }
        };
        if matches!(&document.value, Value::Array(_)) && self.negotiated.is_some_and(Revision::has_batches) {
            return self.batch(line.clone());
        }
        match message(&document) {
            Err(error) => self.unread(&line, error).await,
            Ok(Message::Request { id, method, params }) => match self.settle(method, params) {
                Err(error) => self.refuse(&self.caller, method, Some(&id), error).await,
                // The handshake is answered in order: what follows it depends on it.
                Ok((revision, caller)) if method == "initialize" => self.initialize(revision, &caller, &id, params, &line).await,
                Ok((revision, caller)) => self.request(revision, caller, line.clone()),
            },
            Ok(Message::Notification { method, params }) => self.notification(method, params, &line).await,
            Ok(answer @ (Message::Result { .. } | Message::Failure { .. })) => {
                // One that nobody waits for any more is late, and no fault.
                self.service.asks().answered(&self.conversation, &answer, &line);
            }
        }
    }

    fn settle(&self, method: &str, params: Option<&Node<'_>>) -> Result<(Revision, Caller), Error> {
        let meta = Meta::of(params);
        let mut caller = self.caller.clone();
        let revision = if meta.is_modern() {
            caller.client = meta.client();
            caller.capabilities = meta.capabilities();
            caller.log_level = meta.log_level();
            headers::check_modern(None, method, params)?
        } else if method == "initialize" || method == "ping" {
            self.negotiated.unwrap_or(Revision::NEWEST_LEGACY)
        } else {
            self.negotiated.ok_or_else(|| {
                let message = "the request came before `initialize` and describes itself by no `_meta`";
                Error::new(Code::SessionInvalid, message).wire(-32600, 400)
            })?
        };
        self.describe(&mut caller, revision);
        Ok((revision, caller))
    }

    /// Who speaks a handshake revision has said at its beginning what each message of the other says of itself.
    fn describe(&self, caller: &mut Caller, revision: Revision) {
        if !revision.is_modern() {
            caller.capabilities = self.declared;
            caller.log_level = Some(self.service.streams().level(&self.conversation).unwrap_or(level::UNSET));
        }
        caller.revision = Some(revision);
    }

    async fn initialize(&mut self, revision: Revision, caller: &Caller, id: &Id, params: Option<&Node<'_>>, line: &Bytes) {
        let (gateway, downstream) = (self.service.gateway(), self.downstream(CancellationToken::new()));
        let wire = downstream.turn(&gateway, caller, revision, line).request(id, "initialize", params).await;
        if let Some(settled) = wire.negotiated {
            self.caller.client = settled.client;
            self.declared = settled.capabilities;
            let is_first = self.negotiated.replace(settled.revision).is_none();
            let _ = self.out.send(wire.body).await;
            if is_first {
                self.calls.spawn(self.follow());
            }
            return;
        }
        let _ = self.out.send(wire.body).await;
    }

    /// Tells the client of changes until it leaves.
    fn follow(&self) -> impl Future<Output = ()> + Send + use<> {
        let (service, principal, conversation) = (self.service.clone(), self.caller.principal.clone(), Arc::clone(&self.conversation));
        let (out, left, mut changes) = (self.out.clone(), self.left.clone(), Changes::of(&self.service));
        async move {
            while let Some(changed) = left.run_until_cancelled(changes.next()).await {
                let wanted = changed.iter().filter(|change| service.streams().wants(&conversation, change));
                for (method, params) in wanted.filter_map(|change| changes::told(&service, &principal, change)) {
                    if left.run_until_cancelled(out.send(notification(method, &params))).await.is_none_or(|sent| sent.is_err()) {
                        return;
                    }
                }
            }
        }
    }

    async fn notification(&self, method: &str, params: Option<&Node<'_>>, line: &Bytes) {
        let (gateway, downstream) = (self.service.gateway(), self.downstream(CancellationToken::new()));
        let revision = self.negotiated.unwrap_or(Revision::NEWEST);
        // Nothing answers a notification on a pipe: a refusal is in the record alone.
        downstream.turn(&gateway, &self.caller, revision, line).notification(method, params).await;
    }

    /// Runs an array of messages like one request.
    fn batch(&self, line: Bytes) {
        let Some(revision) = self.negotiated else { return };
        let (counted, mut caller) = (self.service.0.tasks.token(), self.caller.clone());
        self.describe(&mut caller, revision);
        let downstream = self.downstream(self.service.0.give_up.child_token());
        self.calls.spawn(async move {
            let _counted = counted;
            let Ok(document) = json::parse(&line, downstream.service.limits()) else { return };
            let Value::Array(items) = &document.value else { return };
            let gateway = downstream.service.gateway();
            let body = match downstream.turn(&gateway, &caller, revision, &line).batch(items, false).await {
                Ok(wire) => wire.map(|wire| wire.body),
                Err(error) => {
                    let refused = gateway.unread(&caller, &line, error).await;
                    refused.outcome.err().map(|error| respond::error(None, &error, &refused.invocation))
                }
            };
            if let Some(body) = body {
                let _ = downstream.out.send(body).await;
            }
        });
    }

    /// Runs a request in a task of its own. Both the task and the service count it, so that either can wait for it.
    fn request(&self, revision: Revision, caller: Caller, line: Bytes) {
        let (counted, left) = (self.service.0.tasks.token(), self.left.clone());
        let downstream = self.downstream(self.service.0.give_up.child_token());
        self.calls.spawn(async move {
            let _counted = counted;
            let (service, cancel) = (&downstream.service, &downstream.cancel);
            // Parsed once more because the document borrows from the line, which now belongs to this task.
            let Ok(document) = json::parse(&line, service.limits()) else { return };
            let Ok(Message::Request { id, method, params }) = message(&document) else { return };
            if revision.is_modern() && method == subscribe::METHOD {
                let listening = Listening { service, caller: &caller, id: &id, downstream: &downstream, cancel };
                return Box::pin(listen(listening, params, &downstream, &left)).await;
            }
            let gateway = service.gateway();
            let wire = downstream.turn(&gateway, &caller, revision, &line).request(&id, method, params).await;
            // A request that the client has cancelled is not answered any more (2025-11-25 and 2026-07-28, cancellation).
            if !cancel.is_cancelled() || service.0.give_up.is_cancelled() {
                let _ = downstream.out.send(wire.body).await;
            }
        });
    }

    fn downstream(&self, cancel: CancellationToken) -> StdioDownstream {
        let (service, conversation) = (self.service.clone(), Arc::clone(&self.conversation));
        StdioDownstream { service, conversation, out: self.out.clone(), cancel }
    }
}

/// A subscription on a pipe: ended by its end, by the client's leaving, or by a `notifications/cancelled` with its id.
async fn listen(
    listening: Listening<'_>,
    params: Option<&Node<'_>>,
    StdioDownstream { conversation, out, .. }: &StdioDownstream,
    left: &CancellationToken,
) {
    let Some(_listed) = InFlight::enter(listening.service, conversation, listening.id, listening.cancel) else {
        let error = Error::new(Code::MalformedRequest, "the id is that of a request which is still under way");
        let refused = listening.service.gateway().refuse(listening.caller, subscribe::METHOD, Some(listening.id), error).await;
        let body = refused.outcome.err().map(|error| respond::error(Some(listening.id), &error, &refused.invocation));
        let _ = out.send(body.unwrap_or_default()).await;
        return;
    };
    let ended = tokio::select! {
        ended = listening.run(params) => ended,
        () = left.cancelled() => return,
    };
    let body = match ended {
        _ if listening.cancel.is_cancelled() && !listening.service.0.give_up.is_cancelled() => return,
        Ok(body) => {
            // On a pipe nothing else closes when a subscription does (2026-07-28, cancellation).
            let params = format!("{{\"requestId\":{}}}", listening.id.as_json());
            let _ = out.send(notification("notifications/cancelled", params.as_bytes())).await;
            Some(body)
        }
        Err(refused) => refused.outcome.err().map(|error| respond::error(Some(listening.id), &error, &refused.invocation)),
    };
    let _ = out.send(body.unwrap_or_default()).await;
}

/// The way back to an agent on a pipe, for one line of it.
struct StdioDownstream {
    service: Service,
    conversation: Arc<str>,
    out: mpsc::Sender<Bytes>,
    cancel: CancellationToken,
}

impl StdioDownstream {
    fn turn<'t>(&'t self, gateway: &'t Gateway, caller: &'t Caller, revision: Revision, text: &'t [u8]) -> Turn<'t> {
        Turn {
            service: &self.service,
            gateway,
            caller,
            revision,
            conversation: Some(&self.conversation),
            text,
            // A message of 2026-07-28 has no headers on a pipe, and its sender is asked nothing.
            side: if revision.is_modern() { Side::Modern(None) } else { Side::Handshake(self) },
            buffers: None,
            downstream: self,
            cancel: &self.cancel,
        }
    }
}

impl Back for StdioDownstream {
    fn send(&self, message: Bytes) -> bool {
        self.out.try_send(message).is_ok()
    }
}

impl Downstream for StdioDownstream {
    fn notify(&self, method: &str, params: &[u8]) {
        // Progress is worth less than the answers behind it: with a full queue it is dropped.
        let _ = self.out.try_send(notification(method, params));
    }

    fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }
}
