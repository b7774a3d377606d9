//! The threads that serve connections: each has a runtime of its own, and a connection stays where it began.
//!
//! A call's work is so short that handing it from thread to thread costs more than it gains: a wake-up, a lock of the allocator for what another
//! thread frees, and cold caches. So one connection's calls, and the connections to tool servers that they use, stay on one thread.
//!
//! Owns: the threads, and which of them the next connection goes to. Leaves to others: what a connection does.
//!
//! INVARIANT: nothing here blocks a worker; what may (files, SQLite, a sync) is done by threads made for it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};

/// The workers of one listener. They last as long as the process: what a call began there may outlive its connection.
#[derive(Debug)]
pub struct Workers {
    runtimes: Vec<Handle>,
    next: AtomicUsize,
}

impl Workers {
    /// One for each core that the process may use.
    ///
    /// # Errors
    /// When a thread or its event queue cannot be made.
    pub fn start() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtimes = (0..cores).map(worker).collect::<io::Result<_>>()?;
        Ok(Self { runtimes, next: AtomicUsize::new(0) })
    }

    /// Runs the work on the worker whose turn it is.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(runtime) = turn.checked_rem(self.runtimes.len()).and_then(|turn| self.runtimes.get(turn)) {
            runtime.spawn(work);
        }
    }
}

fn worker(number: usize) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let thread = std::thread::Builder::new().name(format!("http-{number}"));
    thread.spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn connections_go_to_the_workers_in_turn_and_stay_there() {
        let workers = Workers::start().unwrap();
        let (told, mut names) = mpsc::channel(64);
        for _ in 0..2 * workers.runtimes.len() {
            let told = told.clone();
            workers.spawn(async move {
                // What a connection begins is where the connection is.
                let name = || std::thread::current().name().unwrap().to_owned();
                let began = tokio::spawn(async move { std::thread::current().name().unwrap().to_owned() }).await.unwrap();
                assert_eq!(began, name());
                told.send(began).await.unwrap();
            });
        }
        drop(told);
        let mut seen = Vec::new();
        while let Some(name) = names.recv().await {
            seen.push(name);
        }
        seen.sort();
        let mut expected: Vec<_> =
            (0..workers.runtimes.len()).flat_map(|number| [format!("http-{number}"), format!("http-{number}")]).collect();
        expected.sort();
        assert_eq!(seen, expected);
    }
}
