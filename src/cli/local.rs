//! A client of our own: `call` and `stdio` reach a running gateway through its socket, and start the same path in their own
//! process where none runs.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use super::running::{Rounds, Running};
use super::serve::tell_opened;
use super::{Failure, exposed};
use crate::config::Config;
use crate::gateway::{Assembly, Folders, LogOrigin};
use crate::identity::Principal;
use crate::listen::stdio;
use crate::sandbox::Ground;
use crate::upstream::Report;
use tokio::sync::mpsc;

/// How long answers under way may take once a client on pipes, or somebody else, has told us to end.
const PARTING: Duration = Duration::from_millis(500);

/// The same gateway in this process, without listeners; its records go to an origin of its own.
pub(super) async fn start(config: &Config) -> Result<(Running, mpsc::Receiver<Report>), Failure> {
    let plan = Box::new(Folders::of(config));
    let opened = Assembly::open(config, plan, Ground::of(config), LogOrigin::FirstFree).map_err(Failure::other)?;
    let (assembly, opened, events) = opened;
    tell_opened(&opened, config.audit.dir.as_ref());
    let (gateway, _) = assembly.build()?;
    exposed::exposed(config, gateway.catalog(), &Ground::of(config).base).iter().for_each(|told| tracing::warn!("{told}"));
    Ok((Running::new(assembly, gateway, config.clone(), None)?, events))
}

/// Serves one client on these streams until it leaves, while upstreams are attended to.
pub(super) async fn serve(
    running: &Running,
    events: &mut mpsc::Receiver<Report>,
    principal: Principal,
    transport: &'static str,
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin + Send + 'static,
) {
    let serving = stdio::serve(running.service.clone(), principal, transport, None, reader, writer);
    let mut serving = std::pin::pin!(serving);
    let mut rounds = Rounds::begin();
    loop {
        tokio::select! {
            () = &mut serving => return,
            Some(event) = events.recv() => running.take(event),
            round = rounds.next() => running.go_round(round).await,
        }
    }
}

/// Serves the client on standard input and output until it leaves or the process is told to end; says which.
///
/// Clients that start a command close its input, send SIGTERM after two seconds and SIGKILL after four: once told, answers
/// under way get a moment and servers little time, so that nothing is left behind.
pub(super) async fn serve_stdio(running: &Running, events: &mut mpsc::Receiver<Report>, principal: Principal) -> &'static str {
    let serving = serve(running, events, principal, "stdio", tokio::io::stdin(), tokio::io::stdout());
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        () = &mut serving => return "the client has left",
        () = terminated() => {}
    }
    tokio::join!(running.service.drain(tokio::time::sleep(PARTING)), serving);
    running.assembly.hurry();
    "told to end"
}

/// Copies both ways until the gateway ends, or the client does and has its last answers.
pub(super) async fn relay(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    gateway: tokio::net::UnixStream,
) -> std::io::Result<()> {
    let (mut from, mut to) = gateway.into_split();
    let up = async {
        tokio::io::copy(&mut reader, &mut to).await?;
        to.shutdown().await
    };
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(tokio::io::copy(&mut from, &mut writer)));
    tokio::select! {
        // The client leaving is not the end: its last answers still come down.
        up = &mut up => up.and(down.await.map(drop)),
        // Without a gateway the client is told, by the end of its server, that nobody listens any more.
        down = &mut down => down.and(Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the gateway has stopped"))),
    }
}

/// Sends one line and returns the first line that is an answer to id 1.
pub(super) async fn ask_one(stream: impl AsyncRead + AsyncWrite + Unpin, message: &str) -> std::io::Result<serde_json::Value> {
    let (reader, mut writer) = tokio::io::split(stream);
    writer.write_all(message.as_bytes()).await?;
    writer.write_all(b"\n").await?;
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        let message: serde_json::Value = serde_json::from_str(&line).map_err(std::io::Error::other)?;
        if message.get("id").is_some_and(|id| *id == 1) || message.get("error").is_some() {
            return Ok(message);
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the gateway closed the connection without an answer"))
}

/// Ends when the process is asked to end.
pub(super) async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let of = |kind| async move {
        match signal(kind) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = of(SignalKind::terminate()) => {}
        () = of(SignalKind::interrupt()) => {}
        () = of(SignalKind::hangup()) => {}
    }
}
