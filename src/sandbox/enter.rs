//! The way in: this binary confines itself, says so, and becomes the server.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use super::plan::Plan;
use super::{Enforced, Word, calls, files, limits};
use crate::catalog::sandbox::{Level, Network};

/// The verb by which the gateway starts itself as the way in. It is no verb for people, and stands in no help.
pub const VERB: &str = "sandbox-exec";
/// What shells exit with when a program cannot be run.
const CANNOT_RUN: u8 = 126;

/// The ABIs of Landlock from which on it knows ports, devices, and signals.
const PORTS_FROM: u8 = 4;
const DEVICES_FROM: u8 = 5;
const SIGNALS_FROM: u8 = 6;
/// The one from which on cutting a file short is writing to it.
const TRUNCATE_FROM: u8 = 3;

/// Confines this process by the plan in the first argument, and becomes the program in it, with the arguments behind it. Returns only where
/// that fails; it was told on standard error then.
pub fn enter(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let plan = arguments.next().and_then(|text| serde_json::from_str::<Plan>(text.to_str()?).ok());
    let Some(plan) = plan else {
        tell(&Word::Refused("the plan cannot be read".to_owned()));
        return ExitCode::from(CANNOT_RUN);
    };
    match prepared(&plan) {
        Ok(enforced) => tell(&Word::Confined(enforced)),
        Err(reason) => {
            tell(&Word::Refused(reason));
            return ExitCode::from(CANNOT_RUN);
        }
    }
    let error = Command::new(&plan.program).args(arguments).exec();
    let _ = writeln!(std::io::stderr(), "`{}` cannot be run: {error}", plan.program.display());
    ExitCode::from(CANNOT_RUN)
}

fn tell(word: &Word) {
    let mut line = serde_json::to_vec(word).unwrap_or_default();
    line.push(b'\n');
    let _ = std::io::stderr().write_all(&line);
}

fn prepared(plan: &Plan) -> Result<Enforced, String> {
    for folder in &plan.made {
        std::fs::create_dir_all(folder).map_err(|error| format!("`{}` cannot be made: {error}", folder.display()))?;
    }
    limits::set(plan)?;
    limits::disarm()?;
    let enforced = confined(plan)?;
    if enforced.level < plan.minimum {
        return Err(format!("the manifest asks for `sandbox: {{ minimum: {} }}`, and this machine has {enforced}", plan.minimum));
    }
    Ok(enforced)
}

/// Confines the calling thread, and says what holds.
fn confined(plan: &Plan) -> Result<Enforced, String> {
    let landlock = files::confine(plan)?;
    let filtered = calls::confine(plan);
    let mut lacks = Vec::new();
    if landlock == 0 {
        lacks.push("files".to_owned());
    }
    let mut lacking = |from: u8, what: &str| {
        if (1..from).contains(&landlock) {
            lacks.push(format!("{what} (Landlock {from})"));
        }
    };
    lacking(TRUNCATE_FROM, "cutting files short that it may only read");
    lacking(DEVICES_FROM, "commands to devices");
    lacking(SIGNALS_FROM, "signals to other processes");
    if matches!(plan.network, Network::Ports(_)) && landlock < PORTS_FROM {
        lacks.push(format!("ports of TCP (Landlock {PORTS_FROM})"));
    }
    let level = match (&filtered, landlock) {
        (Err(reason), _) => {
            lacks.push(format!("system calls ({reason})"));
            Level::Off
        }
        (Ok(()), 0) => Level::Basic,
        (Ok(()), _) if lacks.is_empty() => Level::Full,
        (Ok(()), _) => Level::Files,
    };
    Ok(Enforced { level, landlock, lacks })
}

/// What this kernel enforces of a confinement: tried out in a thread that ends with the trial.
pub fn available() -> Enforced {
    let trial = std::thread::Builder::new().name("sandbox-trial".to_owned()).spawn(|| confined(&Plan::closed()));
    let tried = trial.map_err(|error| error.to_string()).and_then(|trial| trial.join().map_err(|_| "the trial failed".to_owned()));
    match tried.and_then(|found| found) {
        Ok(enforced) => enforced,
        Err(reason) => Enforced { level: Level::Off, landlock: 0, lacks: vec![reason] },
    }
}
