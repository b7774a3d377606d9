//! Signed notes (C2SP signed-note), signed with Ed25519: some lines of text, an empty line, and a line for each signature.
//!
//! ```text
//! doorward/main                                                    the text, as its readers define it; it ends with a line feed
//! …
//!                                                                  an empty line
//! — doorward/main Base64(key id, 4 bytes ‖ signature, 64 bytes)    the name of the key after an em dash (U+2014) and a space
//!
//! key id       = the first 4 bytes of SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key, 32 bytes)
//! key in print = name+8 hexadecimal digits of the key id+Base64(0x01 ‖ public key)          («vkey»; Base64 with padding throughout)
//! ```
//! What is signed is the text with its last line feed, without the empty line. Signatures by unknown keys are passed over: others may add theirs.
//!
//! Owns: the form, the keys and the signatures. Leaves to others: what a text says (`checkpoint`), where keys are kept.
//!
//! INVARIANT: a private key leaves this module only in memory that wipes itself.

use std::fmt;
use std::io;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::seal::{hex, random, sha256};

/// Longest note that is read, in bytes.
pub const MAX_NOTE_BYTES: usize = 64 << 10;
/// Most signatures of a note that is read.
const MAX_SIGNATURES: usize = 100;
/// The signature type of Ed25519.
const TYPE: u8 = 0x01;
/// Before a private key in print.
const PRIVATE: &str = "PRIVATE+KEY+";
/// Before each signature: an em dash and a space.
const MARK: &str = "\u{2014} ";

/// A key that signatures are checked with, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyingKey {
    name: String,
    public: [u8; 32],
}

impl VerifyingKey {
    /// The key of this name; `None` where the name is empty or has a space, a control character or a `+`.
    pub fn new(name: &str, public: [u8; 32]) -> Option<Self> {
        is_name(name).then(|| Self { name: name.to_owned(), public })
    }

    /// Whose key it says it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What tells apart the keys of one name.
    pub fn id(&self) -> [u8; 4] {
        let hash = sha256(&[self.name.as_bytes(), &[b'\n', TYPE], &self.public].concat());
        [hash[0], hash[1], hash[2], hash[3]]
    }

    fn has_signed(&self, text: &str, signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.public).verify(text.as_bytes(), signature).is_ok()
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut typed = vec![TYPE];
        typed.extend_from_slice(&self.public);
        write!(out, "{}+{}+{}", self.name, hex(&self.id()), STANDARD.encode(typed))
    }
}

impl FromStr for VerifyingKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let read = || {
            let (name, rest) = text.split_once('+')?;
            let (_, typed) = rest.split_once('+')?;
            let public = STANDARD.decode(typed).ok()?.strip_prefix(&[TYPE])?.try_into().ok()?;
            // The id is checked with all the rest: one key has one form in print.
            Self::new(name, public).filter(|key| key.to_string() == text)
        };
        read().ok_or(NoteError::Key)
    }
}

/// A key that signs.
#[derive(Debug)]
pub struct Signer {
    pair: Ed25519KeyPair,
    key: VerifyingKey,
}

impl Signer {
    /// A new key of this name.
    ///
    /// # Errors
    /// The machine gives no randomness, or the name cannot be one.
    pub fn generate(name: &str) -> io::Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        random(&mut *seed)?;
        Self::from_seed(name, &*seed).map_err(io::Error::other)
    }

    /// The key that was stored as [`Signer::seed`] gave it.
    ///
    /// # Errors
    /// The seed is not 32 bytes, or the name cannot be one.
    pub fn from_seed(name: &str, seed: &[u8]) -> Result<Self, NoteError> {
        let seed = Some(seed).filter(|seed| seed.len() == 32).ok_or(NoteError::Key)?;
        Self::of(name, Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_rejected| NoteError::Key)?)
    }

    /// The key in a PKCS#8 document, such as `openssl genpkey -algorithm ed25519 -outform DER` makes.
    ///
    /// # Errors
    /// The document holds no Ed25519 key, or the name cannot be one.
    pub fn from_pkcs8(name: &str, document: &[u8]) -> Result<Self, NoteError> {
        Self::of(name, Ed25519KeyPair::from_pkcs8(document).map_err(|_rejected| NoteError::Key)?)
    }

    fn of(name: &str, pair: Ed25519KeyPair) -> Result<Self, NoteError> {
        let public = pair.public_key().as_ref().try_into().map_err(|_not_32| NoteError::Key)?;
        let key = VerifyingKey::new(name, public).ok_or(NoteError::Key)?;
        Ok(Self { pair, key })
    }

    /// The private key, to be stored where only its owner reads it.
    ///
    /// # Errors
    /// The cryptographic library does not give it.
    pub fn seed(&self) -> Result<Zeroizing<[u8; 32]>, NoteError> {
        use aws_lc_rs::encoding::AsBigEndian;
        let bytes = self.pair.seed().and_then(|seed| seed.as_be_bytes()).map_err(|_unspecified| NoteError::Key)?;
        let mut seed = Zeroizing::new([0; 32]);
        seed.copy_from_slice(Some(bytes.as_ref()).filter(|bytes| bytes.len() == 32).ok_or(NoteError::Key)?);
        Ok(seed)
    }

    /// The private key in print, as it is kept: `PRIVATE+KEY+NAME+HASH+BASE64`, the form that other makers of signed notes use too.
    ///
    /// # Errors
    /// The cryptographic library does not give it.
    pub fn to_private_text(&self) -> Result<Zeroizing<String>, NoteError> {
        let mut typed = Zeroizing::new(vec![TYPE]);
        typed.extend_from_slice(&*self.seed()?);
        let encoded = Zeroizing::new(STANDARD.encode(&*typed));
        Ok(Zeroizing::new(format!("{PRIVATE}{}+{}+{}", self.key.name, hex(&self.key.id()), *encoded)))
    }

    /// The key that was printed by [`Signer::to_private_text`]; a line feed may follow.
    ///
    /// # Errors
    /// It has not that form, or its hash is another key's.
    pub fn from_private_text(text: &str) -> Result<Self, NoteError> {
        let read = || {
            let (name, rest) = text.trim_ascii_end().strip_prefix(PRIVATE)?.split_once('+')?;
            let (id, encoded) = rest.split_once('+')?;
            let typed = Zeroizing::new(STANDARD.decode(encoded).ok()?);
            let signer = Self::from_seed(name, typed.strip_prefix(&[TYPE])?).ok()?;
            (hex(&signer.key.id()) == id).then_some(signer)
        };
        read().ok_or(NoteError::Key)
    }

    /// The key that others check with.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The note of this text with one signature.
    ///
    /// # Errors
    /// The text cannot be one: see [`open`].
    pub fn sign(&self, text: &str) -> Result<String, NoteError> {
        if !is_text(text) {
            return Err(NoteError::Form);
        }
        let signature = self.pair.try_sign(text.as_bytes()).map_err(|_unspecified| NoteError::Key)?;
        let id_and_signature = [&self.key.id()[..], signature.as_ref()].concat();
        Ok(format!("{text}\n{MARK}{} {}\n", self.key.name, STANDARD.encode(id_and_signature)))
    }
}

/// Why a note is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is not a signed note at all.
    #[error("it is not a signed note")]
    Form,
    /// The keys are not ones that can be used.
    #[error("it is not a key of this form: NAME+HASH+BASE64")]
    Key,
    /// None of the keys has signed it.
    #[error("it is not signed by a known key")]
    Unsigned,
    /// A signature under the name and id of a key is not that key's.
    #[error("its signature is false")]
    False,
}

/// A note taken apart; its signatures are not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    text: &'a str,
    signatures: Vec<(&'a str, Vec<u8>)>,
}

impl<'a> Note<'a> {
    /// Takes a note apart.
    ///
    /// # Errors
    /// `Form`: it has not the form above, has control characters, is over [`MAX_NOTE_BYTES`], or has over 100 signatures.
    pub fn parse(note: &'a str) -> Result<Self, NoteError> {
        let read = || {
            let whole = Some(note).filter(|note| note.len() <= MAX_NOTE_BYTES)?;
            let at = whole.rfind("\n\n")?;
            let text = whole.get(..=at).filter(|text| is_text(text))?;
            let lines = whole.get(at + 2..)?.strip_suffix('\n')?;
            let signatures: Option<Vec<_>> = lines.split('\n').take(MAX_SIGNATURES + 1).map(signature).collect();
            Some(Self { text, signatures: signatures.filter(|all| all.len() <= MAX_SIGNATURES)? })
        };
        read().ok_or(NoteError::Form)
    }

    /// What may have been signed; nothing is known of it yet.
    pub fn unchecked_text(&self) -> &'a str {
        self.text
    }

    /// The text, if this key has signed it.
    ///
    /// # Errors
    /// `Unsigned`, `False`.
    pub fn text(&self, key: &VerifyingKey) -> Result<&'a str, NoteError> {
        let id = key.id();
        let mut ours = self.signatures.iter().filter(|(name, bytes)| *name == key.name && bytes.starts_with(&id)).peekable();
        if ours.peek().is_none() {
            return Err(NoteError::Unsigned);
        }
        let all_hold = ours.all(|(_, bytes)| key.has_signed(self.text, &bytes[id.len()..]));
        if all_hold { Ok(self.text) } else { Err(NoteError::False) }
    }
}

/// The text of a note, if this key has signed it.
///
/// # Errors
/// See [`NoteError`].
pub fn open<'a>(note: &'a str, key: &VerifyingKey) -> Result<&'a str, NoteError> {
    Note::parse(note)?.text(key)
}

fn signature(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, encoded) = line.strip_prefix(MARK)?.split_once(' ')?;
    let bytes = STANDARD.decode(encoded).ok()?;
    (is_name(name) && bytes.len() > 4).then_some((name, bytes))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|letter: char| letter.is_whitespace() || letter.is_control() || letter == '+')
}

fn is_text(text: &str) -> bool {
    text.ends_with('\n') && !text.contains(|letter: char| letter.is_ascii_control() && letter != '\n')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // The key, the text and the signature that the signed-note specification and its first implementation publish.
    const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const SEED: &str = "gQoUAtUUbI2E8kQzMPVAgOv5juF9nHT2JS/F1ccoMXM=";
    const TEXT: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";
    const SIGNATURE: &str =
        "\n\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    fn peter() -> VerifyingKey {
        KEY.parse().unwrap()
    }

    #[test]
    fn the_published_note_opens_and_is_signed_the_same_again() {
        let note = format!("{TEXT}{SIGNATURE}");
        assert_eq!(open(&note, &peter()), Ok(TEXT));
        let signer = Signer::from_seed("PeterNeumann", &STANDARD.decode(SEED).unwrap()).unwrap();
        assert_eq!((signer.key().to_string().as_str(), signer.sign(TEXT).unwrap()), (KEY, note));
    }

    #[test]
    fn a_key_comes_back_from_its_seed_and_from_openssls_form() {
        let signer = Signer::generate("a/b").unwrap();
        let again = Signer::from_seed("a/b", &*signer.seed().unwrap()).unwrap();
        assert_eq!(signer.sign("x\n"), again.sign("x\n"));
        // RFC 8410, 10.3: the header of a PKCS#8 document before the seed.
        let header = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        let document = [&header[..], &*signer.seed().unwrap()].concat();
        assert_eq!(Signer::from_pkcs8("a/b", &document).unwrap().key(), signer.key());
        assert_ne!(Signer::generate("a/b").unwrap().key(), signer.key());
    }

    #[test]
    fn a_private_key_comes_back_from_print() {
        let signer = Signer::from_seed("PeterNeumann", &STANDARD.decode(SEED).unwrap()).unwrap();
        let text = signer.to_private_text().unwrap();
        assert_eq!(*text, "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz");
        assert_eq!(Signer::from_private_text(&format!("{}\n", *text)).unwrap().key(), signer.key());
        for wrong in [text.replace("c74f", "c74e"), text.replace("PRIVATE", "private"), text.replace("+AY", "+BY"), String::new()] {
            assert_eq!(Signer::from_private_text(&wrong).map(drop), Err(NoteError::Key), "{wrong}");
        }
    }

    #[test]
    fn a_key_has_one_form() {
        for wrong in [
            "PeterNeumann+c74f20a4+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+C74F20A3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
            "Peter Neumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
            "PeterNeumann+c74f20a3",
            "",
        ] {
            assert_eq!(wrong.parse::<VerifyingKey>(), Err(NoteError::Key), "{wrong}");
        }
        assert_eq!(peter().to_string(), KEY);
    }

    #[test]
    fn other_signatures_are_passed_over_and_a_false_one_under_our_name_is_not() {
        let note = format!("{TEXT}{SIGNATURE}");
        let ours = SIGNATURE.trim_start();
        let other = Signer::generate("other").unwrap().sign(TEXT).unwrap();
        let theirs = other.rsplit_once("\n\n").unwrap().1;
        assert_eq!(open(&format!("{TEXT}\n{theirs}{ours}"), &peter()), Ok(TEXT));
        assert_eq!(open(&other, &peter()), Err(NoteError::Unsigned));
        assert_eq!(open(&note.replace("your problem is", "my problem is"), &peter()), Err(NoteError::False));
        let second = ours.replace("BwJnAM=", "BwJnAA=");
        assert_eq!(open(&format!("{TEXT}\n{ours}{second}"), &peter()), Err(NoteError::False));
    }

    #[test]
    fn what_is_not_a_note_is_told_so() {
        let ours = SIGNATURE.trim_start();
        for wrong in [
            String::new(),
            TEXT.to_owned(),
            format!("{TEXT}{ours}"),
            format!("{TEXT}\n"),
            format!("{TEXT}{}", SIGNATURE.trim_end()),
            format!("{TEXT}{SIGNATURE}\n"),
            format!("{}{SIGNATURE}", TEXT.replace('\n', "\r\n")),
            format!("{TEXT}{}", SIGNATURE.replace('\u{2014}', "-")),
            format!("{TEXT}\n{}", ours.repeat(MAX_SIGNATURES + 1)),
            format!("{}\n{SIGNATURE}", "x".repeat(MAX_NOTE_BYTES)),
        ] {
            assert_eq!(open(&wrong, &peter()), Err(NoteError::Form), "{wrong}");
        }
        assert_eq!(Signer::generate("a").unwrap().sign("no line feed"), Err(NoteError::Form));
        assert!(Signer::generate("a b").is_err());
    }

    proptest! {
        #[test]
        fn no_changed_byte_of_a_note_is_taken(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = format!("{TEXT}{SIGNATURE}").into_bytes();
            let at = at.index(bytes.len());
            prop_assume!(bytes[at] != byte);
            bytes[at] = byte;
            prop_assert!(String::from_utf8(bytes).map_or(true, |note| open(&note, &peter()).is_err()));
        }

        #[test]
        fn nothing_makes_the_reader_panic(text in "(\\PC|\n|\u{2014} ){0,60}") {
            prop_assert!(open(&text, &peter()).is_err());
            prop_assert!(text.parse::<VerifyingKey>().is_err());
        }
    }
}
