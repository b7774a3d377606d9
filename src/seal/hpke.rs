//! Sealing to a person's public key: HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM, one message
//! to a context. A sealed text is the encapsulated key, 32 bytes, and then the ciphertext with its tag.
//!
//! Owns: the suite and the form. Leaves to others: what is sealed, and what it is bound to (`info` and `bound_to`).

use aws_lc_rs::agreement;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroizing;

use super::KEY_BYTES;

/// Seals `plain` to a public key, for one use (`info`) and one place (`bound_to`); `None` where it is no key, or the cryptographic library fails.
pub fn seal_to(public: &[u8; KEY_BYTES], info: &str, bound_to: &str, plain: &[u8]) -> Option<Vec<u8>> {
    let to = HpkePublicKey(public.to_vec());
    let (EncapsulatedSecret(mut sealed), mut rest) = SUITE.seal(info.as_bytes(), bound_to.as_bytes(), plain, &to).ok()?;
    sealed.append(&mut rest);
    Some(sealed)
}

/// A person's private key.
pub struct PrivateKey {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    public: [u8; KEY_BYTES],
}

impl PrivateKey {
    /// A new key; `None` when the machine gives no randomness.
    pub fn generate() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        super::random(&mut *bytes).ok()?;
        Self::new(&bytes)
    }

    /// The key of these bytes; `None` where they are none.
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Option<Self> {
        let private = agreement::PrivateKey::from_private_key(&agreement::X25519, bytes).ok()?;
        let public = private.compute_public_key().ok()?.as_ref().try_into().ok()?;
        Some(Self { bytes: Zeroizing::new(*bytes), public })
    }

    /// The public half.
    pub fn public(&self) -> &[u8; KEY_BYTES] {
        &self.public
    }

    /// The bytes, to be written where only their owner reads them.
    pub fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }

    /// Opens what [`seal_to`] sealed to the public half for the same use and place; `None` for everything else.
    pub fn open(&self, info: &str, bound_to: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (encapsulated, rest) = sealed.split_at_checked(KEY_BYTES)?;
        let key = HpkePrivateKey::from(self.bytes.to_vec());
        let encapsulated = EncapsulatedSecret(encapsulated.to_vec());
        SUITE.open(&encapsulated, info.as_bytes(), bound_to.as_bytes(), rest, &key).ok().map(Zeroizing::new)
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("PrivateKey")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn only_the_key_it_was_sealed_to_opens_it_and_only_for_its_use_and_place() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let sealed = seal_to(key.public(), "use", "place", b"plain").unwrap();
        assert_eq!(key.open("use", "place", &sealed).as_deref().map(Vec::as_slice), Some(&b"plain"[..]));
        assert!(other.open("use", "place", &sealed).is_none());
        assert!(key.open("use", "other place", &sealed).is_none() && key.open("other use", "place", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open("use", "place", &changed).is_none(), "{at}");
        }
        assert!(key.open("use", "place", &sealed[..20]).is_none());
    }

    #[test]
    fn what_another_implementation_has_sealed_is_opened() {
        // Made from RFC 9180 with a Python library's X25519 and AES-GCM: private keys 0..32 and, for the sender, 32..64.
        let key = PrivateKey::new(&std::array::from_fn(|at| at as u8)).unwrap();
        assert_eq!(STANDARD.encode(key.public()), "j0DFrbaPJWJK5bIU6nZ6bslNgp09e14a0bpvPiE4KF8=");
        let sealed = "NYBy1jZYgNGu6jKa35EhODhR7SGijjt16WXQ0s0WYlRRx8kqFF2tArAdeopFopol0RR7FYS8D1e91G1mnDZ9sA==";
        let opened = key.open("use", "place", &STANDARD.decode(sealed).unwrap()).unwrap();
        assert_eq!(*opened, b"sealed elsewhere");
    }

    #[test]
    fn a_key_that_agrees_with_nobody_is_none() {
        assert_eq!(seal_to(&[0; 32], "use", "place", b"plain"), None);
    }
}
