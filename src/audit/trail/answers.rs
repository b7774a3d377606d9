//! What people and clients answer when a tool server asks, as a record shows it: which question, what was decided, and a keyed
//! hash of what was said.
//!
//! INVARIANT: no word of an answer stands in clear but the protocol's own, and no key of a question but those of our own making:
//! whoever answers may put anything into either.
//! INVARIANT: what is shown is bounded; what does not fit is counted and hashed.

use std::borrow::Cow;

use super::super::redact::{ValueKey, hash};
use crate::mcp::json::{self, Node};

/// Answers, or questions, of one message that are told apart.
const MAX_SHOWN: usize = 64;

/// One text for each answer of `inputResponses`: the question, what was decided, and the hash of what was said if anything was.
pub(super) fn shown(responses: &[u8], key: &ValueKey) -> Vec<Cow<'static, str>> {
    let Ok(node) = json::parse(responses, json::Limits::default()) else {
        return vec![format!("unreadable {}", key.hash(responses)).into()];
    };
    let one = |(name, answer): (&str, &Node<'_>)| {
        let (decided, said) = decided(answer);
        let said = said.map(|said| format!(" {}", hash(said, key))).unwrap_or_default();
        Cow::Owned(format!("{} {decided}{said}", question(name, key)))
    };
    let mut shown: Vec<_> = node.members().iter().take(MAX_SHOWN).map(|member| one((&member.key, &member.node))).collect();
    if let Some(more) = node.members().len().checked_sub(MAX_SHOWN + 1) {
        shown.push(format!("{} more {}", more + 1, hash(&node, key)).into());
    }
    shown
}

/// What a server asks, by question: its key and its method.
pub(super) fn asked(requests: &[u8], key: &ValueKey) -> Option<String> {
    let node = json::parse(requests, json::Limits::default()).ok()?;
    let one = |name: &str, asked: &Node<'_>| Some(format!("{} {}", question(name, key), asked.get("method")?.as_str()?));
    let mut asked: Vec<_> = node.members().iter().take(MAX_SHOWN).filter_map(|member| one(&member.key, &member.node)).collect();
    if let Some(more) = node.members().len().checked_sub(MAX_SHOWN + 1) {
        asked.push(format!("{} more", more + 1));
    }
    (!asked.is_empty()).then(|| asked.join(", "))
}

/// The three words of an elicitation (2025-06-18, elicitation, "Response Actions"), with its content; anything else is a result.
fn decided<'n>(answer: &'n Node<'n>) -> (&'static str, Option<&'n Node<'n>>) {
    let word = match answer.get("action").and_then(Node::as_str) {
        Some("accept") => "accept",
        Some("decline") => "decline",
        Some("cancel") => "cancel",
        _ => return ("result", Some(answer)),
    };
    (word, answer.get("content"))
}

/// A question's key: `q` and a number as we number them, keyed where a server or an agent chose it.
fn question(name: &str, key: &ValueKey) -> String {
    let is_ours =
        name.strip_prefix('q').is_some_and(|digits| (1..=4).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit()));
    if is_ours { name.to_owned() } else { key.hash(name.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ValueKey {
        ValueKey::new(&[7; 32])
    }

    #[test]
    fn an_answer_shows_its_question_what_was_decided_and_nothing_that_was_said() {
        let text = br#"{"q1":{"action":"accept","content":{"pin":"4711"}},"q2":{"action":"decline"},"sk-live":{"action":"sk-live"},"q7x":{"roots":[]}}"#;
        let shown = shown(text, &key());
        assert!(shown[0].starts_with("q1 accept hmac:") && shown[1] == "q2 decline", "{shown:?}");
        assert!(shown[2].starts_with("hmac:") && shown[2].contains(" result hmac:") && shown[3].starts_with("hmac:"), "{shown:?}");
        assert!(!shown.concat().contains("4711") && !shown.concat().contains("sk-live"), "{shown:?}");
        let same = br#"{ "q9": { "content": { "pin" : "4711" }, "action": "accept" } }"#;
        assert_eq!(super::shown(same, &key())[0].split(' ').next_back(), shown[0].split(' ').next_back());
    }

    #[test]
    fn many_answers_are_counted() {
        let many: Vec<String> = (0..MAX_SHOWN + 5).map(|number| format!("\"q{number}\":{{\"action\":\"cancel\"}}")).collect();
        let shown = shown(format!("{{{}}}", many.join(",")).as_bytes(), &key());
        assert_eq!(shown.len(), MAX_SHOWN + 1);
        assert!(shown[MAX_SHOWN].starts_with("5 more hmac:"), "{shown:?}");
    }
}
