//! `audit keygen` and `audit certify`: the operator's root key, and its word for a log's key. `audit keygen --opener` makes a person's key for payloads.
//!
//! A log's own keys change with each segment, and each lies on the log's machine while it signs. The root key is kept elsewhere: so a log that was
//! signed anew, with other keys, is told from the one that the operator has vouched for.
//!
//! INVARIANT: no key is certified that is not on record, and no file is replaced by a private key.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde_json::json;
use zeroize::Zeroizing;

use super::print::json_line;
use super::{Error, erase};
use crate::audit::checkpoint::Certificate;
use crate::audit::disk::Disk;
use crate::audit::note::{Signer, VerifyingKey};
use crate::audit::payload::PersonKey;
use crate::audit::storage::Storage;
use crate::audit::trust::newest_key;
use crate::cli::Context;
use crate::config::check_name;
use crate::listen::admin::Deed;

/// A key to make.
#[derive(ClapArgs, Clone, Debug)]
pub struct Keygen {
    /// Where the private key goes, readable by its owner alone; must not be there yet.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// The key's name, which stands in its signatures.
    #[arg(long, default_value = "doorward-root", value_parser = name)]
    pub name: String,
    /// Makes a key that opens payloads instead, for this one of `people`.
    #[arg(long, value_name = "NAME", conflicts_with = "name", value_parser = person_name)]
    pub opener: Option<String>,
}

fn person_name(text: &str) -> Result<String, String> {
    check_name(text).map(|()| text.to_owned())
}

fn name(text: &str) -> Result<String, &'static str> {
    VerifyingKey::new(text, [0; 32]).map(|_| text.to_owned()).ok_or("a key's name has no space, no control character and no `+`")
}

/// A log to vouch for.
#[derive(ClapArgs, Clone, Debug)]
pub struct Certify {
    /// The root key, as `audit keygen` wrote it.
    #[arg(long, value_name = "FILE")]
    pub root: PathBuf,
    /// Whose log.
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub origin: String,
}

/// Makes a key: a root key, or one that opens payloads.
pub(super) fn generate(asked: &Keygen, json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    match &asked.opener {
        Some(name) => generate_opener(name, &asked.out, json, out),
        None => generate_root(asked, json, out),
    }
}

fn generate_opener(name: &str, to: &Path, json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    let file = to.display().to_string();
    let key = PersonKey::generate(&file).ok_or(Error::Usage("this machine gives no randomness"))?;
    write_private(to, &key.text(name))?;
    let public = key.public();
    if json {
        json_line(out, &json!({ "payload_key": public.to_string(), "name": name, "file": file }))?;
    } else {
        writeln!(out, "payload_key: \"{public}\"\n")?;
        writeln!(
            out,
            "This is the public key: a member of {name} in `people` of doorward.yaml, where `audit.payloads.openers` names who opens payloads."
        )?;
        writeln!(out, "The private key is in {file}: {name} keeps it off this machine. Who has lost it opens nothing any more.")?;
    }
    Ok(0)
}

/// Writes what its owner alone may read.
fn write_private(file: &Path, text: &str) -> Result<(), Error> {
    let unwritten = |source| Error::Unwritten { file: file.display().to_string(), source };
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(unwritten)?;
    to.write_all(text.as_bytes()).and_then(|()| to.write_all(b"\n")).and_then(|()| to.sync_all()).map_err(unwritten)
}

fn generate_root(asked: &Keygen, json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    let file = asked.out.display().to_string();
    let unwritten = |source| Error::Unwritten { file: file.clone(), source };
    let signer = Signer::generate(&asked.name).map_err(unwritten)?;
    let text = signer.to_private_text().map_err(|wrong| unwritten(io::Error::other(wrong)))?;
    write_private(&asked.out, &text)?;
    let key = signer.key().to_string();
    if json {
        json_line(out, &json!({ "root_key": key, "file": file }))?;
    } else {
        writeln!(out, "{key}\n")?;
        writeln!(out, "This is the public key: `audit.root_key` in doorward.yaml, and --root-key. Keep a copy of it elsewhere.")?;
        writeln!(out, "The private key is in {file}: keep it off this machine. `doorward audit certify --root FILE` vouches with it.")?;
    }
    Ok(0)
}

/// Vouches for the key of the segment that is written now, or was last.
pub(super) fn certify(asked: &Certify, dir: &Path, context: Option<&Context>, json: bool, out: &mut dyn Write) -> Result<u8, Error> {
    let root = read(&asked.root)?;
    let disk = Disk::existing(dir, &asked.origin);
    let home = dir.join(&asked.origin);
    let (segment, key) = newest_key(&disk)
        .map_err(|source| Error::unreadable(&home, source))?
        .ok_or(Error::Usage("the log has no key yet: a start of the gateway gives it one"))?;
    let subject = format!("{key} {}", root.key());
    erase::record(context, Deed { action: "audit_certify".to_owned(), subject, ..Deed::default() })?;
    let certificate = Certificate { name: key.name().to_owned(), segment, key };
    let unwritten = |source| Error::Unwritten { file: home.join(ROOT).display().to_string(), source };
    let note = root.sign(&certificate.text()).map_err(|wrong| unwritten(io::Error::other(wrong)))?;
    disk.put_note(ROOT, note.as_bytes()).map_err(unwritten)?;
    if json {
        json_line(out, &json!({ "key": certificate.key.to_string(), "segment": segment, "root_key": root.key().to_string() }))?;
    } else {
        writeln!(out, "certified {}, the key of the segment of record {segment}, by {}", certificate.key, root.key())?;
    }
    Ok(0)
}

fn read(file: &Path) -> Result<Signer, Error> {
    let text = fs::read_to_string(file).map_err(|source| Error::File { file: file.display().to_string(), source })?;
    Signer::from_private_text(&Zeroizing::new(text))
        .map_err(|_wrong| Error::Usage("--root is no private key that `doorward audit keygen` made"))
}

const ROOT: &str = "root.note";
