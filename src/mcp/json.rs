//! One strict parse of a JSON text into a borrowed document whose every value knows its span.
//!
//! Owns: what JSON we accept (RFC 8259 without its freedoms).
//! What is validated is read from the document; what is forwarded is the bytes of the same value's span.
//!
//! INVARIANT: refused are duplicate member names at any level, nesting beyond the limit, more values than the limit,
//! invalid UTF-8, lone surrogates, a byte order mark, numbers without a finite value, and bytes after the value.
//! INVARIANT: the digits of a number are kept as they were written.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// Bounds of one document.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Deepest nesting of arrays and objects; the outermost counts 1.
    pub depth: usize,
    /// Most values, member names not counted.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 64, nodes: 200_000 }
    }
}

/// Why a text is not a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A byte that the grammar does not allow there.
    Syntax,
    /// The text ends inside a value.
    Truncated,
    /// More after the value.
    Trailing,
    /// Not UTF-8, or half of a surrogate pair in an escape.
    Unicode,
    /// A member name occurs twice in one object.
    DuplicateKey,
    /// Nested deeper than the limit.
    Depth,
    /// More values than the limit.
    Nodes,
    /// A number whose value is beyond every double.
    NumberRange,
}

/// A fault and the byte where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// What is wrong.
    pub fault: Fault,
    /// Offset in bytes from the start of the text.
    pub offset: usize,
}

impl fmt::Display for ParseError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            Fault::Syntax => "not JSON",
            Fault::Truncated => "the JSON text ends too early",
            Fault::Trailing => "bytes after the JSON value",
            Fault::Unicode => "not valid Unicode",
            Fault::DuplicateKey => "a member name occurs twice",
            Fault::Depth => "nested too deeply",
            Fault::Nodes => "too many values",
            Fault::NumberRange => "a number is out of range",
        };
        write!(out, "{what} at byte {}", self.offset)
    }
}

impl std::error::Error for ParseError {}

/// A value and where its text stands.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    start: usize,
    end: usize,
    /// What it is.
    pub value: Value<'a>,
}

/// A JSON value that borrows from its text.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as it was written.
    Number(&'a str),
    /// A string, unescaped.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Node<'a>>),
    /// An object in the order of its text.
    Object(Vec<Member<'a>>),
}

/// One member of an object.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// Its name, unescaped.
    pub key: Cow<'a, str>,
    /// Its value.
    pub node: Node<'a>,
}

impl<'a> Node<'a> {
    /// The bytes of the value in the text that was parsed.
    pub fn span(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The value's own text, cut out of the `text` that was parsed.
    pub fn text<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        text.get(self.span()).unwrap_or_default()
    }

    /// A string that stands in no text; its span is empty.
    pub fn string(text: &'a str) -> Self {
        Self { start: 0, end: 0, value: Value::String(Cow::Borrowed(text)) }
    }

    /// `{}`, standing in no text.
    pub fn empty_object() -> Self {
        Self { start: 0, end: 0, value: Value::Object(Vec::new()) }
    }

    /// The member of that name, where this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Node<'a>> {
        self.members().iter().find(|member| member.key == key).map(|member| &member.node)
    }

    /// The members; none where this is no object.
    pub fn members(&self) -> &[Member<'a>] {
        match &self.value {
            Value::Object(members) => members,
            _ => &[],
        }
    }

    /// The items; none where this is no array.
    pub fn items(&self) -> &[Node<'a>] {
        match &self.value {
            Value::Array(items) => items,
            _ => &[],
        }
    }

    /// The string, where it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, where it is one that fits; `1.0` and `1e2` are not written as one.
    pub fn as_u64(&self) -> Option<u64> {
        match self.value {
            Value::Number(digits) => digits.parse().ok(),
            _ => None,
        }
    }

    /// The truth value, where it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(truth) => Some(truth),
            _ => None,
        }
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        matches!(self.value, Value::Object(_))
    }

    /// The value at a JSON Pointer (RFC 6901).
    pub fn pointer(&self, pointer: &str) -> Option<&Node<'a>> {
        let Some(path) = pointer.strip_prefix('/') else { return pointer.is_empty().then_some(self) };
        path.split('/').try_fold(self, |node, token| {
            let token = token.replace("~1", "/").replace("~0", "~");
            match &node.value {
                Value::Array(items) => items.get(token.parse::<usize>().ok()?),
                _ => node.get(&token),
            }
        })
    }
}

/// Parses the whole of `text`.
///
/// # Errors
/// A [`ParseError`] for everything that the module refuses.
pub fn parse(text: &[u8], limits: Limits) -> Result<Node<'_>, ParseError> {
    let text = std::str::from_utf8(text).map_err(|error| ParseError { fault: Fault::Unicode, offset: error.valid_up_to() })?;
    let mut parser = Parser { text, bytes: text.as_bytes(), at: 0, nodes: limits.nodes, depth: limits.depth };
    parser.space();
    let node = parser.value()?;
    parser.space();
    if parser.at < parser.bytes.len() {
        return Err(parser.fault(Fault::Trailing));
    }
    Ok(node)
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    nodes: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn fault(&self, fault: Fault) -> ParseError {
        let fault = if fault == Fault::Syntax && self.at >= self.bytes.len() { Fault::Truncated } else { fault };
        ParseError { fault, offset: self.at }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), ParseError> {
        if self.peek() != Some(byte) {
            return Err(self.fault(Fault::Syntax));
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self) -> Result<Node<'a>, ParseError> {
        self.nodes = self.nodes.checked_sub(1).ok_or_else(|| self.fault(Fault::Nodes))?;
        let start = self.at;
        let value = match self.peek() {
            Some(b'{') => self.nested(Self::object)?,
            Some(b'[') => self.nested(Self::array)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => Value::Number(self.number()?),
            Some(b't') => self.word("true", Value::Bool(true))?,
            Some(b'f') => self.word("false", Value::Bool(false))?,
            Some(b'n') => self.word("null", Value::Null)?,
            _ => return Err(self.fault(Fault::Syntax)),
        };
        Ok(Node { start, end: self.at, value })
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, ParseError> {
        for byte in word.bytes() {
            self.expect(byte)?;
        }
        Ok(value)
    }

    fn nested(&mut self, inside: fn(&mut Self) -> Result<Value<'a>, ParseError>) -> Result<Value<'a>, ParseError> {
        self.depth = self.depth.checked_sub(1).ok_or_else(|| self.fault(Fault::Depth))?;
        self.at += 1;
        self.space();
        let value = inside(self)?;
        self.depth += 1;
        Ok(value)
    }

    fn array(&mut self) -> Result<Value<'a>, ParseError> {
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            if self.closes(b']')? {
                return Ok(Value::Array(items));
            }
        }
    }

    fn object(&mut self) -> Result<Value<'a>, ParseError> {
        let mut members = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(members));
        }
        loop {
            let key = self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
            let node = self.value()?;
            members.push(Member { key, node });
            if self.closes(b'}')? {
                return if distinct(&members) { Ok(Value::Object(members)) } else { Err(self.fault(Fault::DuplicateKey)) };
            }
        }
    }

    /// After an item: true at the closing byte, false after a comma.
    fn closes(&mut self, close: u8) -> Result<bool, ParseError> {
        self.space();
        let closed = match self.peek() {
            Some(byte) if byte == close => true,
            Some(b',') => false,
            _ => return Err(self.fault(Fault::Syntax)),
        };
        self.at += 1;
        if !closed {
            self.space();
        }
        Ok(closed)
    }

    fn number(&mut self) -> Result<&'a str, ParseError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        let digits = self.text.get(start..self.at).unwrap_or_default();
        // Short whole numbers are finite without asking; the rest costs one conversion.
        let finite = (whole && digits.len() < 300) || digits.parse::<f64>().is_ok_and(f64::is_finite);
        if finite { Ok(digits) } else { Err(ParseError { fault: Fault::NumberRange, offset: start }) }
    }

    fn digits(&mut self) -> Result<(), ParseError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault(Fault::Syntax)) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, ParseError> {
        self.expect(b'"')?;
        let start = self.at;
        self.plain();
        let length = self.at - start;
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(self.text.get(start..start + length).unwrap_or_default()));
        }
        self.escaped(start).map(Cow::Owned)
    }

    /// Passes the bytes of a string that stand for themselves.
    fn plain(&mut self) {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let run = &rest[..memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len())];
        let is_control = |byte: &u8| *byte < 0x20;
        // A loop without an early exit works on many bytes at once; the place is looked for only where there is one.
        let sound = !run.iter().fold(false, |found, byte| found | is_control(byte));
        self.at += if sound { run.len() } else { run.iter().position(is_control).unwrap_or(run.len()) };
    }

    /// A string that has an escape (or a raw control byte, which is refused) at the current byte.
    fn escaped(&mut self, start: usize) -> Result<String, ParseError> {
        let mut out = self.text.get(start..self.at).unwrap_or_default().to_owned();
        loop {
            let plain = self.at;
            self.plain();
            out.push_str(self.text.get(plain..self.at).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
                _ => return Err(self.fault(Fault::Syntax)),
            }
        }
    }

    fn escape(&mut self) -> Result<char, ParseError> {
        let byte = self.peek().ok_or_else(|| self.fault(Fault::Truncated))?;
        self.at += 1;
        Ok(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => {
                self.at -= 1;
                return Err(self.fault(Fault::Syntax));
            }
        })
    }

    fn unicode(&mut self) -> Result<char, ParseError> {
        let start = self.at;
        let lone = ParseError { fault: Fault::Unicode, offset: start };
        let unit = self.hex()?;
        let scalar = match unit {
            0xd800..=0xdbff => {
                if self.bytes.get(self.at..self.at + 2) != Some(b"\\u") {
                    return Err(lone);
                }
                self.at += 2;
                let low = self.hex()?;
                if !(0xdc00..=0xdfff).contains(&low) {
                    return Err(lone);
                }
                0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
            }
            _ => unit,
        };
        char::from_u32(scalar).ok_or(lone)
    }

    fn hex(&mut self) -> Result<u32, ParseError> {
        let digits = self.text.get(self.at..self.at + 4).filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let unit = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).ok_or_else(|| self.fault(Fault::Syntax))?;
        self.at += 4;
        Ok(unit)
    }
}

fn distinct(members: &[Member<'_>]) -> bool {
    // Small objects are compared each with each, without allocating; the bound is a guess and was not tuned.
    if members.len() <= 12 {
        return members.iter().enumerate().all(|(index, member)| members.iter().take(index).all(|other| other.key != member.key));
    }
    let mut seen = HashSet::with_capacity(members.len());
    members.iter().all(|member| seen.insert(member.key.as_ref()))
}
