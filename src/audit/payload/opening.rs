//! Opening a payload with the keys of people.
//!
//! Owns: which keys are enough, and why it cannot be opened. Leaves to others: that it is on record before it is shown (`cli`), and whether what is
//! gone was erased (`removal`).

use std::collections::BTreeMap;
use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::super::record::{Kind, Stored};
use super::super::storage::Storage;
use super::data_key::{Head, KEY_INFO, KeyFile, Lock, Secret, apply, mask};
use super::share::Share;
use super::{KEY_ENDING, MISSING, Reference, bound_to};
use crate::config::OpenerKey;
use crate::seal::KEY_BYTES;
use crate::seal::hpke::PrivateKey;

/// A person's private key, and the name of the file it was read from.
#[derive(Debug)]
pub struct PersonKey {
    /// The file, for messages.
    pub file: String,
    /// The key.
    pub key: PrivateKey,
}

impl PersonKey {
    /// A new key, to be kept in this file; `None` when the machine gives no randomness.
    pub fn generate(file: &str) -> Option<Self> {
        PrivateKey::generate().map(|key| Self { file: file.to_owned(), key })
    }

    /// The key whose text was read from this file; `None` where it is none.
    pub fn parse(file: &str, text: &str) -> Option<Self> {
        let (_, encoded) = text.trim_ascii_end().strip_prefix(PRIVATE)?.split_once('+')?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).ok()?);
        let key = PrivateKey::new(bytes.as_slice().try_into().ok()?)?;
        Some(Self { file: file.to_owned(), key })
    }

    /// The text that its file holds, with its owner's name.
    pub fn text(&self, name: &str) -> Zeroizing<String> {
        let encoded = Zeroizing::new(STANDARD.encode(self.key.bytes()));
        Zeroizing::new(format!("{PRIVATE}{name}+{}", *encoded))
    }

    /// The public half.
    pub fn public(&self) -> OpenerKey {
        OpenerKey::new(*self.key.public())
    }
}

/// What is at hand to open with.
#[derive(Debug, Default)]
pub struct Keyring {
    /// Private keys.
    pub keys: Vec<PersonKey>,
    /// What others have agreed to.
    pub shares: Vec<Share>,
}

/// A payload that was opened.
#[derive(Debug)]
pub struct Opened {
    /// JSON: what is kept of the call.
    pub plain: Zeroizing<Vec<u8>>,
    /// Whose keys opened it.
    pub openers: Vec<String>,
}

/// Why a payload cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It was not kept, and the record says why.
    #[error("its payload was not kept: {0}")]
    NotKept(String),
    /// The key's file is not there.
    #[error("the key `{0}` that it is sealed with is not there")]
    NoKey(String),
    /// The file is not there.
    #[error("the file `{0}` with its payload is not there")]
    NoFile(String),
    /// The file is not what was recorded.
    #[error("the file `{0}` with its payload was changed: it is not the one that the record names")]
    Changed(String),
    /// The key's file is not what was made.
    #[error("the key `{0}` that it is sealed with was changed, or the record that names it was")]
    ChangedKey(String),
    /// A key is nobody's who may open it.
    #[error("`{file}` is the key of none of those who can open it: {openers}")]
    WrongKey {
        /// The private key's file.
        file: String,
        /// Who can.
        openers: String,
    },
    /// More people are needed.
    #[error(
        "{quorum} of {openers} have to open it together, and {given}; give another --key, or a --share that one of them makes with --share-to"
    )]
    Quorum {
        /// How many are needed.
        quorum: usize,
        /// Who can.
        openers: String,
        /// Who did.
        given: String,
    },
    /// A share is needed only where two have to agree.
    #[error("one key alone opens it, so there is nothing to share")]
    NothingToShare,
    /// The disk reported an error.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// A payload's files, read and held against its record.
pub struct Payload<'a> {
    origin: &'a str,
    call_id: &'a str,
    kind: Kind,
    pub(super) reference: Reference,
    pub(super) key: KeyFile,
    pub(super) head: Head,
    bytes: Vec<u8>,
}

impl<'a> Payload<'a> {
    /// The payload of a record; `None` where it has none.
    ///
    /// # Errors
    /// [`OpenError`]: it is not there, or not what was recorded.
    pub fn of(storage: &dyn Storage, stored: &'a Stored) -> Result<Option<Self>, OpenError> {
        let Some(text) = stored.record.payload.as_deref() else { return Ok(None) };
        if let Some(why) = text.strip_prefix(MISSING) {
            return Err(OpenError::NotKept(why.trim_start().to_owned()));
        }
        let Some(reference) = Reference::parse(text).filter(|reference| !reference.is_key()) else { return Ok(None) };
        let bytes = storage.payload(&reference.file)?;
        let Some(key) = key_file(storage, reference.key())? else { return Err(OpenError::NoKey(reference.key().to_owned())) };
        let bytes = bytes.ok_or_else(|| OpenError::NoFile(reference.file.clone()))?;
        let changed = || OpenError::Changed(reference.file.clone());
        if !reference.is_of(&bytes) {
            return Err(changed());
        }
        let (head, _) = Head::split(&bytes).ok_or_else(changed)?;
        let call_id = stored.record.call_id.as_deref().unwrap_or_default();
        Ok(Some(Self { origin: &stored.origin, call_id, kind: stored.record.kind, reference, key, head, bytes }))
    }

    /// The data key that it is sealed with, and whose it is.
    pub fn key(&self) -> (&str, &str) {
        (&self.key.id, &self.key.subject)
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`OpenError`]: a wrong key, too few keys, or what was changed.
    pub fn open(&self, with: &Keyring) -> Result<Opened, OpenError> {
        let mine = self.secrets(with)?;
        let shared = with.shares.iter().flat_map(|share| share.of(&self.reference.file, &with.keys)).collect::<Vec<_>>();
        for lock in &self.head.locks {
            let set: Vec<&str> = lock.openers.iter().map(String::as_str).collect();
            let mask_of = |name: &&str| {
                let own = mine.get(*name).map(|secret| mask(secret, &self.bound_to(), &set));
                own.or_else(|| shared.iter().find(|part| part.from == **name && part.openers == lock.openers).map(|part| part.mask.clone()))
            };
            if let Some(masks) = set.iter().map(mask_of).collect::<Option<Vec<Secret>>>() {
                let plain = self.unlocked(lock, &masks).ok_or_else(|| OpenError::ChangedKey(self.key.id.clone()))?;
                return Ok(Opened { plain, openers: lock.openers.clone() });
            }
        }
        let given = match mine.keys().map(String::as_str).collect::<Vec<_>>().join(" and ") {
            none if none.is_empty() => "no key of theirs was given".to_owned(),
            names => format!("only the key of {names} was given"),
        };
        Err(OpenError::Quorum { quorum: self.key.quorum, openers: self.openers(), given })
    }

    fn unlocked(&self, lock: &Lock, masks: &[Secret]) -> Option<Zeroizing<Vec<u8>>> {
        let masked = Zeroizing::new(STANDARD.decode(&lock.masked).ok()?);
        let mut content = Secret::default();
        content.copy_from_slice(masked.as_slice().try_into().map(|masked: &[u8; KEY_BYTES]| masked).ok()?);
        masks.iter().for_each(|mask| apply(&mut content, mask));
        let (_, sealed) = Head::split(&self.bytes)?;
        self.head.open(&content, &self.bound_to(), sealed)
    }

    /// The record that it belongs to.
    pub(super) fn bound_to(&self) -> String {
        bound_to(self.origin, self.call_id, self.kind, &self.reference.file)
    }

    /// The secrets that the private keys at hand open, by their opener.
    pub(super) fn secrets(&self, with: &Keyring) -> Result<BTreeMap<String, Secret>, OpenError> {
        let mut secrets = BTreeMap::new();
        for person in &with.keys {
            let PersonKey { file, key } = person;
            let Some(sealed) = self.key.openers.iter().find(|opener| opener.key == person.public()) else {
                return Err(OpenError::WrongKey { file: file.clone(), openers: self.openers() });
            };
            let opened = STANDARD.decode(&sealed.sealed).ok().and_then(|text| key.open(KEY_INFO, &self.key.bound_to(&sealed.name), &text));
            let secret = opened.and_then(|opened| Some(Secret::new(opened.as_slice().try_into().ok()?)));
            secrets.insert(sealed.name.clone(), secret.ok_or_else(|| OpenError::ChangedKey(self.key.id.clone()))?);
        }
        Ok(secrets)
    }

    fn openers(&self) -> String {
        self.key.openers.iter().map(|opener| opener.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// The file of the data key with this id; `None` where it is not there.
fn key_file(storage: &dyn Storage, id: &str) -> Result<Option<KeyFile>, OpenError> {
    let ending = format!("-{id}{KEY_ENDING}");
    let Some(name) = storage.payloads()?.into_iter().find(|name| name.ends_with(&ending)) else { return Ok(None) };
    let Some(bytes) = storage.payload(&name)? else { return Ok(None) };
    let file = KeyFile::parse(&bytes).filter(|file| file.id == id);
    file.map(Some).ok_or_else(|| OpenError::ChangedKey(id.to_owned()))
}

/// Before a name and a private key in its file.
const PRIVATE: &str = "PRIVATE+PAYLOAD+KEY+";
