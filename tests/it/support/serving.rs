//! A running gateway: the real binary, in a process group that ends with its test.

use std::net::SocketAddr;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Client, Site, soon};

/// The process, and what it says.
pub struct Serving {
    child: Child,
    pid: Pid,
    said: watch::Receiver<String>,
    listening: JoinHandle<()>,
    printed: tokio::task::JoinHandle<Vec<u8>>,
    keys: [String; 2],
    pub address: SocketAddr,
}

impl Serving {
    /// Starts the command and waits for its address.
    pub async fn start(site: &Site, mut command: Command) -> Self {
        let mut child = command.process_group(0).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        let (say, said) = watch::channel(String::new());
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listening = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                say.send_modify(|said| *said += &(line + "\n"));
            }
        });
        let mut from = child.stdout.take().unwrap();
        let printed = tokio::spawn(async move {
            let mut text = Vec::new();
            let _ = from.read_to_end(&mut text).await;
            text
        });
        let keys = ["demo", "other"].map(|agent| site.key(agent).to_owned());
        let mut serving = Self { child, pid, said, listening, printed, keys, address: ([127, 0, 0, 1], 0).into() };
        let text = serving.says("listening on ").await;
        serving.address = address_after(&text, "listening on ");
        serving
    }

    /// Waits until it has said this, and returns all that it has said.
    pub async fn says(&mut self, words: &str) -> String {
        let mut said = self.said.clone();
        let heard = soon(words, said.wait_for(|said| said.lines().any(|line| line.contains(words)) && said.ends_with('\n'))).await;
        match heard {
            Ok(said) => said.clone(),
            Err(_) => panic!("it ended without saying `{words}`:\n{}", *self.said.borrow()),
        }
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        self.said.borrow().clone()
    }

    /// The agent `demo`.
    pub fn client(&self) -> Client {
        Client::new(self.address, Some(self.keys[0].clone()))
    }

    /// The agent `other`.
    pub fn other(&self) -> Client {
        Client::new(self.address, Some(self.keys[1].clone()))
    }

    /// Somebody without a key.
    pub fn nobody(&self) -> Client {
        Client::new(self.address, None)
    }

    /// The console's answer to a path: status and body.
    pub async fn console(&mut self, path: &str) -> (u16, String) {
        let text = self.says("health and metrics at ").await;
        let mut socket = TcpStream::connect(address_after(&text, "health and metrics at ")).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        soon(path, socket.read_to_string(&mut answer)).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Its process id.
    pub fn process(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal to the gateway alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Waits for its end; all that it said on standard error and on standard output.
    pub async fn ended(mut self) -> (ExitStatus, String, String) {
        let status = soon("the end", self.child.wait()).await.unwrap();
        let _ = soon("the rest of the log", &mut self.listening).await;
        let printed = soon("all that it prints", &mut self.printed).await.unwrap();
        let out = String::from_utf8_lossy(&printed).into_owned();
        (status, self.said(), out)
    }

    /// Asks it to end, and waits.
    pub async fn stop(self) -> (ExitStatus, String, String) {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Ends it without notice, with everything that it started.
    pub async fn kill(mut self) {
        kill_process_group(self.pid, Signal::KILL).unwrap();
        soon("the end", self.child.wait()).await.unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if self.child.id().is_some() {
            let _ = kill_process_group(self.pid, Signal::KILL);
        }
    }
}

/// The address that stands behind these words.
pub fn address_after(text: &str, words: &str) -> SocketAddr {
    let rest = text.split(words).nth(1).unwrap().split("://").nth(1).unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}
