//! The link to a server on pipes.
//!
//! Owns: our ids, the queue of lines, the reader and the writer. Leaves to others: the process (`child`), and who waits for
//! which answer (`pending`).
//! INVARIANT: each waiting call gets exactly one answer or the news that the link is gone.
//! INVARIANT: no lock is held across an await; a pipe that takes no more bytes delays a call no longer than its deadline.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::asking::{self, Question};
use super::child::{Begun, Process};
use super::inbound::{self, Inbound};
use super::pace::{Pace, Said};
use super::pending::{Answer, Owner, Pending};
use super::request::{Exchange, Outcome, Part, Reply, Sent};
use super::salvage;
use super::shared::Shared;
use super::wire;
use super::words::{self, printable};
use super::{Launch, usage};
use crate::catalog::transport::Command;
use crate::error::{Code, Effect, Error};
use crate::mcp::framing::one_line;
use crate::mcp::log_level::LogLevel;
use crate::mcp::revision::{Era, Revision};

/// Lines that wait for the pipe; a call beyond that waits for room until its deadline.
const MAX_QUEUED_LINES: usize = 64;
/// What is read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// How long the last lines of a server that has ended may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long standard error is read on once the link is gone: the time that the group's end may take.
const LAST_LOG: Duration = Duration::from_secs(5);

/// Why a link is gone.
#[derive(Clone, Debug)]
pub(super) enum Gone {
    /// The server ended, or was ended.
    Ended(String),
    /// The server broke the protocol.
    Protocol(String),
}

/// A link to one process.
#[derive(Debug)]
pub(super) struct StdioLink {
    shared: Arc<Shared>,
    version: OnceLock<Revision>,
    lines: mpsc::Sender<Line>,
    next_id: AtomicU64,
    pending: Pending,
    /// Cancelled when the link is gone, or is to go.
    gone: CancellationToken,
    why: OnceLock<Gone>,
    /// The id of `subscriptions/listen`, 0 while there is none.
    listening: AtomicU64,
    /// The server has ended that request.
    pub(super) unheard: Notify,
    /// The server has said that its lists changed, and nobody has asked since whether it did.
    changed: AtomicBool,
}

#[derive(Debug)]
struct Line {
    bytes: Bytes,
    sent: Sent,
}

impl Line {
    fn new(message: Vec<u8>, sent: Sent) -> Self {
        let mut bytes = one_line(message);
        bytes.push(b'\n');
        Self { bytes: bytes.into(), sent }
    }
}

impl StdioLink {
    /// Starts the process and its tasks; they end when [`StdioLink::close`] is called or the upstream stops.
    ///
    /// # Errors
    /// When the process cannot be started; the text is for the operator.
    pub(super) async fn open(command: &Command, launch: &Launch, shared: &Arc<Shared>) -> Result<Arc<Self>, String> {
        let Begun { process, pipes: (stdin, stdout, stderr), started, secrets, bounds } =
            Process::start(command, &launch.ground, &launch.way_in).await?;
        shared.has_started(started).await;
        let (lines, queue) = mpsc::channel(MAX_QUEUED_LINES);
        let link = Arc::new(Self {
            shared: Arc::clone(shared),
            version: OnceLock::new(),
            lines,
            next_id: AtomicU64::new(1),
            pending: Pending::default(),
            gone: shared.stop.child_token(),
            why: OnceLock::new(),
            listening: AtomicU64::new(0),
            unheard: Notify::new(),
            changed: AtomicBool::new(false),
        });
        let tasks = &shared.tasks;
        let (log, gone) = (words::log(Arc::clone(&shared.id), stderr, secrets), link.gone.clone());
        tasks.spawn(async move {
            // Its last words matter most; but whoever inherited standard error and left the group must not hold us up.
            let over = async {
                gone.cancelled().await;
                sleep(LAST_LOG).await;
            };
            tokio::select! { () = log => {}, () = over => {} }
        });
        tasks.spawn(Arc::clone(&link).write(stdin, queue));
        tasks.spawn(Arc::clone(&link).read(stdout));
        tasks.spawn(Arc::clone(&link).watch(process, bounds));
        Ok(link)
    }

    /// Tells which revision was agreed on.
    pub(super) fn agreed(&self, version: Revision) {
        let _ = self.version.set(version);
    }

    /// Which revision was agreed on; `None` in the handshake.
    pub(super) fn version(&self) -> Option<Revision> {
        self.version.get().copied()
    }

    /// Ends the link and the process; does not wait for them.
    pub(super) fn close(&self) {
        self.gone.cancel();
    }

    /// Whether it takes no calls any more.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Whether the server has said that its lists changed since this was last asked.
    pub(super) fn says_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// Ends the link with what holds the returned guard.
    pub(super) fn closer(&self) -> tokio_util::sync::DropGuard {
        self.gone.clone().drop_guard()
    }

    /// Waits until the link is gone and says why.
    pub(super) async fn lost(&self) -> String {
        self.gone.cancelled().await;
        match self.why.get() {
            Some(Gone::Ended(reason) | Gone::Protocol(reason)) => reason.clone(),
            None => "stopped".to_owned(),
        }
    }

    /// Sends the request and waits for its answer. Dropped before that, the request is withdrawn or cancelled.
    ///
    /// # Errors
    /// When the link is gone first, or the answer cannot be read.
    pub(super) async fn exchange(&self, exchange: &Exchange<'_>) -> Result<Reply, Error> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let bytes = wire::request(exchange, id);
        let (answer, answered) = oneshot::channel();
        let Some(_call) = self.enlist(id, exchange, answer) else { return Err(self.broke(exchange)) };
        let Ok(room) = self.lines.reserve().await else { return Err(self.broke(exchange)) };
        room.send(Line::new(bytes, exchange.sent.clone()));
        match answered.await {
            Ok(Ok((body, outcome))) => {
                let version = self.version.get().copied().unwrap_or(Revision::NEWEST);
                Ok(Reply { body, version, outcome, begun: false, is_5xx: false })
            }
            Ok(Err(fault)) => Err(exchange.fault(Code::UpstreamProtocolError, "the answer is not MCP").operator(fault.0)),
            Err(_) => Err(self.broke(exchange)),
        }
    }

    /// Sends a notification, if the queue has room.
    pub(super) fn notify(&self, message: Vec<u8>) {
        if self.lines.try_send(Line::new(message, Sent::default())).is_err() {
            tracing::debug!(upstream = %self.shared.id, "a notification to the tool server was left out: its input is full");
        }
    }

    /// Tells a legacy server which log messages are wanted. Nobody waits for its answer: it reads this before the next call.
    pub(super) fn set_level(&self, level: LogLevel) {
        let (sent, members) = (Sent::default(), [("level", Part::Text(level.as_str()))]);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.pending.disregard(id);
        self.notify(wire::request(&Exchange::own(Era::Legacy, "logging/setLevel", &members, &sent), id));
    }

    /// Asks a modern server to tell of these changes, and of those that it was asked for before no longer.
    pub(super) fn listen(&self, filter: Option<&[u8]>) {
        let id = if filter.is_some() { self.next_id.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let old = self.listening.swap(id, Ordering::Relaxed);
        if let Some(filter) = filter {
            let members = [("notifications", Part::Raw(filter))];
            self.notify(wire::request(&Exchange::own(Era::Modern, "subscriptions/listen", &members, &Sent::default()), id));
        }
        if old != 0 {
            self.pending.disregard(old);
            self.notify(wire::cancelled(old));
        }
    }

    /// Whether it was our request to listen that the server has ended: by an answer, or by cancelling it (2026-07-28, stdio).
    fn unheard(&self, id: u64) -> bool {
        let ours = self.listening.compare_exchange(id, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if ours {
            // A server may do both.
            self.pending.disregard(id);
            self.unheard.notify_one();
        }
        ours
    }

    fn broke(&self, exchange: &Exchange<'_>) -> Error {
        match self.why.get() {
            Some(Gone::Protocol(reason)) => {
                exchange.broke(Code::UpstreamProtocolError, "the tool server broke the protocol").operator(reason)
            }
            Some(Gone::Ended(reason)) => exchange.broke(Code::UpstreamDisconnected, "the tool server ended").operator(reason),
            None => exchange.broke(Code::UpstreamDisconnected, "the tool server was stopped"),
        }
    }

    fn enlist<'l>(&'l self, id: u64, exchange: &Exchange<'_>, answer: oneshot::Sender<Answer>) -> Option<Call<'l>> {
        if !self.pending.enlist(id, exchange, answer) {
            return None;
        }
        // A handshake must not be cancelled (2025-11-25, cancellation).
        let cancels = exchange.method != "initialize" && exchange.method != "server/discover";
        Some(Call { link: self, id, sent: exchange.sent.clone(), cancels })
    }

    fn lose(&self, why: Gone) {
        let _ = self.why.set(why);
        self.gone.cancel();
        drop(self.pending.close());
    }

    async fn write(self: Arc<Self>, mut stdin: ChildStdin, mut queue: mpsc::Receiver<Line>) {
        let writing = async {
            while let Some(line) = queue.recv().await {
                if line.sent.claim()
                    && let Err(error) = written(&mut stdin, &line).await
                {
                    self.lose(Gone::Ended(format!("its input is closed: {error}")));
                    return;
                }
            }
        };
        self.gone.run_until_cancelled(writing).await;
    }

    async fn read(self: Arc<Self>, mut stdout: ChildStdout) {
        let why = self.gone.run_until_cancelled(self.read_lines(&mut stdout)).await;
        if let Some(why) = why {
            self.lose(why);
        }
    }

    async fn read_lines(&self, stdout: &mut (impl AsyncRead + Unpin)) -> Gone {
        let (mut buffer, mut scanned) = (BytesMut::with_capacity(READ_BYTES), 0);
        let mut pace = Pace::new(&self.shared.id);
        let limit = self.shared.max_message_bytes;
        loop {
            let found = buffer.get(scanned..).unwrap_or_default().iter().position(|byte| *byte == b'\n');
            let length = found.map_or(buffer.len(), |found| scanned + found);
            if length > limit {
                return Gone::Protocol(format!("a line is longer than {limit} bytes"));
            }
            if found.is_some() {
                let mut line = buffer.split_to(length + 1);
                line.truncate(length);
                scanned = 0;
                let line = line.freeze();
                let said = self.line(&line);
                if let Err(flooded) = pace.after(said, &line, self.version.get().is_some()).await {
                    return Gone::Protocol(flooded.0);
                }
                continue;
            }
            scanned = buffer.len();
            buffer.reserve(READ_BYTES);
            match stdout.read_buf(&mut buffer).await {
                Ok(0) => return Gone::Ended("its output has ended".to_owned()),
                Ok(_) => {}
                Err(error) => return Gone::Ended(format!("its output cannot be read: {error}")),
            }
        }
    }

    fn line(&self, line: &Bytes) -> Said {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Said::Unusable;
        }
        let mut awaited = 0;
        let read = inbound::read(line, self.version.get().copied(), |message| awaited += u32::from(self.message(line, message)));
        let fault = match read {
            Ok(messages) => return Said::Unasked(messages - awaited),
            Err(fault) => fault,
        };
        // An answer must not leave its call waiting. In the handshake it is taken for silence, which has a meaning there.
        if let (Some(id), Some(_)) = (salvage::answered(line), self.version.get()) {
            return if self.answer(id, Err(fault)) { Said::Unasked(0) } else { Said::Unusable };
        }
        // Banners on standard output are common, and harmless once they are left out.
        let start = printable(line.get(..line.len().min(80)).unwrap_or_default());
        tracing::debug!(upstream = %self.shared.id, fault = %fault.0, %start, "a line of the tool server is not MCP and was left out");
        Said::Unusable
    }

    /// Takes in a message; tells whether a call waited for it.
    fn message(&self, line: &Bytes, message: Inbound) -> bool {
        match message {
            Inbound::Answer { id: Some(id), outcome } => return self.answer(id, Ok((line.clone(), outcome))),
            Inbound::Progress { id, params } => self.pending.progress(id, params),
            Inbound::Log { level, params } => self.pending.log(level, params),
            Inbound::ListChanged => {
                self.changed.store(true, Ordering::Release);
                self.shared.changed.notify_one();
            }
            Inbound::Updated(uri) => self.shared.watched.updated(&uri),
            Inbound::Cancelled(id) => {
                let _ = id.as_json().parse().is_ok_and(|id| self.unheard(id));
            }
            Inbound::Asked { id, method, params } => {
                let era = self.version.get().map_or(Era::Legacy, |version| version.era());
                let (call, asker) = self.pending.only_asker(&method);
                let asked = Question { id, method, params: params.unwrap_or_default(), place: None };
                if let Some(answer) = asking::take(&self.shared, era, asked, asker.as_deref(), call) {
                    self.notify(answer);
                }
            }
            Inbound::Answer { id: None, outcome: Outcome::Result(_) } => self.shared.unasked(),
            // An error without an id is about a message that the server could not read.
            Inbound::Answer { id: None, .. } | Inbound::Other => {}
        }
        false
    }

    fn answer(&self, id: u64, answer: Answer) -> bool {
        !self.unheard(id) && self.pending.answer(&self.shared, id, answer)
    }

    async fn watch(self: Arc<Self>, mut process: Process, bounds: Option<(u64, u64)>) {
        let root = process.id();
        tokio::select! {
            reason = usage::excess(root, bounds) => {
                tracing::warn!(upstream = %self.shared.id, %reason, "a tool server is ended");
                // It first: what it would write meanwhile is of no use to anybody.
                process.kill().await;
                return self.lose(Gone::Ended(format!("it was ended: {reason}")));
            }
            status = process.ended() => {
                // Its last lines may still be in the pipe, an answer among them; the reader ends the link behind them.
                let _ = timeout(LAST_WORDS, self.gone.cancelled()).await;
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                self.lose(Gone::Ended(format!("the process has ended ({status})")));
            }
            () = self.gone.cancelled() => self.lose(Gone::Ended("the process was stopped".to_owned())),
        }
        process.end(&self.shared.hurry).await;
    }
}

/// Writes a line. Where not one byte of it went into the pipe, its request was not sent.
async fn written(stdin: &mut ChildStdin, line: &Line) -> std::io::Result<()> {
    let first = match stdin.write(&line.bytes).await {
        Ok(first) if first > 0 => first,
        none => {
            line.sent.unprocessed();
            return none.and(Err(std::io::ErrorKind::WriteZero.into()));
        }
    };
    stdin.write_all(line.bytes.get(first..).unwrap_or_default()).await
}

/// A call under way. Its end without an answer, for whatever reason, withdraws or cancels the request.
struct Call<'l> {
    link: &'l StdioLink,
    id: u64,
    sent: Sent,
    cancels: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let unanswered = matches!(self.link.pending.take(self.id), Owner::Waiting(_));
        if unanswered && self.sent.settle() == Effect::Unknown && self.cancels {
            self.link.notify(wire::cancelled(self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::capabilities::Capabilities;
    use tokio::time::Instant;

    fn link() -> StdioLink {
        let stop = CancellationToken::new();
        let shared = Shared::new("tools", 1 << 20, Capabilities::default(), mpsc::channel(1).0, stop.clone());
        StdioLink {
            shared: Arc::new(shared),
            version: OnceLock::from(Revision::NEWEST),
            lines: mpsc::channel(1).0,
            next_id: AtomicU64::new(1),
            pending: Pending::default(),
            gone: stop,
            why: OnceLock::new(),
            listening: AtomicU64::new(0),
            unheard: Notify::new(),
            changed: AtomicBool::new(false),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_too_much_waits_for_its_pipe() {
        for line in [
            r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#,
            r#"{"jsonrpc":"2.0","id":"p","method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":77,"result":{}}"#,
        ] {
            let (link, begun) = (link(), Instant::now());
            let (mut server, mut pipe) = tokio::io::duplex(4096);
            let saying = async move {
                for _ in 0..20_000 {
                    server.write_all(format!("{line}\n").as_bytes()).await.unwrap();
                }
            };
            let (_, why) = tokio::join!(saying, link.read_lines(&mut pipe));
            assert!(matches!(why, Gone::Ended(_)) && begun.elapsed() >= Duration::from_secs(1), "{line}: {why:?}");
        }
    }
}
