//! `doorward.sock`: how the command line acts on a running gateway.
//!
//! The first line of a connection is a [`Command`]; `mcp` turns the rest of the connection into MCP for one agent, every
//! other verb is answered with one line.
//!
//! INVARIANT: the socket is 0600, its peer runs as the gateway's own user, and is no process that the gateway started: a
//! tool server must not approve itself.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroize;

use super::{Service, stdio};
use crate::identity::Principal;

/// Longest first line, in bytes.
const MAX_COMMAND: u64 = 64 << 10;
/// Parents that are followed to the root of the process tree.
const MAX_ANCESTORS: usize = 64;

/// What a verb asks of the gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Speak MCP as this agent for the rest of the connection.
    Mcp {
        /// The agent's name.
        agent: String,
        /// What the records call the way in: `admin` or `stdio`.
        #[serde(default)]
        stdio: bool,
    },
    /// Read policy, manifests and keys again.
    Reload,
    /// Read the freezes again, and say which tools this one covers.
    Freezes {
        /// Its number.
        number: i64,
    },
    /// How everything stands.
    Status,
    /// Record what a person did with files, keys or payloads.
    Did(Deed),
    /// The calls that wait for a person's yes; with `all` also those that did.
    ApprovalsList {
        /// Whether those that are decided are wanted too.
        all: bool,
    },
    /// One of them, with its arguments.
    ApprovalsShow {
        /// Its name.
        id: String,
    },
    /// A person's word about one of them.
    ApprovalsDecide {
        /// Its name.
        id: String,
        /// Yes or no.
        yes: bool,
        /// Why, in the person's words.
        reason: Option<String>,
        /// The person's key.
        key: Key,
    },
}

/// A person's key on its way to the gateway: never printed, and wiped when it is done with.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// A key of this text.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Key(…)")
    }
}

/// What a person did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Deed {
    /// The action, such as `agent_add`.
    pub action: String,
    /// What it was done to.
    pub subject: String,
    /// The invocation that it has to do with.
    pub call_id: Option<String>,
    /// Why, in the person's words.
    pub reason: Option<String>,
    /// Whose keys opened payloads.
    pub openers: Vec<String>,
    /// The data keys of payloads that are destroyed.
    pub payload_keys: Vec<String>,
}

impl Deed {
    /// Whether something is destroyed that only this record explains.
    pub fn destroys(&self) -> bool {
        !self.payload_keys.is_empty()
    }
}

/// A command and where its answer goes.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub command: Command,
    /// The user id of the process that asks.
    pub uid: u32,
    /// Takes one JSON text.
    pub answer: oneshot::Sender<String>,
}

/// The socket file; removed when the gateway stops.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: PathBuf,
}

impl Socket {
    /// Binds the socket in the state folder. A file that nobody answers on is left over from a crash and is replaced.
    ///
    /// # Errors
    /// What the file system says, or that another gateway answers there.
    pub async fn bind(folder: &Path) -> std::io::Result<Self> {
        let file = folder.join("doorward.sock");
        if UnixStream::connect(&file).await.is_ok() {
            return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another gateway answers there"));
        }
        let _ = std::fs::remove_file(&file);
        let listener = UnixListener::bind(&file)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, file })
    }

    /// Serves until the service stops; verbs other than `mcp` go to `asked`.
    pub async fn serve(self, service: Service, asked: mpsc::Sender<Asked>) {
        loop {
            let accepted = tokio::select! {
                () = service.stopping().cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((socket, _)) = accepted else { continue };
            let (service, asked) = (service.clone(), asked.clone());
            tokio::spawn(async move {
                match peer(&socket) {
                    Ok(peer) => converse(service, socket, peer, asked).await,
                    Err(reason) => tracing::warn!(reason, "an admin connection was refused"),
                }
            });
        }
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Who is at the other end, as the kernel says.
#[derive(Clone, Copy, Debug)]
struct Peer {
    uid: u32,
    pid: i32,
}

/// The peer, if it may act on this gateway.
fn peer(socket: &UnixStream) -> Result<Peer, &'static str> {
    let credentials = socket.peer_cred().map_err(|_| "its process cannot be told")?;
    let own = rustix::process::geteuid().as_raw();
    if credentials.uid() != own && credentials.uid() != 0 {
        return Err("it runs as another user");
    }
    let pid = credentials.pid().ok_or("its process cannot be told")?;
    if descends_from(pid, i32::try_from(std::process::id()).unwrap_or(0)) {
        Err("the gateway started its process")
    } else {
        Ok(Peer { uid: credentials.uid(), pid })
    }
}

/// Whether `ancestor` is among the parents of `pid`. What cannot be read counts as a descendant.
fn descends_from(mut pid: i32, ancestor: i32) -> bool {
    for _ in 0..MAX_ANCESTORS {
        if pid <= 1 {
            return false;
        }
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
        // The second field is the command in parentheses, and may hold anything.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)).and_then(|parent| parent.parse().ok());
        match parent {
            Some(parent) if parent == ancestor => return true,
            Some(parent) => pid = parent,
            None => return true,
        }
    }
    true
}

async fn converse(service: Service, socket: UnixStream, peer: Peer, asked: mpsc::Sender<Asked>) {
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    if (&mut reader).take(MAX_COMMAND).read_line(&mut line).await.is_err() {
        return;
    }
    match serde_json::from_str::<Command>(&line) {
        Ok(Command::Mcp { agent, stdio }) => {
            let way = if stdio { "stdio" } else { "admin" };
            let whence = Some(format!("uid:{} pid:{}", peer.uid, peer.pid).into());
            stdio::serve(service, Principal::local(&agent, way), way, whence, reader, writer).await;
        }
        Ok(command) => {
            let (answer, answered) = oneshot::channel();
            if asked.send(Asked { command, uid: peer.uid, answer }).await.is_ok()
                && let Ok(text) = answered.await
            {
                let _ = writer.write_all(text.as_bytes()).await;
                let _ = writer.write_all(b"\n").await;
            }
        }
        Err(error) => {
            let text = serde_json::json!({ "error": format!("not a command: {error}") });
            let _ = writer.write_all(format!("{text}\n").as_bytes()).await;
        }
    }
}

/// Asks a running gateway and returns its answer's line; `None` where no gateway runs on this state folder.
///
/// # Errors
/// What the socket says; `PermissionDenied` where the gateway hangs up on the question.
pub async fn ask(folder: &Path, command: &Command) -> std::io::Result<Option<String>> {
    let hung_up = || {
        let why = "the running gateway hung up: it refuses processes that it started and those of other users, and its log says which";
        Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, why))
    };
    let asked = async {
        let Some(mut socket) = connect(folder, command).await? else { return Ok(None) };
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(Some(answer))
    };
    match asked.await {
        Ok(Some(answer)) if answer.is_empty() => hung_up(),
        // Hanging up on a question that was not read resets the connection.
        Err(error) if matches!(error.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset) => hung_up(),
        told => told,
    }
}

/// Connects to a running gateway and sends the command; `None` where no gateway runs on this state folder.
///
/// # Errors
/// What the socket says.
pub async fn connect(folder: &Path, command: &Command) -> std::io::Result<Option<UnixStream>> {
    let mut socket = match UnixStream::connect(folder.join("doorward.sock")).await {
        Ok(socket) => socket,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut line = serde_json::to_vec(command).map_err(std::io::Error::other)?;
    line.push(b'\n');
    socket.write_all(&line).await?;
    Ok(Some(socket))
}
