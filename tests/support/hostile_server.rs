//! A legacy tool server on pipes that tries to get out: its one tool, `attempt`, does what it is told with whatever `what` and `at` name, and answers
//! `done`, `refused` with the error, or what it found. As `child` it only waits, so that others can be started without an end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "it is part of a test")]

use std::io::{BufRead, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const MIB: usize = 1 << 20;

fn main() {
    if std::env::args().nth(1).is_some_and(|mode| mode == "child") {
        loop {
            std::thread::park();
        }
    }
    let mut kept = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let message: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let result = match message["method"].as_str() {
            Some("initialize") => json!({
                "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": { "name": "hostile", "version": "1" },
            }),
            Some("tools/list") => json!({ "tools": [{ "name": "attempt", "inputSchema": { "type": "object" } }] }),
            Some("tools/call") => {
                let arguments = &message["params"]["arguments"];
                let text = attempt(arguments["what"].as_str().unwrap(), arguments["at"].as_str().unwrap_or_default(), &mut kept);
                json!({ "content": [{ "type": "text", "text": text }] })
            }
            _ if message["id"].is_null() => continue,
            _ => {
                let error = json!({ "code": -32601, "message": "no" });
                println!("{}", json!({ "jsonrpc": "2.0", "id": message["id"], "error": error }));
                continue;
            }
        };
        println!("{}", json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }));
    }
}

fn told<T>(outcome: std::io::Result<T>) -> String {
    match outcome {
        Ok(_) => "done".to_owned(),
        Err(error) => format!("refused: {error}"),
    }
}

fn attempt(what: &str, at: &str, kept: &mut Vec<Vec<u8>>) -> String {
    match what {
        "read" => std::fs::read(at).map_or_else(|error| format!("refused: {error}"), |found| String::from_utf8_lossy(&found).into_owned()),
        "list" => told(std::fs::read_dir(at)),
        "write" => told(std::fs::write(at, "written")),
        "remove" => told(std::fs::remove_file(at)),
        "link" => told(std::os::unix::fs::symlink(at, "work/link").and_then(|()| std::fs::read_dir("work/link"))),
        // In the place of what stands at `notes`.
        "swap" => told(std::fs::rename("notes", "notes-before").and_then(|()| std::os::unix::fs::symlink(at, "notes"))),
        "unix" => told(UnixStream::connect(at)),
        "tcp" => told(TcpStream::connect(at)),
        "listen" => told(TcpListener::bind(at)),
        "udp" => told(UdpSocket::bind(at)),
        // It does nothing to a process that runs.
        "signal" => told(kill_process(Pid::from_raw(at.parse().unwrap()).unwrap(), Signal::CONT).map_err(Into::into)),
        "run" => told(Command::new(at).arg("--version").output()),
        "environment" => format!("{:?}", std::env::vars().collect::<Vec<_>>()),
        "secret" => {
            eprintln!("the key is {at}");
            eprintln!("{}{at}", "the key is ".repeat(500));
            "done".to_owned()
        }
        "babble" => {
            let line = "endless ".repeat(2_000);
            (0..at.parse::<u32>().unwrap()).for_each(|number| drop(writeln!(std::io::stderr(), "{number} {line}")));
            "done".to_owned()
        }
        "open" => {
            let opened: Vec<_> = (0..at.parse().unwrap()).map_while(|_| std::fs::File::open("/dev/null").ok()).collect();
            opened.len().to_string()
        }
        "memory" => {
            let taken = (0..at.parse().unwrap()).take_while(|_| grown(kept)).count();
            kept.clear();
            taken.to_string()
        }
        "multiply" => {
            let started =
                (0..at.parse().unwrap()).take_while(|_| Command::new(std::env::current_exe().unwrap()).arg("child").spawn().is_ok());
            started.count().to_string()
        }
        _ => panic!("{what} is no attempt"),
    }
}

/// Whether there was one MiB more.
fn grown(kept: &mut Vec<Vec<u8>>) -> bool {
    let mut more: Vec<u8> = Vec::new();
    let has_room = more.try_reserve_exact(MIB).is_ok();
    more.resize(if has_room { MIB } else { 0 }, 1);
    kept.push(more);
    has_room
}
