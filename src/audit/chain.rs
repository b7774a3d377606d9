//! The chain: what ties each line of a log to all lines before it. All that is needed to write another checker is here.
//!
//! A log is the lines of its segments `FIRSTSEQ.jsonl`, in the order of their names (first `seq`, 20 digits), read as one file.
//! Each line is one JSON object in UTF-8, ended by one line feed. Its fields stand in RFC 8785 form, but that `"chain"` comes last:
//!
//! ```text
//! {"agent":"demo", … ,"seq":42, … ,"v":1,"chain":"64 lower-case hexadecimal digits"}
//! body  = the line without `,"chain":"…"`: again a JSON object, closed with `}`, without the line feed
//! leaf  = SHA-256(0x00 ‖ body)                    also the leaf of the log's RFC 6962 tree
//! chain = SHA-256(0x02 ‖ previous chain ‖ leaf)   where the first previous chain is SHA-256(0x03 ‖ origin)
//! ```
//! `seq` starts at 1 and grows by 1; the chain runs on from segment to segment. The tree's nodes use 0x01, so no two uses collide.
//!
//! Owns: the hashes and the reading of `seq`, `kind` and `intent_seq` without a parser. Leaves to others: files.

use aws_lc_rs::digest::{Context, SHA256, digest};

use super::encode::{Entry, push_digits, push_hex};
use super::record::Kind;
use super::tree::Hash;

/// The chain after some record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain([u8; 32]);

impl Chain {
    /// The chain before the first record of an origin.
    pub fn first(origin: &str) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&[0x03]);
        context.update(origin.as_bytes());
        Self::from_digest(context.finish().as_ref())
    }

    /// Appends the finished line to `out`, line feed included; returns the chain after it and the record's leaf.
    pub fn seal(self, entry: &Entry, seq: u64, out: &mut Vec<u8>) -> (Self, Hash) {
        let start = out.len();
        out.extend_from_slice(entry.head());
        push_digits(out, seq);
        out.extend_from_slice(entry.tail());
        let leaf = leaf(&out[start..]);
        let next = self.link(leaf);
        out.extend_from_slice(FIELD);
        push_hex(out, &next.0);
        out.extend_from_slice(b"\"}\n");
        (next, leaf)
    }

    /// The chain after a record whose body, without its closing brace, is `open_body`.
    pub fn after(self, open_body: &[u8]) -> Self {
        self.link(leaf(open_body))
    }

    /// The chain after a record that has this leaf.
    pub fn link(self, leaf: Hash) -> Self {
        let mut link = [0x02; 65];
        link[1..33].copy_from_slice(&self.0);
        link[33..].copy_from_slice(&leaf.0);
        Self::from_digest(digest(&SHA256, &link).as_ref())
    }

    /// The 64 digits in the line.
    pub fn to_hex(self) -> String {
        let mut out = Vec::with_capacity(64);
        push_hex(&mut out, &self.0);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The chain that has these 64 lower-case digits.
    pub fn from_hex(digits: &str) -> Option<Self> {
        Self::from_digits(digits.as_bytes())
    }

    fn from_digits(digits: &[u8]) -> Option<Self> {
        let mut chain = [0; 32];
        for (byte, pair) in chain.iter_mut().zip(Some(digits).filter(|digits| digits.len() == 64)?.as_chunks::<2>().0) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(chain))
    }

    fn from_digest(bytes: &[u8]) -> Self {
        let mut chain = [0; 32];
        // SHA-256 gives 32 bytes, always.
        chain.copy_from_slice(bytes);
        Self(chain)
    }
}

/// The leaf of a record whose body, without its closing brace, is `open_body`.
pub fn leaf(open_body: &[u8]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[0x00]);
    context.update(open_body);
    context.update(b"}");
    Hash(Chain::from_digest(context.finish().as_ref()).0)
}

/// A line taken apart, its chain not yet checked.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The body without its closing brace.
    pub open_body: &'a [u8],
    /// The chain that the line claims.
    pub chain: Chain,
    /// The place that the line claims.
    pub seq: u64,
}

impl<'a> Line<'a> {
    /// Takes a line apart, without its line feed; `None` where it does not have the form of a record.
    pub fn split(line: &'a [u8]) -> Option<Self> {
        let open_body = line.len().checked_sub(FIELD_BYTES).map(|at| &line[..at])?;
        let hex = line[open_body.len()..].strip_prefix(FIELD)?.strip_suffix(b"\"}")?;
        let seq = number(open_body, b",\"seq\":").filter(|seq| *seq <= MAX_SEQ)?;
        Some(Self { open_body, chain: Chain::from_digits(hex)?, seq })
    }

    /// What the record reports.
    pub fn kind(&self) -> Option<Kind> {
        // `kind` has the comma of a field before it or, being first, the brace.
        let rest = after_last(self.open_body, b"\"kind\":\"")?;
        let end = rest.iter().position(|byte| *byte == b'"')?;
        std::str::from_utf8(&rest[..end]).ok().and_then(Kind::from_word)
    }

    /// The intent that the record ends.
    pub fn intent_seq(&self) -> Option<u64> {
        number(self.open_body, b"\"intent_seq\":")
    }

    /// The key of the segment, which its first record names.
    pub fn log_key(&self) -> Option<&'a str> {
        self.word(b"\"log_key\":\"").filter(|_| self.kind() == Some(Kind::Lifecycle))
    }

    /// The file that retention removed after this record.
    pub fn pruned(&self) -> Option<&'a str> {
        // `action` is the first field of all that a record can have, so most lines are told by their beginning.
        let is_prune = self.open_body.starts_with(b"{\"action\":\"prune\",") && self.kind() == Some(Kind::Lifecycle);
        is_prune.then(|| self.word(b"\"subject\":\""))?
    }

    /// The file of a payload or of a data key that the record names, with its size and hash, as text.
    pub fn payload(&self) -> Option<&'a str> {
        // Few lines have one, and a search passes over the others at once.
        memchr::memmem::find(self.open_body, PAYLOAD)?;
        let rest = after_last(self.open_body, PAYLOAD)?;
        // A member of the arguments may have this name; what stands after the record's `origin` is the record's own.
        let is_own = rest.len() < after_last(self.open_body, b"\"origin\":\"")?.len();
        is_own.then(|| self.word(PAYLOAD))?
    }

    fn word(&self, key: &[u8]) -> Option<&'a str> {
        let rest = after_last(self.open_body, key)?;
        let end = rest.iter().position(|byte| *byte == b'"')?;
        std::str::from_utf8(&rest[..end]).ok()
    }

    /// The smallest open intent that the first record of a segment names.
    pub fn open_from(&self) -> Option<u64> {
        number(self.open_body, b"\"open_from\":")
    }
}

/// Why the last occurrence of a key is the record's own: see the invariant in `record`. A quoted key cannot stand inside a string.
fn after_last<'a>(line: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    // Keys end in a rare byte, so a scan for it from the back, then a comparison, beats a window search.
    let last = *key.last()?;
    let mut end = line.len();
    while let Some(at) = line[..end].iter().rposition(|byte| *byte == last) {
        if line[..=at].ends_with(key) {
            return Some(&line[at + 1..]);
        }
        end = at;
    }
    None
}

fn number(line: &[u8], key: &[u8]) -> Option<u64> {
    let rest = after_last(line, key)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Largest number of a record: the largest that every JSON reader takes as it is. What says more is no part of a log, so sums of two do not overflow.
pub const MAX_SEQ: u64 = (1 << 53) - 1;
const FIELD: &[u8] = b",\"chain\":\"";
const PAYLOAD: &[u8] = b",\"payload\":\"";
/// `,"chain":"` + 64 digits + `"}`.
const FIELD_BYTES: usize = FIELD.len() + 66;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Record;
    use crate::clock::Clock;

    #[test]
    fn the_format_is_as_documented() {
        let entry = Record::new(Kind::Refusal).encode("main", Clock::fixed(0).now());
        let mut out = Vec::new();
        let (chain, sealed) = Chain::first("main").seal(&entry, 1, &mut out);
        let body = br#"{"kind":"refusal","mono_us":0,"origin":"main","seq":1,"time":"1970-01-01T00:00:00.000000000Z","v":1}"#;
        let leaf = digest(&SHA256, &[&[0x00], &body[..]].concat());
        let first = digest(&SHA256, b"\x03main");
        let expected = digest(&SHA256, &[&[0x02], first.as_ref(), leaf.as_ref()].concat());
        let mut hex = Vec::new();
        push_hex(&mut hex, expected.as_ref());
        assert_eq!((chain.to_hex().as_bytes(), &sealed.0[..]), (&hex[..], leaf.as_ref()));
        assert_eq!((Chain::from_hex(&chain.to_hex()), Chain::from_hex("00")), (Some(chain), None));
        assert_eq!(out, [&body[..body.len() - 1], FIELD, &hex, b"\"}\n"].concat());
    }

    #[test]
    fn a_field_of_the_arguments_is_not_taken_for_the_records_own() {
        let args = r#"{"intent_seq":8,"kind":"outcome","seq":9,"text":"\"seq\":7"}"#;
        let entry =
            Record { args: Some(args.into()), intent_seq: Some(3), ..Record::new(Kind::Outcome) }.encode("main", Clock::fixed(0).now());
        let mut out = Vec::new();
        Chain::first("main").seal(&entry, 41, &mut out);
        let line = Line::split(out.strip_suffix(b"\n").unwrap()).unwrap();
        assert_eq!((line.seq, line.kind(), line.intent_seq()), (41, Some(Kind::Outcome), Some(3)));
    }

    #[test]
    fn a_payload_in_the_arguments_is_not_taken_for_the_records_own() {
        let payload_of = |own: Option<&'static str>| {
            let args = Some(r#"{"a":1,"payload":"theirs"}"#.into());
            let record = Record { args, payload: own.map(Into::into), peer: Some("p".into()), ..Record::new(Kind::Intent) };
            let mut out = Vec::new();
            Chain::first("main").seal(&record.encode("main", Clock::fixed(0).now()), 1, &mut out);
            Line::split(out.strip_suffix(b"\n").unwrap()).unwrap().payload().map(str::to_owned)
        };
        assert_eq!((payload_of(None), payload_of(Some("ours"))), (None, Some("ours".to_owned())));
    }

    #[test]
    fn an_intent_whose_arguments_name_an_intent_seq_is_not_an_end() {
        let entry = Record { args: Some(r#"{"intent_seq":8}"#.into()), ..Record::new(Kind::Intent) }.encode("main", Clock::fixed(0).now());
        let mut out = Vec::new();
        Chain::first("main").seal(&entry, 41, &mut out);
        assert_eq!(Line::split(out.strip_suffix(b"\n").unwrap()).unwrap().kind(), Some(Kind::Intent));
    }
}
