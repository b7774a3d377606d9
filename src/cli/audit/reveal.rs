//! `audit reveal`: what was kept sealed of a call, opened with the keys of people and put on record before it is shown.
//!
//! INVARIANT: nothing of a payload is written anywhere before the record of its opening is stored; where the keys do not open it, that is recorded.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use zeroize::Zeroizing;

use super::{Asking, Error, erase, show};
use crate::audit::find::Asked;
use crate::audit::payload::{Erasure, Keyring, OpenError, Opened, Payload, PersonKey, Share, erasures};
use crate::audit::record::Stored;
use crate::audit::trust::Trust;
use crate::cli::Context;
use crate::cli::table::safe;
use crate::listen::admin::Deed;
use crate::mcp::json::{self, Limits};

/// Which payloads to open, and with what.
#[derive(ClapArgs, Clone, Debug)]
pub struct Reveal {
    /// A record's number, alone or as ORIGIN:NUMBER, or the invocation id: all that was kept of its call is meant.
    pub what: String,
    /// A private key that `audit keygen --opener` made; given twice where two have to open it together.
    #[arg(long = "key", value_name = "FILE", required = true)]
    pub keys: Vec<PathBuf>,
    /// What another has agreed to with --share-to; in place of that one's key.
    #[arg(long = "share", value_name = "FILE")]
    pub shares: Vec<PathBuf>,
    /// Shows nothing: agrees to the opening, for the others to complete with this file and --share. It is of use to no one else, and for this call only.
    #[arg(long, value_name = "FILE", conflicts_with = "shares")]
    pub share_to: Option<PathBuf>,
    /// Why, in a few words for the record.
    #[arg(long, value_name = "TEXT", value_parser = erase::reason)]
    pub reason: String,
}

/// The payloads of a call that can be opened, and what is to be said of the others.
struct Found<'a> {
    sealed: Vec<(&'a Stored, Payload<'a>)>,
    told: Vec<(String, String)>,
}

/// Opens, records, and shows; or records and shares.
pub(super) fn run(asking: &Asking<'_>, asked: &Reveal, context: Option<&Context>, json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    let records = records(asking, &asked.what)?;
    let keyring = keyring(asked)?;
    let found = found(asking, &records)?;
    let deed = Deed {
        subject: found.sealed.first().map(|(stored, _)| place(stored)).unwrap_or_default(),
        call_id: records.first().and_then(|stored| stored.record.call_id.as_deref()).map(str::to_owned),
        reason: Some(asked.reason.clone()),
        ..Deed::default()
    };
    match &asked.share_to {
        Some(file) => share(&found, &keyring, (file, &asked.reason), deed, context, json, out),
        None => reveal(&found, &keyring, deed, context, json, out),
    }
}

fn reveal(
    found: &Found<'_>,
    keyring: &Keyring,
    deed: Deed,
    context: Option<&Context>,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, Error> {
    let mut opened = Vec::new();
    for (stored, payload) in &found.sealed {
        opened.push((*stored, payload.open(keyring).map_err(|why| refused(stored, &why.to_string(), &deed, context))?));
    }
    let openers: BTreeSet<&str> = opened.iter().flat_map(|(_, opened)| opened.openers.iter().map(String::as_str)).collect();
    let openers: Vec<String> = openers.into_iter().map(str::to_owned).collect();
    erase::record(context, Deed { action: "reveal".to_owned(), openers: openers.clone(), ..deed })?;
    if json {
        out.write_all(&document(&opened, &openers, &found.told))?;
    } else {
        opened.iter().try_for_each(|(stored, opened)| print(out, stored, opened))?;
        found.told.iter().try_for_each(|(place, why)| writeln!(out, "{place}  {}", safe(why)))?;
        writeln!(out, "opened with the keys of {}; that is on record", openers.join(" and "))?;
    }
    Ok(if found.told.is_empty() { 0 } else { EXIT_IN_PART })
}

fn share(
    found: &Found<'_>,
    keyring: &Keyring,
    (file, reason): (&Path, &str),
    deed: Deed,
    context: Option<&Context>,
    json: bool,
    out: &mut dyn Write,
) -> Result<u8, Error> {
    let mut share = Share::new(deed.subject.clone(), reason.to_owned());
    let mut openers = Vec::new();
    for (stored, payload) in &found.sealed {
        openers = share.agree(payload, keyring).map_err(|why| refused(stored, &why.to_string(), &deed, context))?;
    }
    let unwritten = |source| Error::Unwritten { file: file.display().to_string(), source };
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(unwritten)?;
    let subject = deed.subject.clone();
    erase::record(context, Deed { action: "reveal_share".to_owned(), openers: openers.clone(), ..deed })
        .inspect_err(|_| drop(fs::remove_file(file)))?;
    to.write_all(share.text().as_bytes()).and_then(|()| to.sync_all()).map_err(unwritten)?;
    let openers = openers.join(" and ");
    if json {
        super::print::json_line(out, &serde_json::json!({ "record": subject, "openers": openers, "file": file }))?;
    } else {
        writeln!(out, "{openers} agrees to open {subject}: that is on record, and in {}", file.display())?;
        writeln!(out, "Another opener completes it: doorward audit reveal {subject} --key FILE --share {} --reason TEXT", file.display())?;
    }
    Ok(0)
}

/// All records of the one call that is meant.
fn records(asking: &Asking<'_>, what: &str) -> Result<Vec<Stored>, Error> {
    let asked = show::asked(what);
    let answer = asking.logs.show(&asked).map_err(|error| asking.unreadable(error))?;
    if answer.records.is_empty() {
        return Err(Error::Nothing(show::perhaps(what, answer.unreadable)));
    }
    let calls: BTreeSet<_> = answer.records.iter().map(|stored| (&stored.origin, &stored.record.call_id)).collect();
    if calls.len() > 1 && matches!(asked, Asked::Place(None, _)) {
        return Err(Error::Usage("several logs have a record of this number: say which as ORIGIN:NUMBER, such as main:42"));
    }
    Ok(answer.records)
}

/// The payloads of these records, and why some are not there.
fn found<'a>(asking: &Asking<'_>, records: &'a [Stored]) -> Result<Found<'a>, Error> {
    let erased = erasures(&asking.logs, &Trust::default()).map_err(|error| asking.unreadable(error))?;
    let mut found = Found { sealed: Vec::new(), told: Vec::new() };
    let mut first = None;
    for stored in records.iter().filter(|stored| stored.record.payload.is_some()) {
        let Some((_, storage)) = asking.logs.origins().find(|(origin, _)| *origin == stored.origin) else { continue };
        match of_record(storage, stored, &erased) {
            Ok(Some(payload)) => found.sealed.push((stored, payload)),
            Ok(None) => {}
            Err(why) => {
                first.get_or_insert_with(|| sealed(stored, &why));
                found.told.push((place(stored), why));
            }
        }
    }
    match first {
        Some(first) if found.sealed.is_empty() => Err(first),
        None if found.sealed.is_empty() => Err(Error::Usage(
            "no payload was kept of that call: neither a policy row nor the tool's manifest asked for it when it was made",
        )),
        _ => Ok(found),
    }
}

/// A record's payload, or why it cannot be opened by anybody.
fn of_record<'a>(
    storage: &dyn crate::audit::storage::Storage,
    stored: &'a Stored,
    erased: &[Erasure],
) -> Result<Option<Payload<'a>>, String> {
    let told = |erasure: &Erasure| {
        let Erasure { record, time, actor, reason, .. } = erasure;
        format!("its payload was erased at {time} by {actor}, as record {record} says: {reason}")
    };
    let key = stored.record.payload.as_deref().and_then(crate::audit::payload::Reference::parse);
    let erasure = key.and_then(|reference| erased.iter().find(|erasure| erasure.keys.iter().any(|key| key == reference.key())));
    match (Payload::of(storage, stored), erasure) {
        (Err(OpenError::NoKey(_) | OpenError::NoFile(_)), Some(erasure)) => Err(told(erasure)),
        (_, Some(erasure)) => Err(format!("{}; its key is still there, so the erasure was cut off: erase again", told(erasure))),
        (found, None) => found.map_err(|why| why.to_string()),
    }
}

fn sealed(stored: &Stored, why: &str) -> Error {
    Error::Sealed(format!("record {} stays sealed: {}", place(stored), safe(why)))
}

/// What these keys do not open stays sealed, and that somebody tried is on record.
fn refused(stored: &Stored, why: &str, deed: &Deed, context: Option<&Context>) -> Error {
    let reason = deed.reason.as_deref().unwrap_or_default();
    let told = Deed {
        action: "reveal_refused".to_owned(),
        subject: place(stored),
        reason: Some(format!("{reason}; refused: {why}")),
        ..deed.clone()
    };
    match erase::record(context, told) {
        Ok(()) => sealed(stored, why),
        Err(error) => sealed(stored, &format!("{why}; and this attempt is on no record: {error}")),
    }
}

fn place(stored: &Stored) -> String {
    format!("{}:{}", stored.origin, stored.seq)
}

fn keyring(asked: &Reveal) -> Result<Keyring, Error> {
    let read = |path: &PathBuf| {
        let file = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|source| Error::File { file: file.clone(), source })?;
        Ok::<_, Error>((file, Zeroizing::new(text)))
    };
    let mut keyring = Keyring::default();
    for path in &asked.keys {
        let (file, text) = read(path)?;
        let no_key = Error::Usage("--key is no private key that `doorward audit keygen --opener` made");
        keyring.keys.push(PersonKey::parse(&file, &text).ok_or(no_key)?);
    }
    for path in &asked.shares {
        let (_, text) = read(path)?;
        let share = Share::parse(&text);
        keyring.shares.push(share.map_err(|_none| Error::Usage("--share is no file that `doorward audit reveal --share-to` made"))?);
    }
    Ok(keyring)
}

/// For people: each member of a payload on a line of its own, with nothing in it that a terminal would obey.
fn print(out: &mut dyn Write, stored: &Stored, opened: &Opened) -> Result<(), Error> {
    let (kind, target) = (stored.record.kind.as_str(), stored.record.target.as_deref().unwrap_or_default());
    writeln!(out, "{}  {kind}  {}  {}", place(stored), safe(target), safe(&stored.time))?;
    let plain = &opened.plain[..];
    match json::parse(plain, LIMITS) {
        Ok(node) => {
            for member in node.members() {
                writeln!(out, "  {:<10} {}", safe(&member.key), safe(&String::from_utf8_lossy(member.node.text(plain))))?;
            }
        }
        // It was JSON when it was sealed: whatever it is, it is shown.
        Err(_) => writeln!(out, "  {}", safe(&String::from_utf8_lossy(plain)))?,
    }
    Ok(())
}

/// For programs: one document, in which a payload stands byte for byte.
fn document(opened: &[(&Stored, Opened)], openers: &[String], told: &[(String, String)]) -> Vec<u8> {
    let mut text = b"{\"payloads\":[".to_vec();
    for (at, (stored, opened)) in opened.iter().enumerate() {
        text.extend_from_slice(if at == 0 { b"" } else { b"," });
        let (record, kind, call) = (place(stored), stored.record.kind.as_str(), &stored.record.call_id);
        let head = serde_json::json!({ "record": record, "kind": kind, "call_id": call, "time": stored.time }).to_string();
        text.extend_from_slice(head.trim_end_matches('}').as_bytes());
        text.extend_from_slice(b",\"payload\":");
        text.extend_from_slice(&opened.plain);
        text.push(b'}');
    }
    let told: Vec<_> = told.iter().map(|(record, why)| serde_json::json!({ "record": record, "why": why })).collect();
    let rest = serde_json::json!({ "openers": openers, "sealed": told }).to_string();
    text.extend_from_slice(b"],");
    text.extend_from_slice(rest.trim_start_matches('{').as_bytes());
    text.push(b'\n');
    text
}

/// A payload is a message that was read once, in one object more.
const LIMITS: Limits = Limits { depth: 132, nodes: 10_000_100 };
/// Some of the call was opened, and some stays sealed.
const EXIT_IN_PART: u8 = 3;
