//! `audit pack`: records with all that proves and explains them, in one archive for somebody outside; and `audit verify --pack`.
//!
//! INVARIANT: an archive is written only once the log says who packed what.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde_json::json;

use super::find::{Wanted, told};
use super::verify::EXIT_DAMAGED;
use super::{Asking, Error, Home};
use crate::audit::disk::Disk;
use crate::audit::filter::Filter;
use crate::audit::note::{Note, VerifyingKey};
use crate::audit::pack::check::check;
use crate::audit::pack::{self, Pack as Archive};
use crate::audit::record::Stored;
use crate::audit::row::Field;
use crate::audit::storage::{CHECKPOINT, Storage};
use crate::audit::trust::Trust;
use crate::cli::table::safe;
use crate::cli::{block_on, person};
use crate::seal::{hex, sha256};

/// What is packed, and where to.
#[derive(ClapArgs, Clone, Debug)]
pub struct Pack {
    /// Where the archive goes; must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Which records.
    #[command(flatten)]
    pub wanted: Wanted,
    /// Records by number instead: `41`, `41-60`, `local-1:7`; without a name those of `main`. May be given several times.
    #[arg(long = "seq", value_name = "NUMBERS", value_parser = places)]
    pub seqs: Vec<Places>,
    /// Only the records that fit, without the others of the same calls.
    #[arg(long)]
    pub exactly: bool,
    /// At most so many records; where more fit, nothing is packed.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub limit: usize,
}

/// Some records of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    origin: String,
    from: u64,
    to: u64,
}

fn places(text: &str) -> Result<Places, &'static str> {
    let (origin, numbers) = text.rsplit_once(':').unwrap_or(("main", text));
    let (from, to) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let read = || Some(Places { origin: origin.to_owned(), from: from.parse().ok()?, to: to.parse().ok()? });
    read()
        .filter(|places| places.from <= places.to && places.from > 0)
        .ok_or("write a number, two with `-` between, or ORIGIN: before these")
}

/// Packs what fits.
pub(super) fn run(asking: &Asking<'_>, home: &Home, asked: &Pack, out: &mut dyn Write) -> Result<u8, Error> {
    let file = asked.out.display().to_string();
    if asked.out.try_exists().unwrap_or(true) {
        return Err(Error::Usage("--out is there already, and evidence is not written over"));
    }
    let filter = asked.wanted.filter(asking)?;
    // What comes from here on, such as the record of the packing, is not asked for.
    let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    let (records, selected) = select(asking, asked, Filter { until: Some(filter.until.map_or(now, |until| until.min(now))), ..filter })?;
    wait_for_signatures(asking.dir, &records);
    let config = home.context.as_ref().and_then(|context| context.config().ok());
    let root_key = config.as_ref().and_then(|config| config.audit.root_key.as_ref()?.as_str().parse::<VerifyingKey>().ok());
    let archive = pack::pack(asking.dir, records, selected, root_key.as_ref()).map_err(|error| asking.unreadable(error))?;
    let unwritten = |source| Error::Unwritten { file: file.clone(), source };
    let mut bytes = Vec::new();
    archive.write(&mut bytes).map_err(unwritten)?;
    let sha256 = hex(&sha256(&bytes));
    // Whose logs these are: those of another gateway, or a copy, are not written to.
    let own = config.filter(|config| is_same(config.audit.dir.as_ref(), asking.dir));
    if let Some(config) = &own {
        let subject = format!("{} records: {}; sha256:{sha256}", archive.records, archive.about.selected);
        let recorded = block_on(async { Ok(person::record(config, "audit_pack", &subject).await) });
        recorded.unwrap_or_else(|_no_runtime| Err("this machine gives no threads".to_owned())).map_err(Error::Unrecorded)?;
    }
    write_new(&asked.out, &bytes).map_err(unwritten)?;
    print(asking.print.json, &archive, &Written { file: &file, bytes: bytes.len(), sha256: &sha256, is_recorded: own.is_some() }, out)?;
    Ok(exit(&archive))
}

fn exit(archive: &Archive) -> u8 {
    let lacks = &archive.about.not_proved;
    match lacks.iter().any(|lack| !lack.is_pending) {
        true => EXIT_DAMAGED,
        false if !lacks.is_empty() => EXIT_LATER,
        false => 0,
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    one.canonicalize().ok().zip(other.canonicalize().ok()).is_some_and(|(one, other)| one == other)
}

/// The records, and what was asked for in words.
fn select(asking: &Asking<'_>, asked: &Pack, filter: Filter) -> Result<(Vec<Stored>, String), Error> {
    let unreadable = |error| asking.unreadable(error);
    let words = told(&Filter { until: filter.until.filter(|_| asked.wanted.until.is_some()), ..filter.clone() });
    let room = asked.limit.saturating_add(1);
    let mut found = Vec::new();
    if asked.seqs.is_empty() {
        let answer = asking.logs.find(&Filter { limit: Some(room), ..filter }).map_err(unreadable)?;
        found = answer.records;
        if !asked.exactly && found.len() < room {
            let ids: BTreeSet<String> = found.iter().filter_map(|stored| stored.record.call_id.as_deref().map(str::to_owned)).collect();
            if !ids.is_empty() {
                let whole = Filter { limit: Some(room), ..Filter::default().and_any(Field::Call, ids.into_iter().collect()) };
                found.extend(asking.logs.find(&whole).map_err(unreadable)?.records);
            }
        }
    } else if !words.is_empty() {
        return Err(Error::Usage("--seq names records by themselves; leave out the other conditions"));
    } else {
        for Places { origin, from, to } in &asked.seqs {
            found.extend(pack::numbered(&asking.logs, origin, *from..=*to, room).map_err(unreadable)?);
        }
    }
    found.sort_by(|one, other| (&one.origin, one.seq).cmp(&(&other.origin, other.seq)));
    found.dedup_by(|one, other| (one.seq, &one.origin) == (other.seq, &other.origin));
    match found.len() {
        0 => Err(Error::NoRecords),
        count if count > asked.limit => Err(Error::TooMany(asked.limit)),
        _ if !asked.seqs.is_empty() => {
            let numbers = asked.seqs.iter().map(|Places { origin, from, to }| format!("--seq {origin}:{from}-{to}"));
            Ok((found, safe(&numbers.collect::<Vec<_>>().join(" "))))
        }
        _ if words.is_empty() => Ok((found, "everything".to_owned())),
        _ => Ok((found, safe(&words.join(" ")))),
    }
}

/// What is young is signed within ten seconds, as long as somebody writes the log.
fn wait_for_signatures(dir: &Path, records: &[Stored]) {
    let until = Instant::now() + PATIENCE;
    let newest = |origin: &str| records.iter().filter(|stored| stored.origin == origin).map(|stored| stored.seq).max().unwrap_or(0);
    let origins: BTreeSet<&str> = records.iter().map(|stored| stored.origin.as_str()).collect();
    for origin in origins {
        let disk = Disk::existing(dir, origin);
        while disk.is_locked() && Instant::now() < until && signed_up_to(&disk).is_none_or(|last| last < newest(origin)) {
            std::thread::sleep(LOOK);
        }
    }
}

fn signed_up_to(disk: &Disk) -> Option<u64> {
    let note = String::from_utf8(disk.note(CHECKPOINT).ok()??).ok()?;
    crate::audit::checkpoint::Checkpoint::parse(Note::parse(&note).ok()?.unchecked_text())?.last()
}

/// A file that was not there before; what cannot be written whole is taken away again.
fn write_new(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    to.write_all(bytes).and_then(|()| to.sync_all()).inspect_err(|_| drop(fs::remove_file(file)))
}

struct Written<'a> {
    file: &'a str,
    bytes: usize,
    sha256: &'a str,
    is_recorded: bool,
}

fn print(json: bool, archive: &Archive, written: &Written<'_>, out: &mut dyn Write) -> io::Result<()> {
    let (about, Written { file, bytes, sha256, is_recorded }) = (&archive.about, written);
    let [policies, tools] = archive.kept;
    if json {
        let summary = json!({
            "file": file, "bytes": bytes, "sha256": sha256, "records": archive.records, "selected": about.selected, "logs": about.logs,
            "policies": policies, "tools": tools, "not_proved": about.not_proved, "not_kept": about.not_kept, "recorded": is_recorded,
        });
        return writeln!(out, "{summary}");
    }
    writeln!(out, "packed {} records in {file} ({bytes} bytes)", archive.records)?;
    writeln!(out, "  asked for: {}", about.selected)?;
    for log in &about.logs {
        writeln!(out, "  {}: {} records from {} to {}", safe(&log.origin), log.records, log.from_seq, log.to_seq)?;
    }
    writeln!(out, "  as they were then: policies {policies}, tool definitions {tools}")?;
    for lack in &about.not_kept {
        writeln!(out, "  not kept, and so not in it: {}", safe(lack))?;
    }
    for lack in &about.not_proved {
        writeln!(out, "  NO PROOF of {}:{}: {}", safe(&lack.origin), lack.seq, lack.why)?;
    }
    writeln!(out, "  SHA-256 {sha256}{}", if *is_recorded { ", which the log has too" } else { "" })?;
    if !is_recorded {
        writeln!(out, "  not recorded: these are not the logs of this gateway")?;
    }
    let key = about.root_key.as_ref().map_or("--key KEY".to_owned(), |key| format!("--root-key {key}"));
    writeln!(out, "whoever gets it checks it with the README.txt in it, or with\n  doorward audit verify --pack {file} {key}")
}

/// Checks an archive with keys from elsewhere and nothing else.
pub(super) fn verify(file: &Path, trust: &Trust, json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    let unreadable = |source| Error::File { file: file.display().to_string(), source };
    if trust.keys.is_empty() && trust.root_key.is_none() {
        return Err(Error::Usage("an archive is checked with a key that is not from it: --root-key or --key"));
    }
    let checked = check(BufReader::new(File::open(file).map_err(unreadable)?), trust).map_err(unreadable)?;
    let exit = if checked.holds() { 0 } else { EXIT_DAMAGED };
    if json {
        let verdict = json!({
            "holds": checked.holds(), "records": checked.records, "proved": checked.proved, "logs": checked.logs,
            "findings": checked.findings, "not_proved": checked.not_proved, "notes": checked.notes,
        });
        writeln!(out, "{verdict}")?;
        return Ok(exit);
    }
    let verdict = if checked.holds() { "holds" } else { "DOES NOT HOLD" };
    writeln!(out, "{verdict}: {} of {} records are in the log as it was signed", checked.proved, checked.records)?;
    for finding in &checked.findings {
        writeln!(out, "  {}", safe(finding))?;
    }
    for note in &checked.notes {
        writeln!(out, "  {}", safe(note))?;
    }
    for lack in &checked.not_proved {
        writeln!(out, "  not proved, as the archive says itself: {}:{}: {}", safe(&lack.origin), lack.seq, safe(&lack.why))?;
    }
    Ok(exit)
}

/// What could be proved later.
const EXIT_LATER: u8 = 4;
/// Longest wait for what is young to be signed: checkpoints come every ten seconds.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_one_or_a_range_of_a_log() {
        let of = |origin: &str, from, to| Ok(Places { origin: origin.to_owned(), from, to });
        assert_eq!((places("41"), places("41-60"), places("local-1:7")), (of("main", 41, 41), of("main", 41, 60), of("local-1", 7, 7)));
        for wrong in ["", "0", "9-3", "a", "main:", "1-2-3", "-1"] {
            assert!(places(wrong).is_err(), "{wrong}");
        }
    }
}
