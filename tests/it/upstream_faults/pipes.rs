//! Servers on pipes that fail: `stdio_server` with a fault, in a process of its own.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::mcp_checklist::upstreams::stdio_server;

/// The processes of one server, which have a folder to keep things in.
pub struct Processes {
    kept: PathBuf,
}

impl Processes {
    /// One whose folder this is.
    pub fn keeping(kept: PathBuf) -> Self {
        fs::create_dir_all(&kept).unwrap();
        Self { kept }
    }

    pub fn transport(&self, mode: &str, fault: &str) -> Value {
        let bound = if fault == "multiplies" { 16 } else { 64 };
        let environment = json!({ "FAULT": fault, "KEPT": self.kept });
        let sandbox = json!({ "write": [self.kept], "processes": bound });
        json!({ "stdio": { "command": stdio_server(), "args": [mode, "act,look"], "env": environment, "sandbox": sandbox } })
    }

    /// What the calls named, in the order in which they came.
    pub fn calls(&self) -> Vec<String> {
        self.lines("calls")
    }

    /// How many processes there were.
    pub fn started(&self) -> usize {
        self.lines("started").len()
    }

    /// Lets it be well.
    pub fn heal(&self) {
        fs::write(self.kept.join("well"), "").unwrap();
        let _ = fs::remove_file(self.kept.join("away"));
    }

    /// Ends the process that was started last, and each one that is started after it.
    pub fn away(&self) {
        fs::write(self.kept.join("away"), "").unwrap();
        self.kill();
    }

    /// Ends the process that was started last.
    pub fn kill(&self) {
        let process = self.lines("started").last().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(process).unwrap(), Signal::KILL).unwrap();
    }

    fn lines(&self, file: &str) -> Vec<String> {
        let text = fs::read_to_string(self.kept.join(file)).unwrap_or_default();
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
    }
}
