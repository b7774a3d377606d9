//! A connection of HTTP/1.1 with the deadlines of its heads and of its silence.
//!
//! The library has one deadline for both, and its timer is made anew for each request: here a connection has one timer. It is set anew only where
//! a head does not come in one piece, and where it runs out too early; while requests come it is left alone.
//!
//! Owns: what a connection waits for, and for how long. Leaves to others: bodies (`http`) and answers that are not taken (the kernel).
//!
//! INVARIANT: a head's time runs from its first byte; further bytes do not lengthen it.
//! INVARIANT: while a request is worked on or its answer is on its way, nothing here runs out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::Listen;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The next request.
    Idle,
    /// The rest of a head.
    Head,
    /// Its own answer.
    Busy,
    /// Nothing more: no request came in time.
    WasIdle,
    /// Nothing more: a head did not come in time.
    WasSlow,
}

/// The stage, as the connection and who answers on it see it.
#[derive(Debug)]
pub struct Staged(AtomicU8);

impl Staged {
    /// The stage.
    pub fn now(&self) -> Stage {
        match self.0.load(Ordering::Relaxed) {
            0 => Stage::Idle,
            1 => Stage::Head,
            2 => Stage::Busy,
            3 => Stage::WasIdle,
            _ => Stage::WasSlow,
        }
    }

    /// Another stage from now on.
    pub fn enter(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }
}

/// The connection.
#[derive(Debug)]
pub struct Patient<T> {
    io: T,
    stage: Arc<Staged>,
    head: Duration,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when the rest of a head is waited for, or the next request; of one that came at once it is never asked.
    since: Option<Instant>,
}

impl<T> Patient<T> {
    /// A connection whose first head is waited for.
    pub fn new(io: T, bounds: &Listen) -> Self {
        Self {
            io,
            stage: Arc::new(Staged(AtomicU8::new(Stage::Head as u8))),
            head: Duration::from_millis(bounds.header_timeout_ms.value()),
            idle: Duration::from_millis(bounds.idle_timeout_ms.value()),
            timer: None,
            since: None,
        }
    }

    /// Its stage.
    pub fn stage(&self) -> Arc<Staged> {
        Arc::clone(&self.stage)
    }

    /// The connection without its deadlines.
    pub fn into_inner(self) -> T {
        self.io
    }

    /// Waits on for what does not come; an error once it is too late.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (patience, late) = match self.stage.now() {
            Stage::Head => (self.head, Some(Stage::WasSlow)),
            Stage::Idle => (self.idle, Some(Stage::WasIdle)),
            // The library reads no more when an answer is gone, so the timer has to run by then.
            Stage::Busy => (self.idle, None),
            Stage::WasIdle | Stage::WasSlow => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        };
        let since = if late.is_some() { *self.since.get_or_insert_with(Instant::now) } else { Instant::now() };
        let deadline = since + patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(context).is_ready() {
            if let Some(late) = late.filter(|_| deadline <= Instant::now()) {
                self.stage.enter(late);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.io).poll_read(context, buffer) {
            Poll::Pending => this.wait(context),
            ready => {
                if buffer.filled().len() > before && this.stage.now() == Stage::Idle {
                    this.stage.enter(Stage::Head);
                    this.since = None;
                }
                ready
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> Patient<T> {
    /// What goes out is life: the silence counts from there.
    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) && self.stage.now() == Stage::Idle {
            self.since = Some(Instant::now());
        }
        written
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(context, bytes);
        this.wrote(written)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(context, parts);
        this.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn pair() -> (DuplexStream, Patient<DuplexStream>) {
        let (client, server) = tokio::io::duplex(64);
        (client, Patient::new(server, &Listen::default()))
    }

    /// How long the connection waits for a byte that does not come, in seconds.
    async fn patience(connection: &mut Patient<DuplexStream>) -> u64 {
        let began = Instant::now();
        assert_eq!(connection.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_says_nothing_waits_as_long_as_for_a_head() {
        let (_client, mut connection) = pair();
        assert_eq!((patience(&mut connection).await, connection.stage.now()), (10, Stage::WasSlow));
    }

    #[tokio::test(start_paused = true)]
    async fn further_bytes_do_not_lengthen_the_time_of_a_head() {
        let (mut client, mut connection) = pair();
        tokio::spawn(async move {
            for _ in 0..100 {
                client.write_u8(b'x').await.unwrap();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        connection.stage.enter(Stage::Idle);
        let (began, mut bytes) = (Instant::now(), 0);
        while connection.read_u8().await.is_ok() {
            bytes += 1;
        }
        assert!(bytes >= 10, "{bytes}");
        assert_eq!((began.elapsed().as_secs(), connection.stage.now()), (10, Stage::WasSlow));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_request_has_longer_and_what_goes_out_counts_as_life() {
        let (_client, mut connection) = pair();
        connection.stage.enter(Stage::Idle);
        assert!(tokio::time::timeout(Duration::from_secs(50), connection.read_u8()).await.is_err());
        connection.write_u8(b'x').await.unwrap();
        assert_eq!((patience(&mut connection).await, connection.stage.now()), (60, Stage::WasIdle));
    }

    #[tokio::test(start_paused = true)]
    async fn the_silence_is_noticed_of_a_connection_that_is_not_read_again() {
        let (_client, mut connection) = pair();
        connection.stage.enter(Stage::Busy);
        let (stage, began) = (connection.stage(), Instant::now());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(100)).await;
            stage.enter(Stage::Idle);
        });
        assert_eq!(connection.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!((160..=220).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_runs_out_while_a_request_is_worked_on() {
        let (_client, mut connection) = pair();
        connection.stage.enter(Stage::Busy);
        assert!(tokio::time::timeout(Duration::from_secs(100_000), connection.read_u8()).await.is_err());
    }
}
