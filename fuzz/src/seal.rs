//! Sealed text: nothing opens but what was sealed, for its purpose, under its key, as it was.

use std::sync::LazyLock;

use doorward::seal::Seal;

static SEAL: LazyLock<Seal> = LazyLock::new(|| Seal::new(&[7; 32]).expect("a key"));
static OTHER: LazyLock<Seal> = LazyLock::new(|| Seal::new(&[8; 32]).expect("a key"));

/// Checks a text, as one that was sealed by somebody, and as one to be sealed.
pub fn check(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        assert_eq!(SEAL.open("round", text), None, "what nobody sealed opens");
    }
    let Some(sealed) = SEAL.seal("round", data) else { return };
    let longest = sealed.len();
    assert_eq!(SEAL.open_within("round", &sealed, longest).as_deref(), Some(data));
    assert_eq!(SEAL.open_within("round", &sealed, longest - 1), None, "it is longer than is looked at");
    assert_eq!(SEAL.open_within("session", &sealed, longest), None, "for another purpose");
    assert_eq!(OTHER.open_within("round", &sealed, longest), None, "under another key");
    // One change, at a place that the text itself picks.
    let pick = data.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let at = pick % sealed.len();
    let mut changed = sealed.clone().into_bytes();
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).expect("letters");
    assert_eq!(SEAL.open_within("round", &changed, longest), None, "changed at {at}");
    assert_eq!(SEAL.open_within("round", &sealed[..at], longest), None, "cut off at {at}");
}
