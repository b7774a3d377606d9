//! What a client can be asked for, as one small set: the optional capabilities that a server's question needs.
//!
//! Owns: how each revision declares them. Leaves to others: what may be asked (`catalog`), and the asking.
//! INVARIANT: what is not declared is not in the set; so what is declared onwards is never more than what was declared to us.

use super::json::{Node, Value};
use super::revision::Revision;

/// The extension of 2026-07-28 that lets a call go on as a task.
const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// A set of client capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(u8);

impl Capabilities {
    /// `elicitation` by a form.
    pub const ELICIT_FORM: Self = Self(1);
    /// `elicitation` by a URL.
    pub const ELICIT_URL: Self = Self(1 << 1);
    /// `sampling`.
    pub const SAMPLING: Self = Self(1 << 2);
    /// `sampling` with tools.
    pub const SAMPLING_TOOLS: Self = Self(1 << 3);
    /// `sampling` with the context of servers.
    pub const SAMPLING_CONTEXT: Self = Self(1 << 4);
    /// `roots`.
    pub const ROOTS: Self = Self(1 << 5);
    /// The tasks extension of 2026-07-28; what 2025-11-25 calls tasks is something else.
    pub const TASKS: Self = Self(1 << 6);

    const ALL: u8 = (1 << 7) - 1;

    /// What a `ClientCapabilities` object declares; what is not declared as an object is not declared.
    pub fn of(declared: Option<&Node<'_>>) -> Self {
        let Some(declared) = declared else { return Self::default() };
        let within = |parent: Option<&Node<'_>>, key| parent.and_then(|node| node.get(key)).is_some_and(Node::is_object);
        let elicitation = declared.get("elicitation").filter(|node| node.is_object());
        let sampling = declared.get("sampling").filter(|node| node.is_object());
        let url = within(elicitation, "url");
        // An empty object means forms, as it did before there was anything else (2025-11-25, elicitation).
        let form = elicitation.is_some() && (within(elicitation, "form") || !url);
        let parts = [
            (form, Self::ELICIT_FORM),
            (url, Self::ELICIT_URL),
            (sampling.is_some(), Self::SAMPLING),
            (within(sampling, "tools"), Self::SAMPLING_TOOLS),
            (within(sampling, "context"), Self::SAMPLING_CONTEXT),
            (within(Some(declared), "roots"), Self::ROOTS),
            (within(declared.get("extensions"), TASKS_EXTENSION), Self::TASKS),
        ];
        parts.into_iter().filter(|(declared, _)| *declared).fold(Self::default(), |set, (_, part)| set.union(part))
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set as a number, for what is sealed and for the keys of sessions.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The set of that number; bits that mean nothing are left out.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits & Self::ALL)
    }

    /// All that a peer of this revision can declare or be told.
    pub const fn known_to(revision: Revision) -> Self {
        let first = Self::ROOTS.union(Self::SAMPLING);
        match revision {
            Revision::V2024_11_05 | Revision::V2025_03_26 => first,
            Revision::V2025_06_18 => first.union(Self::ELICIT_FORM),
            Revision::V2025_11_25 => Self(Self::ALL & !Self::TASKS.0),
            Revision::V2026_07_28 => Self(Self::ALL),
        }
    }

    /// Writes the `ClientCapabilities` object that declares exactly these.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut separator = b'{';
        let mut object = |name: &str, declared: bool, parts: &[(&str, Self)]| {
            if !declared {
                return;
            }
            out.push(std::mem::replace(&mut separator, b','));
            out.extend_from_slice(format!("\"{name}\":{{").as_bytes());
            let parts = parts.iter().filter(|(_, part)| self.contains(*part)).map(|(name, _)| format!("\"{name}\":{{}}"));
            out.extend_from_slice(parts.collect::<Vec<_>>().join(",").as_bytes());
            out.push(b'}');
        };
        let elicits = !self.intersect(Self::ELICIT_FORM.union(Self::ELICIT_URL)).is_empty();
        object("elicitation", elicits, &[("form", Self::ELICIT_FORM), ("url", Self::ELICIT_URL)]);
        object("sampling", self.contains(Self::SAMPLING), &[("tools", Self::SAMPLING_TOOLS), ("context", Self::SAMPLING_CONTEXT)]);
        object("roots", self.contains(Self::ROOTS), &[]);
        object("extensions", self.contains(Self::TASKS), &[(TASKS_EXTENSION, Self::TASKS)]);
        if separator == b'{' {
            out.push(b'{');
        }
        out.push(b'}');
    }

    /// What a client must have declared to be asked this; `None` where the method is no question to a client.
    pub fn needs(method: &str, params: Option<&Node<'_>>) -> Option<Self> {
        let member = |key| params.and_then(|params| params.get(key));
        match method {
            "elicitation/create" if member("mode").and_then(Node::as_str) == Some("url") => Some(Self::ELICIT_URL),
            "elicitation/create" => Some(Self::ELICIT_FORM),
            "sampling/createMessage" => {
                let tools = member("tools").or(member("toolChoice")).is_some_and(|node| !matches!(node.value, Value::Null));
                let context = member("includeContext").and_then(Node::as_str).is_some_and(|context| context != "none");
                let parts = [(tools, Self::SAMPLING_TOOLS), (context, Self::SAMPLING_CONTEXT)];
                Some(parts.into_iter().filter(|(needed, _)| *needed).fold(Self::SAMPLING, |set, (_, part)| set.union(part)))
            }
            "roots/list" => Some(Self::ROOTS),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json;

    fn of(text: &str) -> Capabilities {
        Capabilities::of(Some(&json::parse(text.as_bytes(), json::Limits::default()).unwrap()))
    }

    #[test]
    fn an_empty_elicitation_means_forms() {
        assert_eq!(of(r#"{"elicitation":{}}"#), Capabilities::ELICIT_FORM);
        assert_eq!(of(r#"{"elicitation":{"url":{}}}"#), Capabilities::ELICIT_URL);
        assert_eq!(of(r#"{"elicitation":true,"roots":null,"experimental":{}}"#), Capabilities::default());
    }

    #[test]
    fn what_is_written_is_read_back() {
        for bits in 0..=Capabilities::ALL {
            let set = Capabilities::from_bits(bits);
            let refined = Capabilities::SAMPLING_TOOLS.union(Capabilities::SAMPLING_CONTEXT);
            if !set.contains(Capabilities::SAMPLING) && !set.intersect(refined).is_empty() {
                continue;
            }
            let mut out = Vec::new();
            set.write(&mut out);
            assert_eq!(of(std::str::from_utf8(&out).unwrap()), set, "{}", String::from_utf8_lossy(&out));
        }
    }

    #[test]
    fn a_revision_is_told_what_it_knows() {
        let known = |revision| Capabilities::known_to(revision);
        assert!(known(Revision::V2025_03_26).intersect(Capabilities::ELICIT_FORM).is_empty());
        assert!(!known(Revision::V2025_06_18).contains(Capabilities::ELICIT_URL));
        assert!(
            known(Revision::V2025_11_25).contains(Capabilities::ELICIT_URL) && !known(Revision::V2025_11_25).contains(Capabilities::TASKS)
        );
    }

    #[test]
    fn a_question_names_what_it_needs() {
        let needs = |method, text: &str| Capabilities::needs(method, Some(&json::parse(text.as_bytes(), json::Limits::default()).unwrap()));
        assert_eq!(needs("elicitation/create", r#"{"mode":"url"}"#), Some(Capabilities::ELICIT_URL));
        assert_eq!(needs("elicitation/create", "{}"), Some(Capabilities::ELICIT_FORM));
        let sampling = needs("sampling/createMessage", r#"{"tools":[],"includeContext":"none"}"#);
        assert_eq!(sampling, Some(Capabilities::SAMPLING.union(Capabilities::SAMPLING_TOOLS)));
        assert_eq!(needs("ping", "{}"), None);
    }
}
