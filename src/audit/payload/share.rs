//! What one opener hands to another, so that two people need not sit at one machine: for each payload of a call the mask of the first, sealed to the
//! second. It opens that call and no other.
//!
//! Owns: the file's form. Leaves to others: opening (`opening`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::data_key::{Secret, mask};
use super::opening::{Keyring, OpenError, Payload, PersonKey};
use super::{VERSION, array};
use crate::seal::hpke::seal_to;

/// A file that `--share-to` makes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Share {
    doorward_payload_share: u64,
    /// Which record was asked for, as `ORIGIN:SEQ`.
    pub record: String,
    /// Why, in the words of whoever made it.
    pub reason: String,
    parts: Vec<Part>,
}

/// A file is no share.
#[derive(Debug, thiserror::Error)]
#[error("it is no share that `doorward audit reveal --share-to` made")]
pub struct ShareError;

/// One mask, sealed.
#[derive(Debug, Serialize, Deserialize)]
struct Part {
    file: String,
    from: String,
    to: String,
    openers: Vec<String>,
    sealed: String,
}

/// One mask, opened.
pub(super) struct OpenPart {
    pub(super) from: String,
    pub(super) openers: Vec<String>,
    pub(super) mask: Secret,
}

impl Part {
    fn bound_to(&self) -> String {
        let mut texts = vec![self.file.as_str(), &self.from, &self.to];
        texts.extend(self.openers.iter().map(String::as_str));
        array(&texts)
    }
}

impl Share {
    /// An empty share for a record.
    pub fn new(record: String, reason: String) -> Self {
        Self { doorward_payload_share: VERSION, record, reason, parts: Vec::new() }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It is no share.
    pub fn parse(text: &str) -> Result<Self, ShareError> {
        let share: Result<Self, _> = serde_json::from_str(text);
        share.ok().filter(|share| share.doorward_payload_share == VERSION).ok_or(ShareError)
    }

    /// The file's text.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }

    /// Agrees to open a payload; who has agreed.
    ///
    /// # Errors
    /// [`OpenError`]: a wrong key, or one alone is enough.
    pub fn agree(&mut self, kept: &Payload<'_>, with: &Keyring) -> Result<Vec<String>, OpenError> {
        let secrets = kept.secrets(with)?;
        if kept.key.quorum == 1 {
            return Err(OpenError::NothingToShare);
        }
        let key_of = |name: &str| kept.key.openers.iter().find(|opener| opener.name == *name).map(|opener| opener.key);
        for lock in &kept.head.locks {
            for (from, secret) in secrets.iter().filter(|(name, _)| lock.openers.contains(name)) {
                for to in lock.openers.iter().filter(|name| *name != from) {
                    let set: Vec<&str> = lock.openers.iter().map(String::as_str).collect();
                    let (from, to, openers) = (from.clone(), to.clone(), lock.openers.clone());
                    let mut part = Part { file: kept.reference.file.clone(), from, to, openers, sealed: String::new() };
                    let mask = mask(secret, &kept.bound_to(), &set);
                    let sealed = key_of(&part.to).and_then(|key| seal_to(key.bytes(), SHARE_INFO, &part.bound_to(), &*mask));
                    part.sealed = STANDARD.encode(sealed.ok_or_else(|| OpenError::ChangedKey(kept.key.id.clone()))?);
                    self.parts.push(part);
                }
            }
        }
        Ok(secrets.into_keys().collect())
    }

    /// The masks for a file that these keys open.
    pub(super) fn of(&self, file: &str, keys: &[PersonKey]) -> Vec<OpenPart> {
        let opened = |part: &Part| {
            let sealed = STANDARD.decode(&part.sealed).ok()?;
            let mask = keys.iter().find_map(|person| person.key.open(SHARE_INFO, &part.bound_to(), &sealed))?;
            let mask = Secret::new(mask.as_slice().try_into().ok()?);
            Some(OpenPart { from: part.from.clone(), openers: part.openers.clone(), mask })
        };
        self.parts.iter().filter(|part| part.file == file).filter_map(opened).collect()
    }
}

/// The use that masks are sealed for.
const SHARE_INFO: &str = "doorward payload share 1";
