//! A data key: a secret for each opener, in memory while it is used, and on disk only sealed to each of them.
//!
//! Owns: the key's file, masks, and the sealing of one payload. Leaves to others: which key is in use (`keeper`), and its opening (`opening`).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{KEY_ENDING, VERSION, array};
use crate::config::{OpenerKey, Openers};
use crate::seal::hpke::seal_to;
use crate::seal::{KEY_BYTES, hex, random};

/// 32 secret bytes, wiped when they are dropped.
pub(super) type Secret = Zeroizing<[u8; KEY_BYTES]>;

/// A data key in memory.
pub(super) struct DataKey {
    pub(super) id: String,
    /// `2026-11`, in UTC.
    pub(super) month: String,
    /// The name of its file.
    pub(super) file: String,
    secrets: Vec<(String, Secret)>,
    quorum: usize,
}

/// A data key on disk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeyFile {
    doorward_payload_key: u64,
    pub(super) id: String,
    pub(super) origin: String,
    /// Whose payloads: `agent:NAME`, or whom the calls were made for.
    pub(super) subject: String,
    pub(super) month: String,
    /// How many openers are needed.
    pub(super) quorum: usize,
    pub(super) openers: Vec<SealedSecret>,
}

/// One opener's secret.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SealedSecret {
    pub(super) name: String,
    /// The public key that it is sealed to.
    pub(super) key: OpenerKey,
    /// HPKE in Base64.
    pub(super) sealed: String,
}

/// The first line of a payload's file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    doorward_payload: u64,
    pub(super) nonce: String,
    pub(super) locks: Vec<Lock>,
}

/// The content key for one set of openers that is enough.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Lock {
    pub(super) openers: Vec<String>,
    /// The content key, masked by each of them; Base64.
    pub(super) masked: String,
}

impl DataKey {
    /// A new key and the bytes of its file; `None` when the machine gives no randomness, or an opener's key is none.
    pub(super) fn make(openers: &Openers, origin: &str, subject: &str, month: &str, at: u64) -> Option<(Self, Vec<u8>)> {
        let mut id = [0; 8];
        random(&mut id).ok()?;
        let id = hex(&id);
        let mut file = KeyFile {
            doorward_payload_key: VERSION,
            id: id.clone(),
            origin: origin.to_owned(),
            subject: subject.to_owned(),
            month: month.to_owned(),
            quorum: openers.quorum,
            openers: Vec::new(),
        };
        let mut secrets = Vec::new();
        for (name, key) in &openers.people {
            let secret = secret()?;
            let sealed = seal_to(key.bytes(), KEY_INFO, &file.bound_to(name), &*secret)?;
            file.openers.push(SealedSecret { name: name.clone(), key: *key, sealed: STANDARD.encode(sealed) });
            secrets.push((name.clone(), secret));
        }
        let name = format!("{at:020}-{id}{KEY_ENDING}");
        let bytes = serde_json::to_vec(&file).ok()?;
        Some((Self { id, month: month.to_owned(), file: name, secrets, quorum: openers.quorum }, bytes))
    }

    /// The bytes of a payload's file, bound to its place; `None` when the machine gives no randomness.
    pub(super) fn seal(&self, bound_to: &str, plain: &[u8]) -> Option<Vec<u8>> {
        let (content, mut nonce) = (secret()?, [0; NONCE_LEN]);
        random(&mut nonce).ok()?;
        let mut locks = Vec::new();
        for set in self.sets() {
            let names: Vec<&str> = set.iter().map(|(name, _)| name.as_str()).collect();
            let mut masked = content.clone();
            set.iter().for_each(|(_, secret)| apply(&mut masked, &mask(secret, bound_to, &names)));
            locks.push(Lock { openers: names.iter().map(|name| (*name).to_owned()).collect(), masked: STANDARD.encode(*masked) });
        }
        let head = Head { doorward_payload: PAYLOAD_VERSION, nonce: STANDARD.encode(nonce), locks };
        let mut sealed = plain.to_vec();
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*content).ok()?);
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound_to.as_bytes()), &mut sealed).ok()?;
        let mut bytes = serde_json::to_vec(&head).ok()?;
        bytes.push(b'\n');
        bytes.append(&mut sealed);
        Some(bytes)
    }

    /// Each set of openers that is enough.
    fn sets(&self) -> Vec<Vec<&(String, Secret)>> {
        let alone = || self.secrets.iter().map(|one| vec![one]).collect();
        let others = |at: usize| self.secrets.iter().skip(at + 1);
        let pairs = || self.secrets.iter().enumerate().flat_map(|(at, one)| others(at).map(move |other| vec![one, other])).collect();
        if self.quorum == 1 { alone() } else { pairs() }
    }
}

impl KeyFile {
    /// Reads a key's file; `None` where it is none.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|file: &Self| file.doorward_payload_key == VERSION)
    }

    /// What an opener's secret is sealed for.
    pub(super) fn bound_to(&self, name: &str) -> String {
        array(&[&self.origin, &self.id, &self.subject, &self.month, name])
    }
}

impl Head {
    /// Takes a payload's file apart: its head and its ciphertext; `None` where it is none.
    pub(super) fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let end = memchr::memchr(b'\n', bytes)?;
        let head: Self = serde_json::from_slice(bytes.get(..end)?).ok()?;
        (head.doorward_payload == PAYLOAD_VERSION).then_some((head, bytes.get(end + 1..)?))
    }

    /// Opens the ciphertext with its content key; `None` for another key, place or text.
    pub(super) fn open(&self, content: &Secret, bound_to: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let nonce = Nonce::try_assume_unique_for_key(&STANDARD.decode(&self.nonce).ok()?).ok()?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &**content).ok()?);
        let mut plain = Zeroizing::new(sealed.to_vec());
        let length = key.open_in_place(nonce, Aad::from(bound_to.as_bytes()), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

/// What an opener's secret adds to the content key of one payload, in one set. It is bound to the record as the content is: whoever agrees to one
/// call agrees to no other, even where the record that he is shown names another's file.
pub(super) fn mask(secret: &Secret, bound_to: &str, set: &[&str]) -> Secret {
    let texts: Vec<&str> = std::iter::once(bound_to).chain(set.iter().copied()).collect();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &**secret), array(&texts).as_bytes());
    let mut mask = Secret::default();
    mask.copy_from_slice(tag.as_ref());
    mask
}

/// Puts a mask on, or takes it off.
pub(super) fn apply(to: &mut Secret, mask: &Secret) {
    to.iter_mut().zip(mask.iter()).for_each(|(byte, mask)| *byte ^= mask);
}

fn secret() -> Option<Secret> {
    let mut secret = Secret::default();
    random(&mut *secret).ok()?;
    Some(secret)
}

/// The version of the form of payloads. In the first, masks were bound to the file alone.
const PAYLOAD_VERSION: u64 = 2;
/// The use that secrets are sealed for.
pub(super) const KEY_INFO: &str = "doorward payload key 1";
