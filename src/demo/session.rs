//! One client on one pipe: lines in, lines out, calls side by side.
//!
//! Owns: reading, ordering, cancelling, draining. Leaves to others: wire forms (`protocol`), tools (`call`).
//!
//! INVARIANT: a request is answered once, or not at all when the client cancelled it; no notification about it follows its answer.
//! INVARIANT: what waits is bounded: the length of a line, the calls under way, the messages not yet written.

use super::Options;
use super::call::{Call, DEFINITIONS, Unfit};
use super::notes::Notes;
use super::progress::Progress;
use super::protocol::{self, Era, Incoming, RpcError};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::future::{Future, ready};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

// A note of 256 KiB in which every byte is escaped as \u00xx takes 1.5 MiB.
const MAX_LINE_BYTES: usize = 2 * 1024 * 1024;
const MAX_UNDER_WAY: usize = 64;
const MAX_UNWRITTEN: usize = 64;

type Reply = Pin<Box<dyn Future<Output = Option<Value>> + Send>>;
type UnderWay = Arc<Mutex<HashMap<String, CancellationToken>>>;

/// Serves one client until `reader` ends and the calls under way are answered.
///
/// # Errors
/// When a folder of `options` cannot be opened, or `reader` or `writer` fails.
pub async fn serve<R, W>(reader: R, writer: W, options: Options) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let drain = options.drain;
    let notes = tokio::task::spawn_blocking(move || Notes::open(&options)).await.map_err(io::Error::other)??;
    let (out, lines) = mpsc::channel(MAX_UNWRITTEN);
    let mut session = Session {
        notes: Arc::new(notes),
        definitions: serde_json::from_str(DEFINITIONS)?,
        agreed: None,
        under_way: UnderWay::default(),
        tasks: TaskTracker::new(),
        out: out.clone(),
    };
    let writing = tokio::spawn(write_lines(writer, lines));
    let read = tokio::select! {
        read = session.read_lines(reader) => read,
        // The writer only goes when it failed, and its error is the one to report.
        () = out.closed() => Ok(()),
    };
    session.drain(drain).await;
    drop((session, out));
    let written = writing.await.map_err(io::Error::other)?;
    read.and(written)
}

struct Session {
    notes: Arc<Notes>,
    definitions: Vec<Value>,
    agreed: Option<&'static str>,
    under_way: UnderWay,
    tasks: TaskTracker,
    out: mpsc::Sender<Value>,
}

impl Session {
    async fn read_lines(&mut self, reader: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            match next_line(&mut reader, &mut line).await? {
                Line::End => return Ok(()),
                Line::TooLong => {
                    let text = format!("a message may have {MAX_LINE_BYTES} bytes");
                    self.send(RpcError::new(protocol::INVALID_REQUEST, text).message(None)).await;
                }
                Line::Whole if line.trim_ascii().is_empty() => {}
                Line::Whole => self.take(&line).await,
            }
        }
    }

    /// Takes one line: answers it later, from a task of its own.
    async fn take(&mut self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Err(_) => self.send(RpcError::new(protocol::PARSE_ERROR, "the line is not JSON").message(None)).await,
            Ok(Value::Array(messages)) => self.take_batch(messages).await,
            Ok(message) => {
                let Some(reply) = self.begin(message) else { return };
                let out = self.out.clone();
                self.tasks.spawn(async move {
                    if let Some(reply) = reply.await {
                        // Nobody reads any more when this fails; the session ends by it.
                        let _ = out.send(reply).await;
                    }
                });
            }
        }
    }

    /// Takes an array of messages, whose answers go back as one array.
    async fn take_batch(&mut self, messages: Vec<Value>) {
        let allowed = self.agreed == Some(protocol::WITH_BATCHES) && !messages.is_empty() && messages.len() <= MAX_UNDER_WAY;
        if !allowed {
            let text = "arrays of messages are taken in revision 2025-03-26 only, with 1 to 64 messages";
            return self.send(RpcError::new(protocol::INVALID_REQUEST, text).message(None)).await;
        }
        let begun: Vec<Reply> = messages.into_iter().filter_map(|message| self.begin(message)).collect();
        let replies: Vec<_> = begun.into_iter().map(|reply| self.tasks.spawn(reply)).collect();
        let out = self.out.clone();
        self.tasks.spawn(async move {
            let mut answers = Vec::new();
            for reply in replies {
                answers.extend(reply.await.ok().flatten());
            }
            if !answers.is_empty() {
                let _ = out.send(Value::Array(answers)).await;
            }
        });
    }

    /// What must happen in the order of arrival happens here; the reply is made when it is polled.
    fn begin(&mut self, message: Value) -> Option<Reply> {
        match Incoming::read(message) {
            Err((id, error)) => Some(now(error.message(id))),
            Ok(Incoming::Response) => None,
            Ok(Incoming::Notification { method, params }) => {
                if method == "notifications/cancelled" {
                    self.cancel(params.get("requestId"));
                }
                None
            }
            Ok(Incoming::Request { id, method, params }) => match self.dispatch(&id, &method, params) {
                Ok(reply) => Some(reply),
                Err(error) => Some(now(error.message(Some(id)))),
            },
        }
    }

    fn dispatch(&mut self, id: &Value, method: &str, params: Map<String, Value>) -> Result<Reply, RpcError> {
        let era = Era::of(method, &params, self.agreed)?;
        let result = match (method, era) {
            ("server/discover", Era::Modern) => protocol::discovery(),
            ("initialize", Era::Legacy(_)) => {
                let agreed = protocol::agree(&params);
                self.agreed = Some(agreed);
                protocol::handshake(agreed)
            }
            ("ping", Era::Legacy(_)) => Map::new(),
            ("tools/list" | "tools/call", Era::Legacy(None)) => {
                let text = "send `initialize` first, or requests of revision 2026-07-28 with their `_meta`";
                return Err(RpcError::new(protocol::INVALID_PARAMS, text));
            }
            ("tools/list", era) => {
                if params.contains_key("cursor") {
                    return Err(RpcError::new(protocol::INVALID_PARAMS, "unknown cursor: the list has one page"));
                }
                era.tools_list(&self.definitions)
            }
            ("tools/call", era) => return self.call(id.clone(), era, params),
            _ => return Err(RpcError::new(protocol::METHOD_NOT_FOUND, "method not found")),
        };
        Ok(now(era.answer(id.clone(), result)))
    }

    fn call(&self, id: Value, era: Era, mut params: Map<String, Value>) -> Result<Reply, RpcError> {
        let invalid = |text: &str| RpcError::new(protocol::INVALID_PARAMS, text);
        let Some(Value::String(tool)) = params.remove("name") else { return Err(invalid("`name` must be a string")) };
        let arguments = match params.remove("arguments") {
            None => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(invalid("`arguments` must be an object")),
        };
        let call = match Call::parse(&tool, arguments) {
            Ok(call) => call,
            Err(Unfit::UnknownTool) => return Err(invalid("unknown tool")),
            Err(Unfit::Arguments(fault)) => {
                let text = format!("The arguments do not fit {tool}: {fault}. Its inputSchema says what does.");
                return Ok(now(era.answer(id, protocol::call_failure(&text))));
            }
        };
        let token = params.get("_meta").and_then(|meta| meta.get("progressToken")).cloned();
        let (started, cancelled) = Started::new(&self.under_way, &id)?;
        let (notes, progress) = (Arc::clone(&self.notes), Progress { era, token, out: self.out.clone() });
        Ok(Box::pin(async move {
            let ended = tokio::select! {
                biased;
                () = cancelled.cancelled() => None,
                ended = call.run(notes, progress) => Some(ended),
            };
            // Its id is free again before the answer is out, so that a client may use it at once.
            drop(started);
            let result = match ended? {
                Ok(answer) => era.call_result(&answer.text, answer.structured),
                Err(fault) => protocol::call_failure(&fault.to_string()),
            };
            Some(era.answer(id, result))
        }))
    }

    /// Stops a call; an id that is not under way may just have been answered, so it is ignored.
    fn cancel(&self, id: Option<&Value>) {
        let calls = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = id.and_then(|id| calls.get(&id.to_string())) {
            call.cancel();
        }
    }

    /// Lets the calls under way end, but for no longer than `longest`.
    async fn drain(&self, longest: Duration) {
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => return,
            () = self.out.closed() => {}
            () = tokio::time::sleep(longest) => {}
        }
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(CancellationToken::cancel);
        self.tasks.wait().await;
    }

    async fn send(&self, message: Value) {
        let _ = self.out.send(message).await;
    }
}

/// A call's entry among those under way; gone when the call is, however it ended.
struct Started {
    under_way: UnderWay,
    id: String,
}

impl Started {
    fn new(under_way: &UnderWay, id: &Value) -> Result<(Self, CancellationToken), RpcError> {
        let mut calls = under_way.lock().unwrap_or_else(PoisonError::into_inner);
        // As JSON text, in which 1 and "1" differ.
        let id = id.to_string();
        if calls.contains_key(&id) {
            return Err(RpcError::new(protocol::INVALID_REQUEST, "a request with this id is still under way"));
        }
        if calls.len() >= MAX_UNDER_WAY {
            return Err(RpcError::new(protocol::INTERNAL, "64 calls are under way; wait for one to end"));
        }
        let cancelled = CancellationToken::new();
        calls.insert(id.clone(), cancelled.clone());
        Ok((Self { under_way: Arc::clone(under_way), id }, cancelled))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

enum Line {
    Whole,
    TooLong,
    End,
}

/// Reads the next line into `line`. One that is too long is passed over to its end, and costs no memory.
async fn next_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    let mut is_too_long = false;
    loop {
        let read = reader.fill_buf().await?;
        let end = read.iter().position(|byte| *byte == b'\n');
        let part = &read[..end.unwrap_or(read.len())];
        is_too_long |= line.len() + part.len() > MAX_LINE_BYTES;
        if !is_too_long {
            line.extend_from_slice(part);
        }
        let (used, is_end_of_file) = (part.len() + usize::from(end.is_some()), read.is_empty());
        reader.consume(used);
        // What comes after the last line end was cut off by the client's death: not a message.
        match (end, is_end_of_file, is_too_long) {
            (None, true, _) => return Ok(Line::End),
            (None, false, _) => {}
            (Some(_), _, true) => return Ok(Line::TooLong),
            (Some(_), _, false) => return Ok(Line::Whole),
        }
    }
}

async fn write_lines(mut writer: impl AsyncWrite + Unpin, mut lines: mpsc::Receiver<Value>) -> io::Result<()> {
    while let Some(message) = lines.recv().await {
        let mut line = serde_json::to_vec(&message)?;
        line.push(b'\n');
        writer.write_all(&line).await?;
        writer.flush().await?;
    }
    writer.shutdown().await
}

fn now(message: Value) -> Reply {
    Box::pin(ready(Some(message)))
}
