//! Where in the arguments a condition looks: a JSON Pointer (RFC 6901) whose tokens may be `*` for every element of an array.

use std::fmt;

use super::Unclear;
use crate::mcp::json::{Node, Value};

/// Most tokens of a pointer.
const MAX_TOKENS: usize = 32;
/// Most values that one pointer may lead to; beyond, nothing is said.
const MAX_VALUES: usize = 10_000;

/// A pointer as it was written.
#[derive(Debug)]
pub struct Pointer {
    text: Box<str>,
    tokens: Box<[Token]>,
}

#[derive(Debug)]
enum Token {
    Member(Box<str>),
    Every,
}

impl Pointer {
    /// The pointer of a text.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(path) = text.strip_prefix('/') else { return Err("a pointer begins with `/`, such as `/path` or `/paths/*`") };
        let tokens = path.split('/').map(|token| {
            let broken = token.match_indices('~').any(|(at, _)| !matches!(token.as_bytes().get(at + 1), Some(b'0' | b'1')));
            match token {
                _ if broken => Err("a `~` in a pointer is written `~0`, and a `/` within a name `~1`"),
                "*" => Ok(Token::Every),
                name => Ok(Token::Member(name.replace("~1", "/").replace("~0", "~").into())),
            }
        });
        let tokens: Box<[Token]> = tokens.collect::<Result<_, _>>()?;
        if tokens.len() > MAX_TOKENS { Err("the pointer is too long") } else { Ok(Self { text: text.into(), tokens }) }
    }

    /// Whether it leads to every element of an array.
    pub fn has_star(&self) -> bool {
        self.tokens.iter().any(|token| matches!(token, Token::Every))
    }

    /// The member that it begins with; `None` for a star.
    pub fn first(&self) -> Option<&str> {
        match self.tokens.first() {
            Some(Token::Member(name)) => Some(name),
            _ => None,
        }
    }

    /// What stands there: one value, or one for each element; `None` for each that is missing. An empty array has one that is missing.
    ///
    /// # Errors
    /// Where the arguments have another form than the pointer takes for granted.
    pub fn find<'n>(&self, arguments: Option<&'n Node<'n>>) -> Result<Vec<Option<&'n Node<'n>>>, Unclear> {
        let mut found = vec![arguments];
        for token in &self.tokens {
            let mut next = Vec::with_capacity(found.len());
            for node in found {
                let Some(node) = node else {
                    next.push(None);
                    continue;
                };
                match (token, &node.value) {
                    (Token::Member(name), Value::Object(members)) => {
                        // A server that reads names without case takes either of two, and `/path` says nothing of `PATH`.
                        if members.iter().any(|member| is_twin(&member.key, name)) {
                            return Err(Unclear("the argument has a name in other letters beside"));
                        }
                        next.push(node.get(name));
                    }
                    (Token::Member(name), Value::Array(items)) => next.push(place(name).and_then(|at| items.get(at))),
                    (Token::Every, Value::Array(items)) if items.is_empty() => next.push(None),
                    (Token::Every, Value::Array(items)) => next.extend(items.iter().map(Some)),
                    (Token::Every, _) => return Err(Unclear("the argument is no array")),
                    (Token::Member(_), _) => return Err(Unclear("the argument has another form")),
                }
                if next.len() > MAX_VALUES {
                    return Err(Unclear("the argument has too many elements"));
                }
            }
            found = next;
        }
        Ok(found)
    }
}

/// Whether a name is another one but for capital letters.
fn is_twin(one: &str, other: &str) -> bool {
    let folded = |name: &str| name.to_uppercase().to_lowercase();
    one != other && (one.eq_ignore_ascii_case(other) || !(one.is_ascii() && other.is_ascii()) && folded(one) == folded(other))
}

/// The place that a token names in an array: digits without a zero in front.
fn place(token: &str) -> Option<usize> {
    let plain = token.bytes().all(|byte| byte.is_ascii_digit()) && (token.len() == 1 || !token.starts_with('0'));
    token.parse().ok().filter(|_| plain)
}

impl fmt::Display for Pointer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json::{self, Limits};

    #[test]
    fn a_name_that_differs_in_capital_letters_only_has_no_answer() {
        let found = |pointer: &str, text: &str| {
            let node = json::parse(text.as_bytes(), Limits::default()).unwrap();
            Pointer::parse(pointer).unwrap().find(Some(&node)).map(|found| found.into_iter().flatten().count())
        };
        for text in [
            r#"{"path":"/srv/workspace/a","PATH":"/etc/passwd"}"#,
            r#"{"path":"/srv/workspace/a","Path":"/etc/passwd"}"#,
            r#"{"Path":"/srv/workspace/a"}"#,
        ] {
            assert!(found("/path", text).is_err(), "{text}");
        }
        for (pointer, text) in
            [("/ssn", r#"{"ſsn":1}"#), ("/key", "{\"\u{212a}ey\":1}"), ("/a/b", r#"{"a":{"b":1,"B":2}}"#), ("/é", r#"{"É":1}"#)]
        {
            assert!(found(pointer, text).is_err(), "{text}");
        }
        for text in [r#"{"path":1,"file":2}"#, r#"{"path":1,"ſpath":2}"#, r#"{"path":{"PATH":1}}"#, r#"{"path":1,"paths":2}"#] {
            assert_eq!(found("/path", text), Ok(1), "{text}");
        }
        assert_eq!(found("/a", r#"{"b":1}"#), Ok(0));
    }
}
