//! How argument values stand in a record: by the manifest's field rules, keyed where nothing is said.
//!
//! INVARIANT: no value is stored in clear unless its field is declared `plain`, and no member name unless the reviewed schema
//! or a field rule has it: a secret can be put in a name too. What the schema has not accepted is in clear only where a scalar
//! stands in the field itself: nobody has declared what else may be put there.
//! INVARIANT: the view is bounded whatever the arguments are: what does not fit is counted, and the digest covers it.

use std::borrow::Cow;

use aws_lc_rs::hmac;

use crate::catalog::manifest::Treatment;
use crate::mcp::canonical::{in_order, write_canonical, write_string};
use crate::mcp::json::{Member, Node, Value};
use crate::seal::{hex, push_hex};

/// Most members and items in a view, at all levels together; a keyed one costs an HMAC, or two with its name.
const MAX_VALUES: usize = 64;
/// Longest plain value in bytes; a longer one is stored keyed.
const MAX_PLAIN_BYTES: usize = 2_048;
/// Longest declared member name in bytes; a longer one is stored keyed.
const MAX_NAME_BYTES: usize = 128;
/// Bytes of a keyed hash that are stored: 128 bits tell values apart.
const KEYED_BYTES: usize = 16;

/// The key that values are hashed under, and its id, which stands in every hash.
#[derive(Debug)]
pub struct ValueKey {
    id: String,
    key: hmac::Key,
}

impl ValueKey {
    /// A key; its id is derived from it and tells nothing about it.
    pub fn new(key: &[u8; 32]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let id = hex(hmac::sign(&key, b"doorward value key id").as_ref()).chars().take(4).collect();
        Self { id, key }
    }

    /// What stands in every hash under it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `hmac:KEYID:HEX` of a canonical text.
    pub fn hash(&self, canonical: &[u8]) -> String {
        let tag = hmac::sign(&self.key, canonical);
        let mut out = String::with_capacity(6 + self.id.len() + KEYED_BYTES * 2);
        out.push_str("hmac:");
        out.push_str(&self.id);
        out.push(':');
        push_hex(tag.as_ref().get(..KEYED_BYTES).unwrap_or_default(), &mut out);
        out
    }
}

/// The arguments as a record shows them, and their keyed digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Canonical JSON text.
    pub text: String,
    /// `hmac:KEYID:HEX` of the canonical arguments.
    pub digest: String,
}

/// What a tool's manifest and schema say of its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Declared<'a> {
    /// How values are stored, longest pointer first.
    pub fields: &'a [(String, Treatment)],
    /// The member names that may stand in clear, sorted.
    pub names: &'a [Box<str>],
    /// Whether the tool's schema has accepted the arguments.
    pub are_valid: bool,
}

impl Declared<'_> {
    fn names(&self, name: &str) -> bool {
        name.len() <= MAX_NAME_BYTES && self.names.binary_search_by(|known| (**known).cmp(name)).is_ok()
    }
}

/// Makes the view.
pub fn view(arguments: Option<&Node<'_>>, declared: Declared<'_>, key: &ValueKey) -> View {
    let empty = Node::empty_object();
    let arguments = arguments.unwrap_or(&empty);
    let mut canonical = Vec::with_capacity(256);
    write_canonical(arguments, &mut canonical);
    let mut writer = Writer { declared, key, left: MAX_VALUES, out: Vec::with_capacity(256), scratch: Vec::new(), pointer: String::new() };
    writer.value(arguments);
    View { text: String::from_utf8(writer.out).unwrap_or_default(), digest: key.hash(&canonical) }
}

/// `hmac:KEYID:HEX` of a value's canonical JSON.
pub fn hash(value: &Node<'_>, key: &ValueKey) -> String {
    let mut canonical = Vec::new();
    write_canonical(value, &mut canonical);
    key.hash(&canonical)
}

/// What has been written of an object or array.
#[derive(Default)]
struct Shown {
    seen: usize,
    any: bool,
}

struct Writer<'a> {
    declared: Declared<'a>,
    key: &'a ValueKey,
    left: usize,
    out: Vec<u8>,
    scratch: Vec<u8>,
    pointer: String,
}

impl Writer<'_> {
    /// A rule holds for its value and everything below it; the longest rule wins.
    fn treatment(&self) -> Treatment {
        let holds = |rule: &str| self.pointer.strip_prefix(rule).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match self.declared.fields.iter().find(|(rule, _)| holds(rule)) {
            Some((rule, Treatment::Plain)) if !self.declared.are_valid && *rule != self.pointer => Treatment::Keyed,
            Some((_, treatment)) => *treatment,
            None => Treatment::Keyed,
        }
    }

    fn value(&mut self, node: &Node<'_>) {
        match &node.value {
            Value::Object(members) => {
                let mut shown = Shown::default();
                self.out.push(b'{');
                self.members(&mut shown, members);
                // U+FFFF sorts behind every member name, so the text stays canonical.
                self.more(&shown, members.len(), "\"\u{ffff}\":");
                self.out.push(b'}');
            }
            Value::Array(items) => {
                let mut shown = Shown::default();
                self.out.push(b'[');
                for (index, item) in items.iter().enumerate().take(MAX_VALUES) {
                    self.part(&mut shown, &index.to_string(), None, item);
                }
                self.more(&shown, items.len(), "");
                self.out.push(b']');
            }
            _ => self.leaf(node),
        }
    }

    fn members(&mut self, shown: &mut Shown, members: &[Member<'_>]) {
        if members.iter().all(|member| self.declared.names(&member.key)) {
            return in_order(members, |member| self.part(shown, &member.key, Some(&member.key), &member.node));
        }
        // A keyed name stands elsewhere in the canonical order than the name did. No more are hashed than can be shown.
        let mut named = Vec::with_capacity(members.len().min(self.left));
        in_order(members, |member| {
            if named.len() < self.left {
                let clear = self.declared.names(&member.key);
                named.push((if clear { Cow::Borrowed(&*member.key) } else { self.key.hash(member.key.as_bytes()).into() }, member));
            }
        });
        named.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
        named.iter().for_each(|(name, member)| self.part(shown, &member.key, Some(name), &member.node));
    }

    /// Writes one member or item, unless it is dropped or nothing more fits.
    fn part(&mut self, shown: &mut Shown, name: &str, shown_as: Option<&str>, node: &Node<'_>) {
        let Some(left) = self.left.checked_sub(1) else { return };
        self.left = left;
        shown.seen += 1;
        let above = self.pointer.len();
        self.pointer.push('/');
        if name.contains(['~', '/']) {
            self.pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
        } else {
            self.pointer.push_str(name);
        }
        if self.treatment() != Treatment::Drop {
            if std::mem::replace(&mut shown.any, true) {
                self.out.push(b',');
            }
            if let Some(name) = shown_as {
                write_string(name, &mut self.out);
                self.out.push(b':');
            }
            self.value(node);
        }
        self.pointer.truncate(above);
    }

    /// Says how many parts did not fit.
    fn more(&mut self, shown: &Shown, length: usize, name: &str) {
        if shown.seen < length {
            self.out.extend_from_slice(if shown.any { b"," } else { b"" });
            self.out.extend_from_slice(name.as_bytes());
            write_string(&format!("{} more", length - shown.seen), &mut self.out);
        }
    }

    fn leaf(&mut self, node: &Node<'_>) {
        let text = match (self.treatment(), &node.value) {
            (Treatment::Plain, Value::String(text)) if text.len() <= MAX_PLAIN_BYTES => text.clone().into_owned(),
            // A record keeps numbers as strings: canonical JSON would round them.
            (Treatment::Plain, Value::Number(digits)) => (*digits).to_owned(),
            (Treatment::Plain, Value::Bool(_) | Value::Null) => return write_canonical(node, &mut self.out),
            (Treatment::Class, value) => class(value),
            _ => {
                self.scratch.clear();
                write_canonical(node, &mut self.scratch);
                self.key.hash(&self.scratch)
            }
        };
        write_string(&text, &mut self.out);
    }
}

fn class(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "boolean".to_owned(),
        Value::Number(digits) => format!("number of {} characters", digits.len()),
        Value::String(text) => format!("string of {} characters", text.chars().count()),
        Value::Array(items) => format!("array of {}", items.len()),
        Value::Object(members) => format!("object of {}", members.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::{Limits, parse};

    fn shown(arguments: &str) -> String {
        shown_if(true, arguments)
    }

    fn shown_if(are_valid: bool, arguments: &str) -> String {
        let names = ["path".into(), "to".into()];
        let fields = [("/path".to_owned(), Treatment::Plain)];
        let node = parse(arguments.as_bytes(), Limits::default()).unwrap();
        view(Some(&node), Declared { fields: &fields, names: &names, are_valid }, &ValueKey::new(&[7; 32])).text
    }

    #[test]
    fn a_name_that_nobody_declared_is_keyed_like_a_value() {
        let text = shown(r#"{"path":"a","sk-live-1":{"to":1,"sk-live-2":[]},"zz":2}"#);
        assert!(text.contains(r#""path":"a""#) && text.contains(r#""to":"hmac:"#), "{text}");
        assert!(!text.contains("sk-live") && !text.contains("zz"), "{text}");
        assert_eq!(text, shown(r#"{"zz":2,"sk-live-1":{"sk-live-2":[],"to":1},"path":"a"}"#));
    }

    #[test]
    fn what_is_nested_in_a_plain_field_is_keyed_unless_the_schema_accepts_it() {
        let (nested, list, scalar) = (r#"{"path":{"to":"SECRET"}}"#, r#"{"path":["SECRET"]}"#, r#"{"path":"clear"}"#);
        assert!(shown(nested).contains("SECRET") && shown(list).contains("SECRET"));
        assert!(!shown_if(false, nested).contains("SECRET") && !shown_if(false, list).contains("SECRET"));
        assert_eq!(shown_if(false, scalar), scalar);
    }

    #[test]
    fn keyed_names_keep_the_canonical_order() {
        let many: Vec<String> = (0..40).map(|number| format!("\"n{number}\":1")).collect();
        let text = shown(&format!("{{{}}}", many.join(",")));
        let mut canonical = Vec::new();
        write_canonical(&parse(text.as_bytes(), Limits::default()).unwrap(), &mut canonical);
        assert_eq!(text.as_bytes(), canonical);
    }

    #[test]
    fn empty_objects_do_not_make_the_view_longer_than_its_bound() {
        let many: Vec<String> = (0..10_000).map(|number| format!("\"n{number}\":{{}}")).collect();
        let text = shown(&format!("{{{}}}", many.join(",")));
        assert!(text.len() < 64 * 60 && text.contains("9936 more"), "{}", text.len());
    }

    #[test]
    fn each_treatment_stores_what_it_says_and_numbers_keep_their_digits() {
        let arguments =
            r#"{"p":12345678901234567890.10,"k":12345678901234567890.10,"kb":true,"c":[1,{"n":-0.0}],"d":"secret","ps":"é","pn":null}"#;
        let node = parse(arguments.as_bytes(), Limits::default()).unwrap();
        let names: Vec<Box<str>> = ["c", "d", "k", "kb", "n", "p", "pn", "ps"].map(Into::into).into();
        let rule = |pointer: &str, treatment| (pointer.to_owned(), treatment);
        let fields = [
            rule("/pn", Treatment::Plain),
            rule("/ps", Treatment::Plain),
            rule("/p", Treatment::Plain),
            rule("/c", Treatment::Class),
            rule("/d", Treatment::Drop),
        ];
        let key = ValueKey::new(&[7; 32]);
        let text = view(Some(&node), Declared { fields: &fields, names: &names, are_valid: true }, &key).text;
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(shown["p"], "12345678901234567890.10", "a plain number has the digits that came");
        assert_eq!((&shown["ps"], &shown["pn"]), (&serde_json::json!("é"), &serde_json::json!(null)));
        assert_eq!(shown["k"], key.hash(b"12345678901234567890.10"), "and so has what is hashed");
        assert_eq!(shown["kb"], key.hash(b"true"));
        assert_eq!(shown["c"], serde_json::json!(["number of 1 characters", { "n": "number of 4 characters" }]));
        assert_eq!(shown.get("d"), None);
        assert!(!text.contains("secret"));
    }
}
