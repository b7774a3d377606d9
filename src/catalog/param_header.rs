//! The arguments that a call over HTTP repeats in headers: what `x-mcp-header` in a tool's input schema asks for (2026-07-28,
//! tools).
//!
//! INVARIANT: an annotation that is not sound is not published: clients drop the whole tool over one. The tool stays.

use std::borrow::Cow;

use crate::error::{Code, Error};
use crate::mcp::json::{Node, Value};
use crate::mcp::messages::Request;

/// The keyword.
const KEYWORD: &str = "x-mcp-header";
/// Deepest nesting of a schema that is looked into; a deeper one does not compile.
const MAX_DEPTH: usize = 64;
/// The largest integer that every peer reads alike.
const MAX_INTEGER: f64 = 9_007_199_254_740_991.0;

/// One argument that is repeated in the header `Mcp-Param-NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamHeader {
    /// NAME as the schema writes it.
    pub name: Box<str>,
    /// The member names that lead to the argument, from the outermost.
    pub path: Vec<Box<str>>,
    /// What the schema says that its value is.
    pub kind: ParamKind,
}

/// The types of a value that can stand in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// A string.
    String,
    /// A whole number within 2^53.
    Integer,
    /// `true` or `false`.
    Boolean,
}

/// The annotations of one input schema.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The sound ones.
    pub headers: Vec<ParamHeader>,
    /// Where the values of the others stand in the definition's text.
    unsound: Vec<std::ops::Range<usize>>,
}

impl Found {
    /// Those of this input schema.
    pub fn of(schema: &Node<'_>) -> Self {
        let mut found = Self::default();
        found.schema(schema, Some(&mut Vec::new()), 0);
        let twice = |header: &ParamHeader, all: &[ParamHeader]| {
            all.iter().filter(|other| other.name.eq_ignore_ascii_case(&header.name)).count() > 1
        };
        if found.headers.iter().any(|header| twice(header, &found.headers)) {
            // Nobody can say which of two is meant, so none is kept.
            let mut all = Vec::new();
            annotations(schema, 0, &mut all);
            return Self { headers: Vec::new(), unsound: all };
        }
        found
    }

    /// A schema; `path` leads to its value for as long as only `properties` lie on the way.
    fn schema(&mut self, schema: &Node<'_>, mut path: Option<&mut Vec<Box<str>>>, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        for member in schema.members() {
            match (member.key.as_ref(), path.as_deref_mut()) {
                (KEYWORD, path) => match sound(schema, &member.node, path) {
                    Some(header) => self.headers.push(header),
                    None => self.unsound.push(member.node.span()),
                },
                ("properties", Some(path)) => {
                    for property in member.node.members() {
                        path.push(property.key.as_ref().into());
                        self.schema(&property.node, Some(path), depth + 1);
                        path.pop();
                    }
                }
                (key, _) => subschemas(key, &member.node).for_each(|schema| self.schema(schema, None, depth + 1)),
            }
        }
    }

    /// The definition's text without what is unsound; `None` where all is sound. The text is canonical: no spaces.
    pub fn repaired(&self, definition: &[u8]) -> Option<Vec<u8>> {
        if self.unsound.is_empty() {
            return None;
        }
        let mut spans = self.unsound.clone();
        spans.sort_by_key(|span| span.start);
        let mut text = definition.to_vec();
        for span in spans.into_iter().rev() {
            let (mut start, mut end) = (span.start.checked_sub(KEYWORD.len() + 3)?, span.end);
            match (start.checked_sub(1).and_then(|at| text.get(at)), text.get(end)) {
                (Some(b','), _) => start -= 1,
                (_, Some(b',')) => end += 1,
                _ => {}
            }
            text.drain(start..end);
        }
        Some(text)
    }
}

fn sound(schema: &Node<'_>, name: &Node<'_>, path: Option<&mut Vec<Box<str>>>) -> Option<ParamHeader> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let name = name.as_str().filter(|name| !name.is_empty() && name.bytes().all(token))?;
    let kind = match schema.get("type").and_then(Node::as_str)? {
        "string" => ParamKind::String,
        "integer" => ParamKind::Integer,
        "boolean" => ParamKind::Boolean,
        _ => return None,
    };
    let path = path.filter(|path| !path.is_empty())?.clone();
    Some(ParamHeader { name: name.into(), path, kind })
}

/// The schemas right below a keyword. Values that are data have none.
fn subschemas<'n, 'a>(keyword: &str, node: &'n Node<'a>) -> impl Iterator<Item = &'n Node<'a>> {
    let (whole, members, items) = match keyword {
        "enum" | "const" | "default" | "examples" => (None, &[][..], &[][..]),
        "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" => (None, node.members(), &[][..]),
        _ => (Some(node).filter(|node| node.is_object()), &[][..], node.items()),
    };
    whole.into_iter().chain(members.iter().map(|member| &member.node)).chain(items)
}

fn annotations(schema: &Node<'_>, depth: usize, all: &mut Vec<std::ops::Range<usize>>) {
    if depth > MAX_DEPTH {
        return;
    }
    for member in schema.members() {
        if member.key == KEYWORD {
            all.push(member.node.span());
        } else {
            subschemas(&member.key, &member.node).for_each(|schema| annotations(schema, depth + 1, all));
        }
    }
}

impl ParamHeader {
    /// What the header says for these arguments; `None` where it must be absent.
    pub fn value<'n>(&self, arguments: Option<&'n Node<'_>>) -> Option<Cow<'n, str>> {
        let value = self.path.iter().try_fold(arguments?, |node, name| node.get(name))?;
        match &value.value {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Bool(truth) => Some(Cow::Borrowed(if *truth { "true" } else { "false" })),
            Value::Number(digits) => Some(match integer(digits) {
                Some(number) if digits.contains(['.', 'e', 'E']) => Cow::Owned(format!("{number:.0}")),
                _ => Cow::Borrowed(digits),
            }),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn agrees(&self, body: &str, header: &str) -> bool {
        match self.kind {
            ParamKind::Integer => integer(body).is_some_and(|number| integer(header) == Some(number)),
            ParamKind::String | ParamKind::Boolean => body == header,
        }
    }
}

fn integer(digits: &str) -> Option<f64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || b"-+.eE".contains(&byte));
    digits.parse::<f64>().ok().filter(|number| plain && number.fract() == 0.0 && number.abs() <= MAX_INTEGER)
}

/// Compares the headers of a call with its arguments.
///
/// # Errors
/// `header_mismatch` for one that is missing, differs, or stands for an argument that is not there.
pub fn check(headers: &[ParamHeader], request: &Request<'_, '_>) -> Result<(), Error> {
    let Some(given) = request.param_headers else { return Ok(()) };
    for header in headers {
        let body = header.value(request.arguments);
        let said = given.iter().find(|(name, _)| name.eq_ignore_ascii_case(&header.name)).map(|(_, value)| &**value);
        let what = match (body, said) {
            (None, None) => continue,
            (Some(body), Some(said)) if header.agrees(&body, said) => continue,
            (Some(_), Some(_)) => "differs from its argument",
            (Some(_), None) => "is missing, and its argument is there",
            (None, Some(_)) => "is there, and its argument is not",
        };
        let error = Error::new(Code::HeaderMismatch, format!("the header `Mcp-Param-{}` {what}", header.name));
        return Err(error.suggest("send each `Mcp-Param-NAME` that the tool's schema asks for, with the value of its argument"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::{self, Limits};

    fn read(schema: &str) -> (Vec<String>, Option<String>) {
        let node = json::parse(schema.as_bytes(), Limits::default()).unwrap();
        let found = Found::of(&node);
        let named = found.headers.iter().map(|header| format!("{}={}", header.name, header.path.join("."))).collect();
        (named, found.repaired(schema.as_bytes()).map(|text| String::from_utf8(text).unwrap()))
    }

    #[test]
    fn annotations_on_chains_of_properties_are_sound() {
        let nested = r#"{"properties":{"a":{"properties":{"b":{"type":"integer","x-mcp-header":"B"}},"type":"object"},"x-mcp-header":{"type":"string","x-mcp-header":"X"}},"type":"object"}"#;
        assert_eq!(read(nested), (vec!["B=a.b".to_owned(), "X=x-mcp-header".to_owned()], None));
        let data = r#"{"properties":{"a":{"default":{"x-mcp-header":1},"type":"object"}},"type":"object"}"#;
        assert_eq!(read(data), (vec![], None));
    }

    #[test]
    fn an_unsound_annotation_is_taken_out_and_the_others_stay() {
        let schema = |bad: &str| format!(r#"{{"properties":{{"a":{{"type":"string","x-mcp-header":"A"}},"b":{bad}}},"type":"object"}}"#);
        for (bad, repaired) in [
            (r#"{"type":"number","x-mcp-header":"B"}"#, r#"{"type":"number"}"#),
            (r#"{"type":"string","x-mcp-header":"B C"}"#, r#"{"type":"string"}"#),
            (r#"{"type":"string","x-mcp-header":""}"#, r#"{"type":"string"}"#),
            (r#"{"type":"string","x-mcp-header":1}"#, r#"{"type":"string"}"#),
            (r#"{"x-mcp-header":"B","z":1}"#, r#"{"z":1}"#),
            (r#"{"x-mcp-header":"B"}"#, r#"{}"#),
            (r#"{"items":{"type":"string","x-mcp-header":"B"},"type":"array"}"#, r#"{"items":{"type":"string"},"type":"array"}"#),
            (r#"{"anyOf":[{"type":"string","x-mcp-header":"B"}]}"#, r#"{"anyOf":[{"type":"string"}]}"#),
        ] {
            assert_eq!(read(&schema(bad)), (vec!["A=a".to_owned()], Some(schema(repaired))), "{bad}");
        }
        let twice = schema(r#"{"type":"string","x-mcp-header":"a"}"#);
        assert_eq!(read(&twice), (vec![], Some(twice.replace(r#","x-mcp-header":"a""#, "").replace(r#","x-mcp-header":"A""#, ""))));
    }

    #[test]
    fn integers_are_compared_by_their_value() {
        let header = ParamHeader { name: "N".into(), path: vec!["n".into()], kind: ParamKind::Integer };
        assert!(header.agrees("42", "42.0") && header.agrees("4.2e1", "42") && header.agrees("-0", "0"));
        assert!(!header.agrees("42", "43") && !header.agrees("42", "inf") && !header.agrees("9007199254740993", "9007199254740993"));
    }
}
