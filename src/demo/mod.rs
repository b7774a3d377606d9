//! The built-in tool server, `doorward demo-server`: a folder of notes over stdio, in every revision of MCP.
//!
//! It is a real server, so that the first start of the gateway has something to guard and every tier something to be tried on:
//! tools that read, tools that change, one that removes, one that sends away, one that is slow.
//!
//! Owns: the tools, the folder behind them, and its own small protocol engine. It shares no code with the gateway on purpose: the
//! two meet on the wire only, as any server would.
//!
//! INVARIANT: the writer (stdout) carries MCP messages and nothing else.

mod call;
mod folder;
mod notes;
mod progress;
mod protocol;
mod session;

pub use session::serve;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of notes; made, with three notes to start from, when it is missing or empty.
    pub folder: PathBuf,
    /// The folder that shared copies leave through; made when it is missing.
    pub outbox: PathBuf,
    /// How long calls under way may go on after the client has left: nobody may be there any more to cancel them.
    pub drain: Duration,
}

impl Options {
    /// These folders, and a drain of 5 seconds: clients wait about as long before they kill.
    pub fn new(folder: &Path, outbox: &Path) -> Self {
        Self { folder: folder.to_path_buf(), outbox: outbox.to_path_buf(), drain: Duration::from_secs(5) }
    }
}

/// Serves `folder` on stdin and stdout until stdin ends and the calls under way are answered.
///
/// # Errors
/// When a folder cannot be opened, or stdin or stdout fails.
pub fn run(folder: &Path, outbox: &Path) -> io::Result<()> {
    let options = Options::new(folder, outbox);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let ended = runtime.block_on(serve(tokio::io::stdin(), tokio::io::stdout(), options));
    // When stdout broke, a read of stdin is still blocked in its thread; dropping the runtime would wait for it for ever.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}
