//! A client that starts a command and speaks MCP with it, line by line.

use std::process::{ExitStatus, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::client::{Ask, message};
use super::{Site, soon};

/// The command, and both of its pipes; it ends with its test.
pub struct Pipe {
    child: Child,
    to: Option<ChildStdin>,
    from: Lines<BufReader<ChildStdout>>,
    stderr: ChildStderr,
}

impl Site {
    /// Starts `doorward ARGS` on this folder.
    pub fn pipe(&self, args: &[&str]) -> Pipe {
        Pipe::start(self.command(args))
    }
}

impl Pipe {
    /// Starts the command.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { to: child.stdin.take(), from, stderr: child.stderr.take().unwrap(), child }
    }

    /// Sends a line.
    pub async fn line(&mut self, line: &str) {
        self.to.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next message.
    pub async fn answer(&mut self) -> Value {
        let line = soon("a line", self.from.next_line()).await.unwrap();
        let Some(line) = line else {
            let mut said = String::new();
            let _ = self.stderr.read_to_string(&mut said).await;
            panic!("the command ended: {said}");
        };
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Sends a modern request and takes the next message.
    pub async fn modern(&mut self, method: &str, params: Value) -> Value {
        self.line(&String::from_utf8(Ask::modern(method, params).body).unwrap()).await;
        self.answer().await
    }

    /// A modern `tools/call`.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.modern("tools/call", json!({ "name": tool, "arguments": arguments })).await
    }

    /// Sends a request of a handshake revision and takes the next message.
    pub async fn legacy(&mut self, method: &str, params: Value) -> Value {
        self.line(&message(method, &params).to_string()).await;
        self.answer().await
    }

    /// The names of the tools.
    pub async fn tools(&mut self) -> Vec<String> {
        let list = self.modern("tools/list", json!({})).await;
        list["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Leaves; how the command ended, what it still wrote, and what it said.
    pub async fn leave(mut self) -> (ExitStatus, Vec<String>, String) {
        drop(self.to.take());
        let mut rest = Vec::new();
        while let Some(line) = soon("the end of the output", self.from.next_line()).await.unwrap() {
            rest.push(line);
        }
        let mut said = String::new();
        soon("the end of the log", self.stderr.read_to_string(&mut said)).await.unwrap();
        (soon("the end", self.child.wait()).await.unwrap(), rest, said)
    }
}

/// The code of a refusal in a message; `ok` or `tool_error` for a result.
pub fn code(message: &Value) -> &str {
    let body = message.pointer("/error/data").or_else(|| message.pointer("/result/_meta/dev.doorward~1error"));
    match body {
        Some(body) => body["code"].as_str().unwrap(),
        None if message["result"]["isError"] == true => "tool_error",
        None => "ok",
    }
}
