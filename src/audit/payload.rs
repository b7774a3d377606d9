//! Arguments and results that are kept whole, sealed so that only people open them: two together, where the operator says so.
//!
//! For each subject (whom a call is made for, else the agent) and month there is a *data key*: a secret for each opener. The gateway has the
//! secrets in memory; on disk each is only there sealed to its opener's public key (`KEYFILE`). So neither the gateway after a restart nor a
//! thief of the disk opens what was stored before. Each payload has a content key of its own. Its head has that key once for every set of
//! openers that is enough, masked with a hash of each one's secret and the file's name: so whoever agrees to open one payload gives away
//! nothing of the others. `docs/audit-format.md` has every byte.
//!
//! ```text
//! payloads/SEQ-KEY-RANDOM      a payload: a line of JSON, its head, and the ciphertext
//! payloads/SEQ-KEY.key         a data key: JSON
//! ```
//! SEQ is the number that the log had reached, 20 digits; KEY the data key's id, 16 digits; RANDOM 8 digits. The record that belongs to a file
//! names it with its size and SHA-256 ([`Reference`]) and comes after it.
//!
//! Owns: the files' form, and that they are there before their records (`keeper`), opening them (`opening`, `share`), their end (`removal`), and what
//! `verify` says of them (`check`). Leaves to others: which calls have payloads (`trail`), and who may open them (`config`).
//!
//! INVARIANT: a record that names a file comes after the file is durable.
//! INVARIANT: no plain text and no content key is ever written.

pub(super) mod check;
mod data_key;
mod keeper;
mod opening;
pub(super) mod removal;
mod share;

use std::fmt;

pub use self::check::Sealed;
pub(super) use self::keeper::Place;
pub use self::keeper::{Payloads, StoreError, Unsealable};
pub use self::opening::{Keyring, OpenError, Opened, Payload, PersonKey};
pub use self::removal::{Erasure, Found, destroy, erasures, keys_of};
pub use self::share::{Share, ShareError};
use super::record::Kind;
use crate::seal::{hex, sha256};

/// Which file holds a payload or a data key, and which bytes it has: `FILE BYTES sha256:HEX` in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The file's name in `payloads/`.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Reference {
    /// To a file with these bytes.
    pub fn of(file: String, bytes: &[u8]) -> Self {
        Self { file, bytes: bytes.len() as u64, sha256: hex(&sha256(bytes)) }
    }

    /// Reads what a record says; `None` where it names no file.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (file, bytes, hash) = (words.next()?, words.next()?, words.next()?.strip_prefix("sha256:")?);
        let is_sound = key_id(file).is_some() && hash.len() == 64 && hash.bytes().all(is_hex) && words.next().is_none();
        is_sound.then(|| Some(Self { file: file.to_owned(), bytes: bytes.parse().ok()?, sha256: hash.to_owned() }))?
    }

    /// The data key's id.
    pub fn key(&self) -> &str {
        key_id(&self.file).unwrap_or_default()
    }

    /// Whether it names a data key, and no payload.
    pub fn is_key(&self) -> bool {
        self.file.ends_with(KEY_ENDING)
    }

    /// Whether these are the bytes.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        self.bytes == bytes.len() as u64 && self.sha256 == hex(&sha256(bytes))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} sha256:{}", self.file, self.bytes, self.sha256)
    }
}

/// The data key that a file in `payloads/` is, or is sealed with, by its name; `None` where it has no such name.
fn key_id(file: &str) -> Option<&str> {
    let (seq, rest) = file.split_at_checked(20)?;
    let (key, rest) = rest.strip_prefix('-')?.split_at_checked(16)?;
    let random = rest.strip_prefix('-').is_some_and(|random| random.len() == 8 && random.bytes().all(is_hex));
    let is_sound = seq.bytes().all(|byte| byte.is_ascii_digit()) && key.bytes().all(is_hex) && (random || rest == KEY_ENDING);
    is_sound.then_some(key)
}

/// The number that the log had reached when a file was made.
fn made_at(file: &str) -> Option<u64> {
    key_id(file).and(file.get(..20)?.parse().ok())
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// What a payload is sealed for: nobody can pass one off as another's.
fn bound_to(origin: &str, call_id: &str, kind: Kind, file: &str) -> String {
    array(&[origin, call_id, kind.as_str(), file])
}

/// A JSON array of texts without spaces: one text for one list.
fn array(texts: &[&str]) -> String {
    serde_json::json!(texts).to_string()
}

const KEY_ENDING: &str = ".key";
/// The version of the form of keys and shares.
const VERSION: u64 = 1;
/// What stands for a payload in a record where there is none: this word, and why.
pub(super) const MISSING: &str = "missing";
/// The form of `payload` in a record.
pub(super) const PATTERN: &str =
    "^([0-9]{20}-[0-9a-f]{16}(-[0-9a-f]{8}|\\.key) [0-9]+ sha256:[0-9a-f]{64}|missing (too_large|no_space|failed))$";

#[cfg(test)]
#[path = "payload/tests.rs"]
mod stored;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_comes_back_from_print_and_leads_out_of_no_folder() {
        let reference = Reference::of("00000000000000000042-0123456789abcdef-00c0ffee".to_owned(), b"x");
        assert_eq!(Reference::parse(&reference.to_string()), Some(reference.clone()));
        assert_eq!((reference.key(), reference.is_key(), made_at(&reference.file)), ("0123456789abcdef", false, Some(42)));
        assert!(reference.is_of(b"x") && !reference.is_of(b"y"));
        let key = Reference::of("00000000000000000042-0123456789abcdef.key".to_owned(), b"x");
        assert!(Reference::parse(&key.to_string()).unwrap().is_key());
        for wrong in
            ["../../../etc/passwd", "00000000000000000042-0123456789abcdef-../../xx", "0000000000000000004é-0123456789abcdef-00c0ffee"]
        {
            assert_eq!(Reference::parse(&reference.to_string().replace(&reference.file, wrong)), None, "{wrong}");
        }
        assert_eq!((Reference::parse("missing too_large"), Reference::parse(&format!("{reference} x"))), (None, None));
    }
}
