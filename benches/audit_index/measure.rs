//! How long the index takes to be made, and each question to be answered.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use doorward::audit::filter::Filter;
use doorward::audit::find::Logs;
use doorward::audit::guess;
use doorward::audit::index::Index;
use doorward::audit::row::Field;
use doorward::audit::values;
use doorward::audit::verify::{Asked, Report, verify_all};
use rustix::time::{ClockId, clock_gettime};

use crate::generate::{self, NEEDLE};

/// Rounds of each question; the median counts.
const ROUNDS: usize = 5;

/// Makes the index anew and asks.
pub fn run(records: u64, dir: Option<PathBuf>, keep: bool) -> Result<(), Box<dyn Error>> {
    let (_temporary, dir) = match dir {
        Some(dir) => (None, dir),
        None => {
            let temporary = tempfile::tempdir()?;
            let dir = temporary.path().to_owned();
            (Some(temporary), dir)
        }
    };
    let audit = dir.join("audit");
    if !audit.is_dir() {
        generate::run(records, 30, 1, &dir)?;
    }
    let before = peak_kib();
    if !keep {
        Index::delete(&audit)?;
        let (since, spent) = (Instant::now(), cpu_seconds());
        let filled = Logs::in_dir(&audit)?.with_index(&audit, None, &mut |_| {})?;
        let seconds = since.elapsed().as_secs_f64();
        let size = fs::metadata(Index::file(&audit))?.len();
        println!(
            "index: {} records in {seconds:.1} s, {:.0} a second (at least 40000), {:.0} a CPU second; {} MB; memory {} MiB, {} MiB before",
            filled.records,
            filled.records as f64 / seconds,
            filled.records as f64 / (cpu_seconds() - spent),
            size >> 20,
            peak_kib() >> 10,
            before >> 10
        );
    }
    println!("{:<34} {:>8} {:>9} {:>9}", "find", "records", "median", "slowest");
    for (name, filter) in questions(&dir)? {
        ask(&audit, name, &filter)?;
    }
    println!("memory at the end: {} MiB", peak_kib() >> 10);
    Ok(())
}

/// Checks all records.
pub fn verify(records: u64, dir: &Path) -> Result<(), Box<dyn Error>> {
    let audit = dir.join("audit");
    if !audit.is_dir() {
        generate::run(records, 30, 1, dir)?;
    }
    let (since, spent) = (Instant::now(), cpu_seconds());
    let reports = verify_all(&audit, &Asked::default())?;
    let (seconds, spent) = (since.elapsed().as_secs_f64(), cpu_seconds() - spent);
    let checked: u64 = reports.iter().map(|report| report.records).sum();
    if !reports.iter().all(Report::is_sound) {
        return Err("the log is not sound".into());
    }
    let rate = |seconds: f64| checked as f64 / seconds;
    println!(
        "verify: {checked} records in {seconds:.1} s, {:.0} a second (at least 500000), {:.0} a CPU second",
        rate(seconds),
        rate(spent)
    );
    println!("memory: {} MiB", peak_kib() >> 10);
    Ok(())
}

/// What this process has spent, all threads together.
fn cpu_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

/// A common, a rare and an absent value for each field.
fn questions(dir: &Path) -> Result<Vec<(String, Filter)>, Box<dyn Error>> {
    let audit = dir.join("audit");
    let some = |field, value: &str| Filter::default().and(field, Some(value));
    let newest = Logs::in_dir(&audit)?.tail(400)?.records;
    let last = newest.last().map_or(0, |stored| stored.unix_nanos());
    let mut all = Vec::new();
    for (word, days) in [("an hour, some days ago", 5), ("an hour, weeks ago", 20)] {
        let since = last - days * 86_400_000_000_000;
        all.push((format!("time: {word}"), Filter { since: Some(since), until: Some(since + 3_600_000_000_000), ..Filter::default() }));
    }
    for field in Field::ALL.into_iter().filter(|field| *field != Field::Value) {
        let mut value: Option<String> = None;
        for stored in newest.iter().rev() {
            stored.row().each(field, &mut |found| value = value.take().or(Some(found.to_owned())));
        }
        if let Some(value) = value {
            all.push((format!("{field:?}: newest"), some(field, &value)));
        }
        all.push((format!("{field:?}: nowhere"), some(field, "nowhere")));
    }
    for (name, field, value) in [
        ("rarest agent", Field::Agent, "agent-119"),
        ("unresolved", Field::Outcome, "unresolved"),
        ("people", Field::Kind, "person"),
        ("a prefix", Field::Target, "pay__*"),
    ] {
        all.push((format!("{field:?}: {name}"), some(field, value)));
    }
    all.push((
        "agent, tool and code".to_owned(),
        some(Field::Agent, "agent-100").and(Field::Target, Some("mail__send")).and(Field::Code, Some("rate_limited")),
    ));
    let keys = values::all(&dir.join("keys"))?;
    all.push(("--value, a few".to_owned(), Filter::default().and_any(Field::Value, guess::forms(NEEDLE, &keys))));
    all.push(("--value, nowhere".to_owned(), Filter::default().and_any(Field::Value, guess::forms("nobody@example.com", &keys))));
    Ok(all.into_iter().map(|(name, filter)| (name, Filter { limit: Some(100), newest_first: true, ..filter })).collect())
}

/// Each round opens the logs and the index, as a command does.
fn ask(audit: &Path, name: String, filter: &Filter) -> Result<(), Box<dyn Error>> {
    let (mut times, mut found) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let since = Instant::now();
        let mut logs = Logs::in_dir(audit)?;
        logs.with_index(audit, None, &mut |_| {})?;
        found = logs.find(filter)?.records.len();
        times.push(since.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{name:<34} {found:>8} {:>6.1} ms {:>6.1} ms", times[ROUNDS / 2], times[ROUNDS - 1]);
    Ok(())
}

/// The most memory that this process has held, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}
