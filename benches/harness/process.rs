//! Processes of a run: starting them, ending them, and what the kernel says they used.
//!
//! CPU time is the sum of `/proc/PID/task/*/schedstat` (nanoseconds; `stat` counts in ticks of ten milliseconds) over a process and its
//! descendants. A thread that ends takes its time with it: gateways keep theirs for longer than a window.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use super::Result;

/// A server that was started and is ended with this value.
pub struct Running {
    child: Child,
    /// Where it said it listens.
    pub address: SocketAddr,
    /// When it was started.
    pub begin: Instant,
}

impl Running {
    /// Starts a server and waits until it prints, to either stream, a line that says `listening on http://ADDRESS/mcp`.
    pub fn start(command: &mut Command, patience: Duration) -> Result<Running> {
        let begin = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (said, lines) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            let said = said.clone();
            thread::spawn(move || BufReader::new(stdout).lines().map_while(std::io::Result::ok).for_each(|line| drop(said.send(line))));
        }
        if let Some(stderr) = child.stderr.take() {
            thread::spawn(move || BufReader::new(stderr).lines().map_while(std::io::Result::ok).for_each(|line| drop(said.send(line))));
        }
        // From here on the child is ended also when this fails.
        let mut running = Running { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), begin };
        let mut heard = String::new();
        while let Ok(line) = lines.recv_timeout(patience.saturating_sub(begin.elapsed())) {
            if let Some(address) = listening(&line) {
                running.address = address;
                return Ok(running);
            }
            heard += &format!("\n  {line}");
        }
        Err(format!("{command:?} did not say where it listens; it said:{heard}").into())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory of its process tree, in MiB: now (`VmRSS`), or at its peak (`VmHWM`).
    pub fn memory(&self, field: &str) -> Result<f64> {
        let mut kib = 0.0;
        for id in tree(self.id()) {
            let status = fs::read_to_string(format!("/proc/{id}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            kib += line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).ok_or("no memory in status")?;
        }
        Ok(kib / 1024.0)
    }
}

impl Drop for Running {
    /// Asks first: a gateway that was ended in order has nothing to recover at its next start.
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end and gives what it printed; fails when it fails or takes longer than `patience`.
pub fn finish(command: &mut Command, patience: Duration) -> Result<String> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let printed = thread::spawn(move || out.map(std::io::read_to_string).transpose());
    let errors = thread::spawn(move || err.map(std::io::read_to_string).transpose());
    let deadline = Instant::now() + patience;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(printed.join().map_err(|_| "no output")??.unwrap_or_default());
    }
    let errors = errors.join().map_err(|_| "no output")??.unwrap_or_default();
    Err(format!("{command:?} failed ({status}):\n{}", errors.trim_end()).into())
}

/// Has the kernel end this process when the one that started it is gone, however that ended.
pub fn follow_parent() -> Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// CPU time spent so far, in nanoseconds.
pub struct Spent {
    /// By the gateway's process tree.
    pub gateway: f64,
    /// By all that is no part of the run.
    pub others: f64,
}

impl Spent {
    /// Reads the kernel's accounts; `ours` are the processes of the run beside the gateway and this one.
    pub fn now(gateway: Option<u32>, ours: &[u32]) -> Result<Spent> {
        let gateway = gateway.map_or(0.0, |root| tree(root).into_iter().map(spent).sum());
        let ours: f64 = ours.iter().chain(&[std::process::id()]).map(|id| spent(*id)).sum();
        Ok(Spent { gateway, others: machine()? - gateway - ours })
    }
}

/// A process and its descendants.
fn tree(root: u32) -> Vec<u32> {
    let children = tasks(root).filter_map(|task| fs::read_to_string(task + "/children").ok());
    let children: Vec<u32> =
        children.flat_map(|line| line.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect();
    std::iter::once(root).chain(children.into_iter().flat_map(tree)).collect()
}

fn spent(process: u32) -> f64 {
    let read = |task: String| fs::read_to_string(task + "/schedstat").ok()?.split(' ').next()?.parse::<f64>().ok();
    tasks(process).filter_map(read).sum()
}

fn tasks(process: u32) -> impl Iterator<Item = String> {
    let folder = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
    folder.flatten().map(|task| task.path().to_string_lossy().into_owned())
}

/// What all cores together spent awake: their number times the time that passed, less what `/proc/stat` gives as idle or waiting for a
/// disk. The other columns of that file are sampled at ticks and miss short work.
fn machine() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let idle = |column: &str| column.parse::<f64>().map(|ticks| ticks * 1e7);
    let columns: Vec<&str> = stat.lines().next().unwrap_or_default().split_whitespace().collect();
    let &[_, _, _, _, idling, waiting, ..] = columns.as_slice() else { return Err("no totals in /proc/stat".into()) };
    let cores = stat.lines().skip(1).take_while(|line| line.starts_with("cpu")).count();
    let passed = EPOCH.get_or_init(Instant::now).elapsed().as_nanos() as f64;
    Ok(cores as f64 * passed - idle(idling)? - idle(waiting)?)
}

/// Since when time is counted; only differences are used.
static EPOCH: OnceLock<Instant> = OnceLock::new();

fn listening(line: &str) -> Option<SocketAddr> {
    let (_, after) = line.split_once("listening on http://")?;
    after.split_once("/mcp")?.0.parse().ok()
}
