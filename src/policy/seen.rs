//! Conditions that cover what was seen: what a row could ask of the arguments, so that every call on record still passes.
//!
//! Only fields that a manifest declares `plain` can be read in records, and only where their kind is sure: a record has numbers as texts, so the
//! reviewed schema tells which of the two it was. A field of a few words becomes one of these words, paths become the folder that all are in, URLs
//! their hosts, and names what they begin with; numbers that are not few are left alone, since the next one may be larger.
//!
//! Owns: what was seen, and which test covers it. Leaves to others: which row (`narrow`), reading the log and writing the patch (`cli`).
//!
//! INVARIANT: a test is only suggested that every value which was seen passes, as conditions evaluate it.
//! INVARIANT: where the values of some call cannot be read, or some call has none, there is no test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::condition::{Conditions, Facts};
use crate::catalog::manifest::Treatment;
use crate::clock::Clock;
use crate::identity::Principal;
use crate::mcp::decimal::Decimal;
use crate::mcp::json::{self, Limits};
use crate::run::Before;

/// Calls that tell enough of a field: fewer say nothing of the next one.
const MIN_CALLS: u64 = 20;
/// Different words, or hosts, that are listed one by one.
const MAX_WORDS: usize = 8;
/// How often each of them was seen at least. One that was seen once makes it likely that there are more.
const MIN_EACH: u64 = 3;
/// Different values that tell enough of what they have in common.
const MIN_DIFFERENT: usize = 5;
/// Different values that are kept of one field of one agent.
const MAX_VALUES: usize = 2_000;
/// Shortest beginning that texts are held to, in bytes.
const MIN_PREFIX: usize = 3;

/// What a field holds by the reviewed schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Texts.
    Text,
    /// Numbers.
    Number,
    /// True or false.
    Truth,
}

/// A field whose values are stored as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plain {
    /// The pointer of the manifest.
    pub pointer: String,
    /// What it holds; `None` where the schema does not say it for sure.
    pub kind: Option<Kind>,
    /// How many values the schema permits, where it lists them.
    pub permitted: Option<usize>,
}

/// What stood in one field.
#[derive(Clone, Debug, Default)]
pub struct Field {
    /// How many calls were seen.
    pub calls: u64,
    /// The values as JSON texts, and in how many calls each stood.
    pub values: BTreeMap<String, u64>,
    /// How many calls had none.
    pub lacking: u64,
    /// How many calls had one that cannot be read: stored keyed, as a class, or beside a name that may be another spelling of it.
    pub unread: u64,
    /// Whether there were more values than are kept.
    pub is_cut: bool,
}

/// What stood in the fields of each agent's calls of each target.
#[derive(Debug, Default)]
pub struct Seen(BTreeMap<(String, String), BTreeMap<String, Field>>);

/// A test that covers a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    /// The field.
    pub pointer: String,
    /// The test, as a flow mapping of `conditions.yaml`.
    pub test: String,
    /// How many calls it rests on.
    pub calls: u64,
    /// How many different values.
    pub values: usize,
}

/// The fields of a tool that records have in clear.
pub fn plain_fields(schema: &Value, fields: &[(String, Treatment)]) -> Vec<Plain> {
    let plain = fields.iter().filter(|(pointer, treatment)| *treatment == Treatment::Plain && pointer.starts_with('/'));
    let known = |pointer: &String| {
        let at = tokens(pointer).try_fold(schema, |schema, name| schema.get("properties")?.get(&*name));
        let types: Vec<&str> = match at.and_then(|schema| schema.get("type")) {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(some)) => some.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let kinds: BTreeSet<u8> = types
            .iter()
            .filter_map(|name| match *name {
                "string" => Some(0),
                "number" | "integer" => Some(1),
                "boolean" => Some(2),
                _ => None,
            })
            .collect();
        let kind = match kinds.iter().copied().collect::<Vec<_>>().as_slice() {
            [0] => Some(Kind::Text),
            [1] => Some(Kind::Number),
            [2] => Some(Kind::Truth),
            _ => None,
        };
        let permitted = at.and_then(|schema| schema.get("enum")).and_then(Value::as_array).map(Vec::len);
        // A star is every element in a condition, and a place in an array cannot be told from a name.
        let is_sound = tokens(pointer).all(|name| name != "*" && name.parse::<u64>().is_err());
        Plain { pointer: pointer.clone(), kind: kind.filter(|_| is_sound), permitted }
    };
    plain.map(|(pointer, _)| known(pointer)).collect()
}

fn tokens(pointer: &str) -> impl Iterator<Item = String> {
    pointer.split('/').skip(1).map(|token| token.replace("~1", "/").replace("~0", "~"))
}

impl Seen {
    /// A call on record, with its arguments as the record has them.
    pub fn take(&mut self, principal: &str, target: &str, arguments: Option<&Value>, fields: &[Plain]) {
        let of_call = self.0.entry((principal.to_owned(), target.to_owned())).or_default();
        for plain in fields {
            let field = of_call.entry(plain.pointer.clone()).or_default();
            field.calls += 1;
            match arguments.map_or(Found::Unread, |arguments| found(arguments, plain)) {
                Found::Value(value) if field.values.len() < MAX_VALUES || field.values.contains_key(&value) => {
                    *field.values.entry(value).or_default() += 1;
                }
                Found::Value(_) => field.is_cut = true,
                Found::Nothing => field.lacking += 1,
                Found::Unread => field.unread += 1,
            }
        }
    }

    /// What stood in a field of a target in the calls of all these agents together.
    pub fn of(&self, principals: &BTreeSet<&str>, target: &str, pointer: &str) -> Field {
        let mut all = Field::default();
        let of_target = self.0.iter().filter(|((principal, called), _)| called == target && principals.contains(&**principal));
        for field in of_target.filter_map(|(_, fields)| fields.get(pointer)) {
            all.calls += field.calls;
            all.lacking += field.lacking;
            all.unread += field.unread;
            all.is_cut |= field.is_cut;
            field.values.iter().for_each(|(value, count)| *all.values.entry(value.clone()).or_default() += count);
        }
        all
    }
}

enum Found {
    Value(String),
    Nothing,
    Unread,
}

fn found(arguments: &Value, plain: &Plain) -> Found {
    let mut at = arguments;
    for name in tokens(&plain.pointer) {
        let Value::Object(members) = at else { return Found::Unread };
        // What a record has keyed, or left out, may be the same name in other letters, and then a condition has no answer.
        let is_other = |key: &String| {
            key.starts_with("hmac:") || key.starts_with('\u{ffff}') || *key != name && key.to_lowercase() == name.to_lowercase()
        };
        if members.keys().any(is_other) {
            return Found::Unread;
        }
        let Some(member) = members.get(&name) else { return Found::Nothing };
        at = member;
    }
    match (at, plain.kind) {
        (Value::String(text), Some(Kind::Text)) if is_clear(text) => Found::Value(at.to_string()),
        (Value::String(digits), Some(Kind::Number)) if Decimal::of(digits).is_some() => Found::Value(digits.clone()),
        (Value::Bool(_), Some(Kind::Truth)) => Found::Value(at.to_string()),
        _ => Found::Unread,
    }
}

/// Whether a text is a value as it came, which a person can review, and not what a record has in the place of one.
fn is_clear(text: &str) -> bool {
    let is_class = ["string of ", "number of ", "array of ", "object of "].iter().any(|class| text.starts_with(class))
        || matches!(text, "boolean" | "null");
    !is_class && !text.starts_with("hmac:") && text.chars().all(|found| found == ' ' || found.is_alphanumeric() || found.is_ascii_graphic())
}

impl Field {
    /// The test that covers all that was seen.
    ///
    /// # Errors
    /// Why there is none, in words.
    pub fn cover(&self, plain: &Plain) -> Result<Cover, String> {
        let (calls, different) = (self.calls, self.values.len());
        if plain.kind.is_none() {
            return Err("the reviewed schema does not say for sure whether it is a text, a number or a truth".to_owned());
        }
        if self.unread > 0 {
            return Err(format!("{} of {calls} calls have it stored in a form that cannot be read", self.unread));
        }
        if self.lacking > 0 {
            return Err(format!("{} of {calls} calls are without it", self.lacking));
        }
        if calls < MIN_CALLS {
            return Err(format!("{calls} calls are too few to tell"));
        }
        let none = || {
            format!(
                "{different}{} different values in {calls} calls have nothing in common that would last",
                if self.is_cut { " or more" } else { "" }
            )
        };
        if self.is_cut
            || plain.permitted.is_some_and(|permitted| different >= permitted)
            || plain.kind == Some(Kind::Truth) && different > 1
        {
            return Err(if self.is_cut { none() } else { "every value that the schema permits was used".to_owned() });
        }
        let texts: Vec<String> = self.values.keys().filter_map(|value| serde_json::from_str(value).ok()).collect();
        let in_common = || if plain.kind == Some(Kind::Text) { common(&texts, &self.values) } else { None };
        let test = words(&self.values).or_else(in_common).ok_or_else(none)?;
        let test = format!("{{ argument: {}, {test} }}", quoted(&plain.pointer));
        if !passes_all(&test, &plain.pointer, self.values.keys()) {
            return Err("some value that was seen can be read in more than one way".to_owned());
        }
        Ok(Cover { pointer: plain.pointer.clone(), test, calls, values: different })
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// `eq` or `in`, where the same few values came again and again.
fn words(values: &BTreeMap<String, u64>) -> Option<String> {
    let is_few = values.len() <= MAX_WORDS && values.values().all(|count| *count >= MIN_EACH);
    match values.keys().collect::<Vec<_>>().as_slice() {
        [] => None,
        [one] if is_few => Some(format!("eq: {one}")),
        some if is_few => Some(format!("in: [{}]", some.iter().map(|value| value.as_str()).collect::<Vec<_>>().join(", "))),
        _ => None,
    }
}

/// The folder, the hosts, or the beginning that many different texts have in common.
fn common(texts: &[String], counts: &BTreeMap<String, u64>) -> Option<String> {
    if texts.len() < MIN_DIFFERENT {
        return None;
    }
    if texts.iter().all(|text| text.starts_with('/')) {
        return beginning(texts, |stem| stem.rfind('/'))
            .filter(|folder| folder.len() > 1)
            .map(|folder| format!("path_within: {}", quoted(folder)));
    }
    if texts.iter().any(|text| text.contains("://")) {
        let mut hosts: BTreeMap<String, u64> = BTreeMap::new();
        for (text, count) in texts.iter().zip(counts.values()) {
            let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.port().is_none())?;
            *hosts.entry(quoted(url.host_str()?)).or_default() += count;
        }
        let listed = words(&hosts)?;
        return Some(match listed.strip_prefix("eq: ") {
            Some(host) => format!("url_host_in: {host}"),
            None => listed.replacen("in: ", "url_host_in: ", 1),
        });
    }
    let ends = |stem: &str| stem.rfind(['/', ':', '.', '-', '_', '@', '#']).map(|at| at + 1);
    beginning(texts, ends).filter(|stem| stem.len() >= MIN_PREFIX).map(|stem| format!("prefix: {}", quoted(stem)))
}

/// What all begin with, up to where `ends` says; none where that hangs on a single text.
fn beginning(sorted: &[String], ends: impl Fn(&str) -> Option<usize>) -> Option<&str> {
    let mut sorted: Vec<&String> = sorted.iter().collect();
    sorted.sort_unstable();
    let both = |first: &'_ str, last: &'_ str| {
        let same = first
            .char_indices()
            .zip(last.chars())
            .find(|((_, one), other)| one != other)
            .map_or(first.len().min(last.len()), |((at, _), _)| at);
        first.get(..same).and_then(&ends).unwrap_or(0)
    };
    let [first, second, .., before, last] = sorted.as_slice() else { return None };
    let stem = both(first, last);
    let is_stable = [both(second, last), both(first, before)].iter().all(|other| *other == stem);
    first.get(..stem).filter(|_| is_stable && stem > 0)
}

/// Whether a test holds for every one of these values, as a condition on a call with it.
fn passes_all<'v>(test: &str, pointer: &str, mut values: impl Iterator<Item = &'v String>) -> bool {
    let Ok(conditions) = Conditions::parse(Path::new("conditions.yaml"), &format!("conditions:\n  seen: {test}\n")) else { return false };
    let Some(id) = conditions.id("seen") else { return false };
    let (principal, clock, before) = (Principal::local("nobody", "none"), Clock::system(), Before::nothing());
    values.all(|value| {
        let names: Vec<String> = tokens(pointer).collect();
        let text = names.iter().rev().fold(value.clone(), |inside, name| format!("{{{}:{inside}}}", quoted(name)));
        let Ok(arguments) = json::parse(text.as_bytes(), Limits::default()) else { return false };
        let facts = Facts { arguments: Some(&arguments), principal: &principal, has_role: &|_| false, clock: &clock, before: &before };
        conditions.evaluate(id, &facts) == Ok(true)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use serde_json::json;

    use super::*;

    fn plain(kind: Kind) -> Plain {
        Plain { pointer: "/x".to_owned(), kind: Some(kind), permitted: None }
    }

    /// What covers these values of `/x`, each of them so often.
    fn covered(kind: Kind, values: impl IntoIterator<Item = Value>, often: usize) -> Result<String, String> {
        let mut seen = Seen::default();
        for value in values {
            for _ in 0..often {
                seen.take("agent:a", "t", Some(&json!({ "x": value })), &[plain(kind)]);
            }
        }
        let test = seen.of(&BTreeSet::from(["agent:a"]), "t", "/x").cover(&plain(kind))?.test;
        Ok(test.trim_start_matches("{ argument: \"/x\", ").trim_end_matches(" }").to_owned())
    }

    fn texts<'t>(values: &'t [&'t str]) -> impl Iterator<Item = Value> + 't {
        values.iter().map(|value| json!(value))
    }

    #[test]
    fn a_few_words_are_these_words_and_many_what_they_have_in_common() {
        let many = |form: &str| (0..30).map(|at| json!(form.replace('N', &at.to_string()))).collect::<Vec<_>>();
        for (kind, values, often, test) in [
            (Kind::Text, texts(&["dev", "a \"b\""]).collect(), 10, r#"in: ["a \"b\"", "dev"]"#),
            (Kind::Text, texts(&["dev"]).collect(), 20, r#"eq: "dev""#),
            (Kind::Number, texts(&["5", "1.50"]).collect(), 10, "in: [1.50, 5]"),
            (Kind::Truth, vec![json!(false)], 20, "eq: false"),
            (Kind::Text, many("/srv/docs/N/a.md"), 1, r#"path_within: "/srv/docs""#),
            (Kind::Text, many("acme/repo-N"), 1, r#"prefix: "acme/repo-""#),
            (Kind::Text, many("https://docs.example/N"), 1, r#"url_host_in: "docs.example""#),
        ] {
            assert_eq!(covered(kind, values, often).as_deref(), Ok(test), "{test}");
        }
    }

    #[test]
    fn what_says_too_little_is_left_alone_and_says_why() {
        let many = |form: &str| (0..30).map(|at| json!(form.replace('N', &at.to_string()))).collect::<Vec<_>>();
        let once = |more: &str| [many("/srv/docs/N"), vec![json!(more)]].concat();
        for (kind, values, often, why) in [
            (Kind::Text, texts(&["dev"]).collect(), 19, "19 calls are too few to tell"),
            (Kind::Text, [texts(&["dev"; 30]).collect(), vec![json!("prod")]].concat(), 1, "nothing in common that would last"),
            (Kind::Text, once("/etc/hosts"), 1, "nothing in common"),
            (Kind::Text, once("/srv/other/1"), 1, "nothing in common"),
            (Kind::Text, many("//N"), 1, "nothing in common"),
            (Kind::Number, many("N"), 1, "nothing in common"),
            (Kind::Text, many("/srv/docs/../N"), 1, "can be read in more than one way"),
            (Kind::Text, many("hmac:ab12:N"), 1, "30 of 30 calls have it stored in a form that cannot be read"),
            (Kind::Text, many("string of N characters"), 1, "cannot be read"),
            (Kind::Truth, vec![json!(true), json!(false)], 20, "every value that the schema permits was used"),
        ] {
            let told = covered(kind, values, often).unwrap_err();
            assert!(told.contains(why), "{why}: {told}");
        }
    }

    #[test]
    fn a_call_without_the_field_or_with_another_spelling_of_it_leaves_it_alone() {
        for (odd, why) in [
            (json!({}), "1 of 31 calls are without it"),
            (json!({ "x": "dev", "X": "prod" }), "1 of 31 calls have it stored"),
            (json!({ "x": "dev", "hmac:ab12:00": 1 }), "1 of 31 calls have it stored"),
            (json!({ "x": ["dev"] }), "1 of 31 calls have it stored"),
        ] {
            let mut seen = Seen::default();
            (0..30).for_each(|_| seen.take("agent:a", "t", Some(&json!({ "x": "dev" })), &[plain(Kind::Text)]));
            seen.take("agent:a", "t", Some(&odd), &[plain(Kind::Text)]);
            let told = seen.of(&BTreeSet::from(["agent:a"]), "t", "/x").cover(&plain(Kind::Text)).unwrap_err();
            assert!(told.starts_with(why), "{odd}: {told}");
        }
    }

    #[test]
    fn the_schema_says_what_a_field_holds() {
        let schema = json!({ "properties": { "a": { "type": "string", "enum": ["x", "y"] }, "b": { "type": ["integer", "null"] }, "c": {},
            "d": { "type": ["string", "number"] }, "e": { "properties": { "f": { "type": "boolean" } } }, "g": { "items": { "type": "string" } } } });
        let of = |pointer: &str| plain_fields(&schema, &[(pointer.to_owned(), Treatment::Plain)]).remove(0);
        let kinds = ["/a", "/b", "/c", "/d", "/e/f", "/g/0", "/h"].map(|pointer| of(pointer).kind);
        assert_eq!(kinds, [Some(Kind::Text), Some(Kind::Number), None, None, Some(Kind::Truth), None, None]);
        assert_eq!((of("/a").permitted, of("/b").permitted), (Some(2), None));
        assert_eq!(plain_fields(&schema, &[("/a".to_owned(), Treatment::Keyed), (String::new(), Treatment::Plain)]), []);
    }
}
