//! The tools: their published definitions, their arguments as types, and what each of them does.
//!
//! Owns: `tools.json` and the one parse of arguments. Leaves to others: the folder (`notes`), and the wire (`protocol`, `session`).
//!
//! INVARIANT: what a tool's `inputSchema` accepts, [`Call::parse`] accepts, and nothing else; a test holds the two together.

use super::notes::{Fault, NoteName, Notes, Recipient};
use super::progress::Progress;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The definitions as published, in the order of `tools/list`.
pub(super) const DEFINITIONS: &str = include_str!("tools.json");

const DEFAULT_LIMIT: usize = 20;
const DEFAULT_STEPS: usize = 10;
const DEFAULT_DELAY_MS: usize = 100;

/// One call whose arguments are sound.
#[derive(Debug)]
pub(super) enum Call {
    /// Done in one go.
    Quick(Quick),
    /// The slow one: it has steps, rests between them, and can be stopped there.
    Index { steps: usize, delay: Duration },
}

/// A call that touches the folder once, on a thread where it may block.
#[derive(Debug)]
pub(super) enum Quick {
    List,
    Read(NoteName),
    Search { query: String, limit: usize },
    Write { name: NoteName, text: String },
    Append { name: NoteName, text: String },
    Delete(NoteName),
    Share { name: NoteName, recipient: Recipient },
}

/// Why there is no call.
#[derive(Debug)]
pub(super) enum Unfit {
    /// No tool has this name.
    UnknownTool,
    /// The arguments break the tool's schema; the text says where.
    Arguments(String),
}

/// What a tool answers.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) structured: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: NoteName,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Searching {
    query: Text<1, 200>,
    #[serde(default, deserialize_with = "present")]
    limit: Option<Whole<1, 100>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Writing {
    name: NoteName,
    text: Text<0, 262_144>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Appending {
    name: NoteName,
    text: Text<1, 262_144>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sharing {
    name: NoteName,
    recipient: Recipient,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Indexing {
    #[serde(default, deserialize_with = "present")]
    steps: Option<Whole<1, 100>>,
    #[serde(default, deserialize_with = "present")]
    delay_ms: Option<Whole<0, 5_000>>,
}

/// A whole number in a range. Read as `f64`, because to JSON Schema `10.0` is an integer too.
#[derive(Deserialize)]
#[serde(try_from = "f64")]
struct Whole<const MIN: usize, const MAX: usize>(usize);

/// A text of so many characters.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Text<const MIN: usize, const MAX: usize>(String);

impl Call {
    /// Reads the arguments of `tool`; absent arguments are an empty object.
    pub(super) fn parse(tool: &str, arguments: Map<String, Value>) -> Result<Self, Unfit> {
        let arguments = Value::Object(arguments);
        if tool != "index_notes" {
            return Quick::parse(tool, arguments).map(Self::Quick);
        }
        let Indexing { steps, delay_ms } = typed(arguments)?;
        let delay_ms = delay_ms.map_or(DEFAULT_DELAY_MS, |delay| delay.0);
        Ok(Self::Index { steps: steps.map_or(DEFAULT_STEPS, |steps| steps.0), delay: Duration::from_millis(delay_ms as u64) })
    }

    /// Does it. Only the slow tool has progress to tell.
    pub(super) async fn run(self, notes: Arc<Notes>, progress: Progress) -> Result<Answer, Fault> {
        match self {
            Self::Quick(quick) => blocking(move || quick.run(&notes)).await,
            Self::Index { steps, delay } => index(notes, steps, delay, progress).await,
        }
    }
}

impl Quick {
    fn parse(tool: &str, arguments: Value) -> Result<Self, Unfit> {
        Ok(match tool {
            "list_notes" => {
                let Nothing {} = typed(arguments)?;
                Self::List
            }
            "read_note" => Self::Read(typed::<Named>(arguments)?.name),
            "search_notes" => {
                let Searching { query, limit } = typed(arguments)?;
                Self::Search { query: query.0, limit: limit.map_or(DEFAULT_LIMIT, |limit| limit.0) }
            }
            "write_note" => {
                let Writing { name, text } = typed(arguments)?;
                Self::Write { name, text: text.0 }
            }
            "append_note" => {
                let Appending { name, text } = typed(arguments)?;
                Self::Append { name, text: text.0 }
            }
            "delete_note" => Self::Delete(typed::<Named>(arguments)?.name),
            "share_note" => {
                let Sharing { name, recipient } = typed(arguments)?;
                Self::Share { name, recipient }
            }
            _ => return Err(Unfit::UnknownTool),
        })
    }

    fn run(self, notes: &Notes) -> Result<Answer, Fault> {
        Ok(match self {
            Self::List => Answer::structured(json!({ "notes": notes.list()? })),
            Self::Read(name) => {
                let text = notes.read(&name)?;
                // The note itself rather than its JSON: that is what a model wants to read.
                Answer { structured: Some(json!({ "name": name.to_string(), "text": text })), text }
            }
            Self::Search { query, limit } => {
                let (matches, more) = notes.search(&query, limit)?;
                Answer::structured(json!({ "matches": matches, "more": more }))
            }
            Self::Write { name, text } => {
                let done = if notes.write(&name, &text)? { "Created" } else { "Replaced" };
                Answer::said(format!("{done} note `{name}`, {} bytes.", text.len()))
            }
            Self::Append { name, text } => Answer::said(format!("Note `{name}` now has {} bytes.", notes.append(&name, &text)?)),
            Self::Delete(name) => {
                notes.delete(&name)?;
                Answer::said(format!("Deleted note `{name}`."))
            }
            Self::Share { name, recipient } => {
                let copy = notes.share(&name, &recipient)?;
                Answer::said(format!("Shared note `{name}` with {recipient}: `{copy}` is in the outbox."))
            }
        })
    }
}

impl Answer {
    fn said(text: String) -> Self {
        Self { text, structured: None }
    }

    /// The same value twice, as text for clients that know no structured content (2025-06-18, tools, structured content).
    fn structured(value: Value) -> Self {
        Self { text: value.to_string(), structured: Some(value) }
    }
}

/// Counts words in `steps` equal shares of the notes, resting `delay` before each.
async fn index(notes: Arc<Notes>, steps: usize, delay: Duration, progress: Progress) -> Result<Answer, Fault> {
    let texts = blocking(move || notes.texts()).await?;
    let share = texts.len().div_ceil(steps).max(1);
    let mut words = 0;
    for step in 1..=steps {
        tokio::time::sleep(delay).await;
        let (from, to) = ((share * (step - 1)).min(texts.len()), (share * step).min(texts.len()));
        words += texts[from..to].iter().map(|(_, text)| text.split_whitespace().count()).sum::<usize>();
        progress.step(step, steps, &format!("{to} of {} notes, {words} words", texts.len())).await;
    }
    Ok(Answer::said(format!("Indexed {} notes with {words} words in {steps} steps.", texts.len())))
}

/// Runs file work on a thread where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Fault::Storage(std::io::Error::other(error))),
    }
}

fn typed<T: for<'de> Deserialize<'de>>(arguments: Value) -> Result<T, Unfit> {
    serde_json::from_value(arguments).map_err(|error| Unfit::Arguments(error.to_string()))
}

/// An optional member may be absent but not null: the schemas have no null.
fn present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    T::deserialize(value).map(Some)
}

impl<const MIN: usize, const MAX: usize> TryFrom<f64> for Whole<MIN, MAX> {
    type Error = String;

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "small ranges, checked before")]
    fn try_from(number: f64) -> Result<Self, Self::Error> {
        if number.fract() == 0.0 && number >= MIN as f64 && number <= MAX as f64 {
            Ok(Self(number as usize))
        } else {
            Err(format!("expected a whole number from {MIN} to {MAX}"))
        }
    }
}

impl<const MIN: usize, const MAX: usize> TryFrom<String> for Text<MIN, MAX> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        // Characters, as JSON Schema counts; what a note may hold is counted in bytes, by `notes`.
        let chars = text.chars().count();
        if (MIN..=MAX).contains(&chars) { Ok(Self(text)) } else { Err(format!("expected a text of {MIN} to {MAX} characters")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases() -> Vec<Value> {
        let long = "x".repeat(65);
        let names = [
            json!("a"),
            json!("A b_c.d-9"),
            json!(""),
            json!(".a"),
            json!("../a"),
            json!("a/b"),
            json!("é"),
            json!("a\n"),
            json!(long),
            json!(1),
        ];
        let numbers = [
            json!(0),
            json!(1),
            json!(1.0),
            json!(1.5),
            json!(-1),
            json!(100),
            json!(101),
            json!(5_000),
            json!(5_001),
            json!("1"),
            json!(null),
        ];
        let mut cases = vec![json!({}), json!({ "other": 1 }), json!({ "steps": 1, "delay_ms": 0 })];
        for name in &names {
            cases.push(json!({ "name": name }));
            cases.push(json!({ "name": name, "text": "t" }));
            cases.push(json!({ "name": name, "text": "" }));
            cases.push(json!({ "name": name, "recipient": "sam@example.com" }));
            cases.push(json!({ "name": "a", "recipient": name }));
            cases.push(json!({ "name": name, "text": "t", "other": true }));
        }
        for number in &numbers {
            cases.push(json!({ "query": "q", "limit": number }));
            cases.push(json!({ "steps": number }));
            cases.push(json!({ "delay_ms": number }));
        }
        cases.extend([json!({ "query": "" }), json!({ "query": "é".repeat(200) }), json!({ "query": "é".repeat(201) })]);
        cases.extend([json!({ "name": "a", "text": "x".repeat(262_144) }), json!({ "name": "a", "text": "x".repeat(262_145) })]);
        cases
    }

    #[test]
    fn parses_exactly_what_the_schemas_accept() {
        let definitions: Vec<Value> = serde_json::from_str(DEFINITIONS).unwrap();
        assert_eq!(definitions.len(), 8);
        for definition in &definitions {
            let schema = jsonschema::draft202012::new(&definition["inputSchema"]).unwrap();
            let tool = definition["name"].as_str().unwrap();
            let mut accepted = 0;
            for case in cases() {
                let parsed = Call::parse(tool, case.as_object().unwrap().clone());
                assert_eq!(parsed.is_ok(), schema.is_valid(&case), "{tool} {case:.200} {parsed:?}");
                accepted += usize::from(parsed.is_ok());
            }
            assert!(accepted > 0, "{tool} accepts some case");
        }
    }
}
