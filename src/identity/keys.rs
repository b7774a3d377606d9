//! The public keys of one authorization server: read from a file, or fetched and kept up to date.
//!
//! INVARIANT: only public keys for signatures are kept: a symmetric key in a set is left out, so nothing is ever verified with a
//! secret that a public key was mistaken for.
//! INVARIANT: one task fetches, so two fetches are never under way at once; strangers' tokens cause at most one in [`ASK_EVERY`].
//! INVARIANT: whoever comes with a new key while the set is being fetched waits for it too, so that a change of keys refuses nobody; but
//! no more than [`MAX_WAITING`] wait.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::Uri;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use crate::config::{Algorithm, Fault, Jwks, read_text};
use crate::fetch;
use crate::seal::sha256;

/// How often a token with an unknown key may have the set fetched.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How long a request waits for a fetch.
const WAIT: Duration = Duration::from_secs(5);
/// The first and the longest pause after a fetch that failed.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// Requests that wait for a fetch at once.
const MAX_WAITING: usize = 256;
/// Keys of a set that are looked at.
const MAX_KEYS: usize = 100;

/// One public key.
pub(super) struct Key {
    kid: Option<Box<str>>,
    fits: Vec<Algorithm>,
    decoding: DecodingKey,
    /// The hash of the whole entry: another key under the same name is another.
    print: [u8; 32],
}

impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.name())
    }
}

impl Key {
    /// Reads one entry of a set; `None` where it is no public key for signatures of an algorithm that we know.
    fn read(entry: &serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(entry.clone()).ok()?;
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
        let verifies = common.key_operations.as_ref().is_none_or(|uses| uses.contains(&KeyOperations::Verify));
        let family: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[Algorithm::ES256],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[Algorithm::ES384],
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
            AlgorithmParameters::RSA(_) => {
                use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
                &[RS256, RS384, RS512, PS256, PS384, PS512]
            }
            _ => return None,
        };
        let own = entry.get("alg").and_then(serde_json::Value::as_str);
        let fits: Vec<_> = family.iter().copied().filter(|algorithm| own.is_none_or(|own| own == algorithm.as_str())).collect();
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        let print = sha256(&serde_json::to_vec(entry).ok()?);
        (signs && verifies && !fits.is_empty()).then(|| Self { kid: common.key_id.as_deref().map(Box::from), fits, decoding, print })
    }

    /// Whether this key signed the message so.
    pub(super) fn verifies(&self, signature: &str, message: &[u8], algorithm: Algorithm) -> bool {
        self.fits.contains(&algorithm)
            && jsonwebtoken::crypto::verify(signature, message, &self.decoding, theirs(algorithm)).unwrap_or(false)
    }

    /// What tells it from every other key.
    pub(super) fn print(&self) -> &[u8; 32] {
        &self.print
    }

    fn name(&self) -> String {
        let words: Vec<_> = self.fits.iter().map(|algorithm| algorithm.as_str()).collect();
        format!("{} ({})", self.kid.as_deref().unwrap_or("without a name"), words.join(" "))
    }
}

fn theirs(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::ES384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
        Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::PS384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::PS512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::RS384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::RS512 => jsonwebtoken::Algorithm::RS512,
    }
}

/// The usable keys of a set's JSON text.
///
/// # Errors
/// When it is no set; the text is for the operator.
fn read(text: &[u8]) -> Result<Vec<Arc<Key>>, String> {
    let set: serde_json::Value = serde_json::from_slice(text).map_err(|error| format!("it is no key set: {error}"))?;
    let entries = set.get("keys").and_then(serde_json::Value::as_array).ok_or("it is no key set: it has no list `keys`")?;
    Ok(entries.iter().take(MAX_KEYS).filter_map(Key::read).map(Arc::new).collect())
}

/// Keys as they were at one time.
#[derive(Debug)]
struct Set {
    keys: Vec<Arc<Key>>,
    /// When they were fetched; `None` where they stand in a file.
    fetched: Option<Instant>,
}

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The set has none of that name and algorithm.
    Unknown,
    /// There is no set that may still be used.
    Unavailable,
}

/// The keys of one authorization server.
#[derive(Debug)]
pub(super) struct Keys {
    source: Jwks,
    set: ArcSwapOption<Set>,
    /// Fetches that have ended.
    looked: watch::Sender<u64>,
    wanted: Arc<Notify>,
    asked: Mutex<Option<Asked>>,
    waiting: Semaphore,
}

/// A fetch that a token with an unknown key has asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Instant,
    /// How many fetches had ended by then.
    before: u64,
}

impl Keys {
    /// The keys of a file.
    ///
    /// # Errors
    /// A fault of the file.
    pub(super) fn of_file(source: &Jwks, file: &Path) -> Result<Arc<Self>, Fault> {
        let text = read_text(file).map_err(|error| Fault::file(file, format!("cannot be read: {error}")))?;
        let keys = read(text.as_bytes()).map_err(|why| Fault::file(file, why))?;
        if keys.is_empty() {
            let help = "give each an `alg` of `identity.jwt`, or none, and leave `use` out or make it `sig`";
            return Err(Fault::file(file, "it has no public key for signatures").help(help));
        }
        Ok(Self::with(source, Some(Set { keys, fetched: None })))
    }

    /// No keys: none could be read.
    pub(super) fn none(source: &Jwks) -> Arc<Self> {
        Self::with(source, None)
    }

    /// The keys at a URL. They are fetched from now on, for as long as somebody holds what is returned.
    pub(super) fn of_url(source: &Jwks, url: Uri) -> Arc<Self> {
        let keys = Self::with(source, None);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(keep(Arc::downgrade(&keys), Arc::clone(&keys.wanted), url));
        }
        keys
    }

    fn with(source: &Jwks, set: Option<Set>) -> Arc<Self> {
        Arc::new(Self {
            source: source.clone(),
            set: ArcSwapOption::from_pointee(set),
            looked: watch::Sender::new(0),
            wanted: Arc::default(),
            asked: Mutex::default(),
            waiting: Semaphore::new(MAX_WAITING),
        })
    }

    /// Where they come from.
    pub(super) fn source(&self) -> &Jwks {
        &self.source
    }

    /// Whether a key is still among them.
    pub(super) fn hold(&self, print: &[u8; 32]) -> bool {
        self.usable().is_some_and(|set| set.keys.iter().any(|key| key.print == *print))
    }

    /// The key that a token names. One that is not known has the set fetched, if that was not just done.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, Missing> {
        let missing = match self.known(kid, algorithm) {
            Ok(key) => return Ok(key),
            Err(missing) => missing,
        };
        let may_help = self.source.url.is_some() && (missing == Missing::Unavailable || kid.is_some());
        let Some(before) = may_help.then(|| self.ask()).flatten() else { return Err(missing) };
        let Ok(_place) = self.waiting.try_acquire() else { return Err(Missing::Unavailable) };
        let mut looked = self.looked.subscribe();
        let _ = tokio::time::timeout(WAIT, looked.wait_for(|looks| *looks > before)).await;
        self.known(kid, algorithm)
    }

    /// Has the set fetched for a stranger, where that was not just done. Gives the number of fetches that had ended before the one to
    /// wait for: the very first, one that somebody else has asked for and that has not ended, or a new one.
    fn ask(&self) -> Option<u64> {
        let ended = *self.looked.borrow();
        if ended == 0 {
            return Some(0);
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match *asked {
            Some(Asked { at, before }) if at.elapsed() < ASK_EVERY => (before == ended).then_some(before),
            _ => {
                *asked = Some(Asked { at: Instant::now(), before: ended });
                self.wanted.notify_one();
                Some(ended)
            }
        }
    }

    fn usable(&self) -> Option<Arc<Set>> {
        self.set.load_full().filter(|set| set.fetched.is_none_or(|fetched| fetched.elapsed() < self.keep()))
    }

    /// How long they are used while they cannot be fetched.
    fn keep(&self) -> Duration {
        Duration::from_secs(self.source.keep_s.value())
    }

    fn known(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Arc<Key>, Missing> {
        let set = self.usable().ok_or(Missing::Unavailable)?;
        let mut fitting = set.keys.iter().filter(|key| key.fits.contains(&algorithm) && (kid.is_none() || key.kid.as_deref() == kid));
        match (fitting.next(), fitting.next()) {
            // Without a name there must be no choice.
            (Some(_), Some(_)) if kid.is_none() => Err(Missing::Unknown),
            (Some(key), _) => Ok(Arc::clone(key)),
            (None, _) => Err(Missing::Unknown),
        }
    }

    /// Fetches the set once. What was there stays where that fails.
    async fn look(&self, url: &Uri) -> Result<(), String> {
        let found = fetched(url).await;
        let outcome = found.map(|keys| {
            let names: Vec<_> = keys.iter().map(|key| key.name()).collect();
            if self.usable().is_none_or(|set| set.keys.len() != keys.len() || !keys.iter().all(|key| self.hold(&key.print))) {
                tracing::info!(%url, keys = names.join(", "), "the key set of an authorization server is another");
            }
            self.set.store(Some(Arc::new(Set { keys, fetched: Some(Instant::now()) })));
        });
        self.looked.send_modify(|looks| *looks += 1);
        outcome
    }
}

impl Drop for Keys {
    /// Wakes the task that keeps them, which then ends.
    fn drop(&mut self) {
        self.wanted.notify_one();
    }
}

async fn fetched(url: &Uri) -> Result<Vec<Arc<Key>>, String> {
    let document = fetch::get(url).await?;
    if document.status != http::StatusCode::OK {
        return Err(format!("HTTP {}", document.status));
    }
    read(&document.body)
}

/// The names of the keys as they are now; `None` where they are at a URL that is not to be asked.
///
/// # Errors
/// Why there are none; the text is for the operator.
pub(super) async fn names(source: &Jwks, ask: bool) -> Result<Option<Vec<String>>, Fault> {
    let keys = match (&source.file, &source.url) {
        (Some(file), _) => Keys::of_file(source, file)?.set.load_full().map(|set| set.keys.clone()).unwrap_or_default(),
        (None, Some(url)) if ask => {
            let fault = |why: String| Fault::file(Path::new(url), format!("the key set cannot be fetched: {why}"));
            fetched(&fetch::parse(url).map_err(fault)?).await.map_err(fault)?
        }
        _ => return Ok(None),
    };
    Ok(Some(keys.iter().map(|key| key.name()).collect()))
}

/// Fetches the set now, then regularly and whenever it is wanted, until nobody holds the keys.
async fn keep(keys: Weak<Keys>, wanted: Arc<Notify>, url: Uri) {
    let mut pause = AGAIN.0;
    loop {
        let Some(keys) = keys.upgrade() else { return };
        let wait = match keys.look(&url).await {
            Ok(()) => {
                pause = AGAIN.0;
                // Keys of a server that is up never become too old.
                Duration::from_secs(keys.source.refresh_s.value()).min(keys.keep() / 2)
            }
            Err(error) => {
                tracing::warn!(%url, error, "the key set of an authorization server cannot be fetched; what is known of it is used for a while");
                let next = (pause * 2).min(AGAIN.1);
                std::mem::replace(&mut pause, next)
            }
        };
        drop(keys);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = wanted.notified() => {}
        }
    }
}
