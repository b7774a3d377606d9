//! How long the commands of the ten incidents take: those that `docs/responders.md` gives, run as a responder runs them.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use doorward::audit::filter::Filter;
use doorward::audit::find::Logs;
use doorward::audit::row::Field;

use crate::generate::{self, NEEDLE};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rounds of each command; the median counts.
const ROUNDS: usize = 3;
/// What a command may take, in seconds.
const BAR: f64 = 2.0;

/// Runs the commands over the log in `dir`; writes it first where there is none.
pub fn run(records: u64, dir: &Path) -> Result<()> {
    let audit = dir.join("audit");
    if !audit.is_dir() {
        generate::run(records, 30, 1, dir)?;
    }
    let mut logs = Logs::in_dir(&audit)?;
    logs.with_index(&audit, None, &mut |_| {})?;
    println!("{} records in the index", logs.indexed());
    let fill = fill(&logs)?;
    println!("{:<78} {:>7} {:>9} {:>9}", "command", "lines", "median", "slowest");
    for command in commands()? {
        time(dir, &command, &fill)?;
    }
    Ok(())
}

/// The commands of the page's table of incidents, in its order.
fn commands() -> Result<Vec<String>> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/responders.md"))?;
    let table = page.split("## Ten incidents").nth(1).and_then(|rest| rest.split("\n## ").next()).ok_or("no incidents on the page")?;
    let commands: Vec<String> = table.split('`').filter(|text| text.starts_with("doorward ")).map(str::to_owned).collect();
    if commands.len() < 15 { Err("fewer commands on the page than incidents need".into()) } else { Ok(commands) }
}

/// What stands for the words in capitals: values that the log has.
fn fill(logs: &Logs) -> Result<BTreeMap<&'static str, String>> {
    let value = |filter: Filter, field: Field| -> Result<String> {
        let filter = Filter { limit: Some(1), newest_first: true, ..filter };
        let found = logs.find(&filter)?.records.pop().ok_or("the log has no such record")?;
        let mut value = None;
        found.row().each(field, &mut |found| value = value.take().or(Some(found.to_owned())));
        value.ok_or_else(|| "the record has no such field".into())
    };
    let last = logs.tail(1)?.records.pop().ok_or("the log is empty")?.unix_nanos();
    let ago = |seconds: i64| doorward::clock::rfc3339(last - seconds * 1_000_000_000);
    let intent = Filter::default().and(Field::Kind, Some("intent"));
    Ok(BTreeMap::from([
        ("ID", value(intent.clone(), Field::Credential)?),
        ("AGENT", value(intent.clone(), Field::Agent)?),
        ("RUN", value(intent.clone(), Field::Run)?),
        ("VERSION", value(intent.clone(), Field::Policy)?),
        ("TOOL", value(intent.clone(), Field::Target)?),
        ("HASH", value(intent.clone(), Field::Arguments)?),
        ("NAME", value(intent, Field::Upstream)?),
        ("TEXT", NEEDLE.to_owned()),
        // As though asked when the log ends, which is some hours before or after now.
        ("1h", ago(3_600)),
        ("1d", ago(86_400)),
    ]))
}

fn time(dir: &Path, command: &str, fill: &BTreeMap<&'static str, String>) -> Result<()> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("doorward.yaml");
    let file = dir.join("packed");
    let filled = |word: &str| match word {
        "FILE" => file.clone(),
        _ => fill.get(word).unwrap_or(&word.to_owned()).into(),
    };
    let mut words: Vec<PathBuf> = command.split(' ').skip(1).map(filled).collect();
    words.extend(["--dir".into(), dir.join("audit"), "--keys".into(), dir.join("keys"), "--config".into(), config]);
    let (mut times, mut lines) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let since = Instant::now();
        let done = Command::new(env!("CARGO_BIN_EXE_doorward")).args(&words).stdin(Stdio::null()).output()?;
        times.push(since.elapsed().as_secs_f64());
        lines = memchr::memchr_iter(b'\n', &done.stdout).count();
        // The log was written without signatures, as `pack` tells whoever gets its file.
        let is_packed = std::fs::remove_file(&file).is_ok();
        if !(done.status.success() || is_packed && done.status.code() == Some(4)) {
            return Err(format!("{command}: {}", String::from_utf8_lossy(&done.stderr)).into());
        }
    }
    times.sort_by(f64::total_cmp);
    let told = if times[ROUNDS / 2] > BAR { "  over 2 s" } else { "" };
    println!("{command:<78} {lines:>7} {:>7.2} s {:>7.2} s{told}", times[ROUNDS / 2], times[ROUNDS - 1]);
    Ok(())
}
