//! Hashes, and sealed text: what we hand out and want back unread and unchanged, such as session ids.
//!
//! AES-256-GCM with a random nonce, under a key that stays in the state folder. The purpose is authenticated with it, so
//! that a session id is no cursor. A seal hides and proves; it does not expire by itself: put an instant inside.

pub mod hpke;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::rand::{GetRandomFlags, getrandom};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Longest sealed text that is looked at where nobody says otherwise, in bytes.
const MAX_SEALED: usize = 4096;

/// Seals and opens under one key.
#[derive(Debug)]
pub struct Seal(LessSafeKey);

impl Seal {
    /// A seal under this key; `None` when the cryptographic library refuses it.
    pub fn new(key: &[u8; KEY_BYTES]) -> Option<Self> {
        UnboundKey::new(&AES_256_GCM, key).ok().map(|key| Self(LessSafeKey::new(key)))
    }

    /// Seals `plain` for a purpose, as unpadded URL-safe Base64; `None` when the machine gives no randomness.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        random(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose.as_bytes()), &mut sealed).ok()?;
        let mut text = nonce.to_vec();
        text.append(&mut sealed);
        Some(URL_SAFE_NO_PAD.encode(text))
    }

    /// Opens what [`Seal::seal`] made for the same purpose; `None` for everything else.
    pub fn open(&self, purpose: &str, sealed: &str) -> Option<Vec<u8>> {
        self.open_within(purpose, sealed, MAX_SEALED)
    }

    /// The same for text of up to `longest` bytes, where something long was sealed.
    pub fn open_within(&self, purpose: &str, sealed: &str, longest: usize) -> Option<Vec<u8>> {
        let mut bytes = URL_SAFE_NO_PAD.decode(Some(sealed).filter(|text| text.len() <= longest)?).ok()?;
        let nonce = Nonce::try_assume_unique_for_key(bytes.get(..NONCE_LEN)?).ok()?;
        let mut body = bytes.split_off(NONCE_LEN);
        let length = self.0.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

/// The key of that name in the folder, made there with mode 0600 when it is not yet.
///
/// # Errors
/// What the file system says, or that the file is no key.
pub fn key(folder: &Path, name: &str) -> std::io::Result<[u8; KEY_BYTES]> {
    let file = folder.join(name);
    if let Some(key) = read_key(&file)? {
        return Ok(key);
    }
    let mut key = [0; KEY_BYTES];
    random(&mut key)?;
    // A link makes the finished file appear at once: of two that start together, one wins and both read its key.
    let partial = folder.join(format!("{name}.{}.partial", std::process::id()));
    let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    out.write_all(&key)?;
    out.sync_all()?;
    let linked = std::fs::hard_link(&partial, &file);
    std::fs::remove_file(&partial)?;
    match linked {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => read_key(&file)?.ok_or(error),
        Err(error) => Err(error),
    }
}

fn read_key(file: &Path) -> std::io::Result<Option<[u8; KEY_BYTES]>> {
    match std::fs::read(file) {
        Ok(kept) => {
            let key =
                kept.try_into().map_err(|_| std::io::Error::other(format!("{} is not a key of {KEY_BYTES} bytes", file.display())))?;
            Ok(Some(key))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fills with the kernel's randomness: the cryptographic library's own source was seen to take some
/// 30 ms at its first use.
///
/// # Errors
/// What the kernel says.
pub fn random(out: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += getrandom(rest, GetRandomFlags::empty())?;
    }
    Ok(())
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    push_hex(bytes, &mut out);
    out
}

/// Appends the bytes in lower-case hexadecimal.
pub fn push_hex(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.push(char::from(DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0')));
        }
    }
}
