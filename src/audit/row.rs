//! One line as a question reads it: its fields by name, taken apart only where asked for.
//!
//! Owns: which fields can be asked for, and where in a line each stands. Leaves to others: what a record means (`record`).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::chain::MAX_SEQ;
use super::record::{Stored, VERSION};

/// A field that records are found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// The kind of record.
    Kind,
    /// The agent.
    Agent,
    /// The authenticated identity.
    Principal,
    /// For whom the agent acts.
    OnBehalfOf,
    /// The credential.
    Credential,
    /// The upstream.
    Upstream,
    /// The tool, prompt or resource; all of them where a record names many.
    Target,
    /// The tier.
    Tier,
    /// The labels of the target.
    Label,
    /// The decision.
    Decision,
    /// Why, beside the code.
    Reason,
    /// The error code.
    Code,
    /// The rules that decided, and the rows that asked for something beside it.
    Rule,
    /// The policy in force.
    Policy,
    /// The limit that refused.
    Limit,
    /// How the call ended.
    Outcome,
    /// What is known of the side effect.
    Effect,
    /// Who did what people do.
    Actor,
    /// What they did.
    Action,
    /// The invocation.
    Call,
    /// The run.
    Run,
    /// The trace.
    Trace,
    /// The session.
    Session,
    /// The keyed hash of all arguments.
    Arguments,
    /// A value among the arguments, as it is stored.
    Value,
    /// The labels that the agent had met, before the call or by it.
    Met,
}

/// How the values of a field are laid out in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Few different ones: a word each, numbered.
    Words,
    /// Nearly as many as records: a hash each, sorted.
    Ids,
}

impl Field {
    /// Every field; the place of one here is its number in the index.
    pub const ALL: [Field; 26] = [
        Self::Kind,
        Self::Agent,
        Self::Principal,
        Self::OnBehalfOf,
        Self::Credential,
        Self::Upstream,
        Self::Target,
        Self::Tier,
        Self::Label,
        Self::Decision,
        Self::Reason,
        Self::Code,
        Self::Rule,
        Self::Policy,
        Self::Limit,
        Self::Outcome,
        Self::Effect,
        Self::Actor,
        Self::Action,
        Self::Call,
        Self::Run,
        Self::Trace,
        Self::Session,
        Self::Arguments,
        Self::Value,
        Self::Met,
    ];

    /// The names of the field in a line, sorted as there.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Kind => &["kind"],
            Self::Agent => &["agent"],
            Self::Principal => &["principal"],
            Self::OnBehalfOf => &["on_behalf_of"],
            Self::Credential => &["credential_id"],
            Self::Upstream => &["upstream"],
            Self::Target => &["target", "targets"],
            Self::Tier => &["tier"],
            Self::Label => &["labels"],
            Self::Decision => &["decision"],
            Self::Reason => &["reason"],
            Self::Code => &["code"],
            Self::Rule => &["obligations", "rule_ids"],
            Self::Policy => &["policy_version"],
            Self::Limit => &["limit"],
            Self::Outcome => &["outcome"],
            Self::Effect => &["effect"],
            Self::Actor => &["actor"],
            Self::Action => &["action"],
            Self::Call => &["call_id", "replay_of"],
            Self::Run => &["run"],
            Self::Trace => &["trace_id"],
            Self::Session => &["session"],
            Self::Arguments => &["args_hash"],
            Self::Value => &["answers", "args", "args_hash", "result_hash"],
            Self::Met => &["labels_after", "labels_before"],
        }
    }

    /// The fields that a name in a line belongs to: [`Field::keys`] the other way round.
    pub(super) fn of_key(key: &str) -> &'static [Self] {
        match key {
            "action" => &[Self::Action],
            "actor" => &[Self::Actor],
            "agent" => &[Self::Agent],
            "answers" | "args" | "result_hash" => &[Self::Value],
            "args_hash" => &[Self::Arguments, Self::Value],
            "call_id" => &[Self::Call],
            "code" => &[Self::Code],
            "credential_id" => &[Self::Credential],
            "decision" => &[Self::Decision],
            "effect" => &[Self::Effect],
            "kind" => &[Self::Kind],
            "labels" => &[Self::Label],
            "labels_after" | "labels_before" => &[Self::Met],
            "limit" => &[Self::Limit],
            "on_behalf_of" => &[Self::OnBehalfOf],
            "outcome" => &[Self::Outcome],
            "policy_version" => &[Self::Policy],
            "principal" => &[Self::Principal],
            "reason" => &[Self::Reason],
            "replay_of" => &[Self::Call],
            "obligations" | "rule_ids" => &[Self::Rule],
            "run" => &[Self::Run],
            "session" => &[Self::Session],
            "target" | "targets" => &[Self::Target],
            "tier" => &[Self::Tier],
            "trace_id" => &[Self::Trace],
            "upstream" => &[Self::Upstream],
            _ => &[],
        }
    }

    pub(super) fn form(self) -> Form {
        match self {
            Self::Call | Self::Run | Self::Trace | Self::Session | Self::Arguments | Self::Value => Form::Ids,
            _ => Form::Words,
        }
    }
}

/// The members of a line, each value still as its JSON text.
#[derive(Clone, Debug)]
pub struct Row<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Row<'a> {
    /// Reads one line, without its line feed; `None` where it is not a record of this version.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(&'de str, &'de str)>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a record")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::with_capacity(48);
                while let Some((key, value)) = members.next_entry::<&'de str, &'de RawValue>()? {
                    all.push((key, value.get()));
                }
                Ok(all)
            }
        }
        // Read as a text, once, and not again with each of its parts.
        let mut from = serde_json::Deserializer::from_str(std::str::from_utf8(line).ok()?);
        let members = from.deserialize_map(Members).ok().filter(|_| from.end().is_ok())?;
        let row = Self(members);
        (row.raw("v")?.parse() == Ok(VERSION) && row.raw("seq")?.parse().is_ok_and(|seq: u64| seq <= MAX_SEQ)).then_some(row)
    }

    /// All members in their order: name and JSON text.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().copied()
    }

    /// The JSON text of a member.
    pub fn raw(&self, key: &str) -> Option<&'a str> {
        // Sorted but for `chain`, which stands last; a line that somebody mended by hand may not be.
        let found = self.0.binary_search_by(|(name, _)| (*name).cmp(key)).ok().or_else(|| self.0.iter().position(|(name, _)| *name == key));
        self.0.get(found?).map(|(_, value)| *value)
    }

    /// A member that is a text.
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        unquoted(self.raw(key)?)
    }

    /// A member that is a whole number, as digits or as a string of digits.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.raw(key)?.trim_matches('"').parse().ok()
    }

    /// The record's place in its log.
    pub fn seq(&self) -> u64 {
        self.number("seq").unwrap_or_default()
    }

    /// When the record was made, in nanoseconds since 1970; 0 where the text is not a time.
    pub fn unix_nanos(&self) -> i64 {
        let time = self.text("time").and_then(|time| time.parse::<jiff::Timestamp>().ok());
        time.and_then(|time| i64::try_from(time.as_nanosecond()).ok()).unwrap_or(0)
    }

    /// Shows each value that the record has for a field.
    pub fn each(&self, field: Field, show: &mut dyn FnMut(&str)) {
        for key in field.keys() {
            if let Some(raw) = self.raw(key) {
                values(key, raw, show);
            }
        }
    }
}

/// Shows each value of a member that a field has there.
pub(super) fn values(key: &str, raw: &str, show: &mut dyn FnMut(&str)) {
    match key {
        "args" => leaves(raw, show),
        "answers" => strings(raw, &mut |answer| show(answer.rsplit(' ').next().unwrap_or(answer))),
        // The row's id, and behind it what it asks for.
        "obligations" => strings(raw, &mut |obliged| show(obliged.split(' ').next().unwrap_or(obliged))),
        _ if raw.starts_with('[') => strings(raw, show),
        _ => show(&unquoted(raw).unwrap_or(Cow::Borrowed(raw))),
    }
}

impl Stored {
    /// The line's members.
    pub fn row(&self) -> Row<'_> {
        Row::parse(self.line.as_bytes()).unwrap_or(Row(Vec::new()))
    }
}

fn unquoted(raw: &str) -> Option<Cow<'_, str>> {
    let inside = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inside.contains('\\') { serde_json::from_str(raw).ok().map(Cow::Owned) } else { Some(Cow::Borrowed(inside)) }
}

fn strings(raw: &str, show: &mut dyn FnMut(&str)) {
    for text in serde_json::from_str::<Vec<Cow<'_, str>>>(raw).unwrap_or_default() {
        show(&text);
    }
}

/// Every string in the arguments, names that were hashed included, and every other scalar as its text.
fn leaves(raw: &str, show: &mut dyn FnMut(&str)) {
    let bytes = raw.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let rest = &raw[at..];
        match byte {
            b'"' => {
                let mut end = 1;
                while let Some(found) = memchr::memchr2(b'"', b'\\', &rest.as_bytes()[end..]) {
                    end += found + 1;
                    if rest.as_bytes()[end - 1] == b'"' {
                        break;
                    }
                    end += 1;
                }
                let end = end.min(rest.len());
                let is_name = rest[end..].starts_with(':');
                if let Some(text) = unquoted(&rest[..end]).filter(|text| !is_name || text.starts_with("hmac:")) {
                    show(&text);
                }
                at += end;
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' => at += 1,
            _ => {
                let end = rest.find([',', '}', ']']).unwrap_or(rest.len());
                show(&rest[..end]);
                at += end.max(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(row: &Row<'_>, field: Field) -> Vec<String> {
        let mut all = Vec::new();
        row.each(field, &mut |value| all.push(value.to_owned()));
        all
    }

    #[test]
    fn fields_are_read_where_they_stand() {
        let line = br#"{"agent":"a\"b","args":{"x":"hmac:1:2","hmac:9:9":[true,"p\\q"],"n":{}},"args_hash":"hmac:1:3","count":"9007199254740993","kind":"intent","labels":["outward"],"labels_after":["outward","private"],"labels_before":["private"],"obligations":["O1 approve:oncall","O2 limit:2/h"],"rule_ids":["R1","R2"],"seq":7,"target":"t","targets":["u"],"time":"1970-01-01T00:00:00.000000005Z","v":1,"chain":"00"}"#;
        let row = Row::parse(line).unwrap();
        assert_eq!((row.seq(), row.unix_nanos(), row.number("count")), (7, 5, Some(9_007_199_254_740_993)));
        assert_eq!(shown(&row, Field::Agent), ["a\"b"]);
        assert_eq!(shown(&row, Field::Rule), ["O1", "O2", "R1", "R2"]);
        assert_eq!(shown(&row, Field::Target), ["t", "u"]);
        assert_eq!(shown(&row, Field::Label), ["outward"]);
        assert_eq!(shown(&row, Field::Met), ["outward", "private", "private"]);
        assert_eq!(shown(&row, Field::Value), ["hmac:1:2", "hmac:9:9", "true", "p\\q", "hmac:1:3"]);
        assert_eq!(row.text("chain").as_deref(), Some("00"));
    }

    #[test]
    fn a_name_belongs_to_the_fields_that_have_it() {
        for (number, field) in Field::ALL.into_iter().enumerate() {
            assert_eq!(field as usize, number, "the index knows it by this number");
            for key in field.keys() {
                assert!(Field::of_key(key).contains(&field), "{field:?} {key}");
            }
        }
        let keys = Field::ALL.iter().flat_map(|field| field.keys());
        for key in keys {
            assert!(Field::of_key(key).iter().all(|field| field.keys().contains(key)), "{key}");
        }
    }

    #[test]
    fn what_is_no_record_is_none() {
        for line in [
            &b"{}"[..],
            b"",
            b"{\"seq\":1,\"v\":2}",
            b"{\"seq\":-1,\"v\":1}",
            b"{\"seq\":9007199254740992,\"v\":1}",
            b"[1]",
            b"{\"seq\":1,\"v\":1} x",
            b"\xff",
        ] {
            assert!(Row::parse(line).is_none(), "{line:?}");
        }
    }
}
