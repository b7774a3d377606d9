//! Compiles a tool's reviewed JSON Schemas and validates our borrowed document against them, without a copy.
//!
//! Owns: which schemas we accept at all, how patterns and formats are treated, and the cache of compiled validators.
//! Leaves to `jsonschema`: every keyword.
//!
//! INVARIANT: nothing is fetched: a reference that leaves the schema's own text does not compile.
//! INVARIANT: what cannot be compiled validates nothing: its tool is withheld, never let through.
//! INVARIANT: no number is valid that is compared as another than it is forwarded as, or with another than the schema says (`number`).

mod expect;
mod number;
mod shape;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use dashmap::DashMap;
use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::{JsonType, PatternOptions, ValidationError, Validator, json};
use serde_json::Value as Owned;

use self::shape::Ways;
use crate::error::Detail;
use crate::mcp::json::{self as text, Node, Value};

/// Deepest nesting of a schema.
const MAX_DEPTH: usize = 48;
/// Most JSON values of a schema.
const MAX_NODES: usize = 20_000;
/// Largest schema in bytes.
const MAX_BYTES: usize = 512 << 10;
/// Largest compiled pattern in bytes, so that `(a{1,100}){1,100}` is refused quickly.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// Steps of the backtracking engine per match, for the patterns that the linear one cannot express; then it fails closed.
const BACKTRACK_STEPS: usize = 10_000;
/// Broken rules named in one refusal.
const MAX_DETAILS: usize = 8;
/// Arguments of more values than this get one broken rule named: the library collects all of them before the first is read.
const DETAIL_NODES: usize = 2_000;
/// Compiled validators kept; 33 KiB each for a large schema.
const CACHE_ENTRIES: usize = 4_096;

/// Whether `format` refuses or only annotates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Formats {
    /// A value that breaks its `format` is refused.
    #[default]
    Assert,
    /// `format` is documentation.
    Annotate,
}

/// Why a schema does not compile, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaFault(String);

impl fmt::Display for SchemaFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for SchemaFault {}

/// A compiled schema.
pub struct Schema {
    validator: Validator<Borrowed>,
    backtracking: bool,
    ways: Ways,
    /// What it compares integers of more than 64 bits with.
    compared: number::Compared,
}

impl fmt::Debug for Schema {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Schema").field("backtracking", &self.backtracking).finish_non_exhaustive()
    }
}

impl Schema {
    /// Compiles the schema's JSON text. Without `$schema` it is 2020-12.
    ///
    /// # Errors
    /// A [`SchemaFault`] for text beyond the bounds, an unknown dialect, an invalid schema, a reference that leaves it, or a number that
    /// cannot be compared as what it is.
    pub fn compile(schema: &[u8], formats: Formats) -> Result<Self, SchemaFault> {
        if schema.len() > MAX_BYTES {
            return Err(SchemaFault(format!("the schema has {} bytes, more than {MAX_BYTES}", schema.len())));
        }
        let node = text::parse(schema, text::Limits { depth: MAX_DEPTH, nodes: MAX_NODES })
            .map_err(|error| SchemaFault(format!("the schema is {error}")))?;
        if let Some(place) = number::incomparable(&node) {
            return Err(SchemaFault(format!("the number at `{place}` of the schema has more digits than can be compared exactly")));
        }
        let (owned, compared) = (owned(&node), number::Compared::by(&node));
        let ways = shape::ways(&owned)?;
        let options = jsonschema::options_for::<Borrowed>()
            .offline()
            .should_validate_formats(formats == Formats::Assert)
            .with_pattern_options(PatternOptions::regex().size_limit(MAX_PATTERN_BYTES));
        if let Ok(validator) = options.build(&owned) {
            return Ok(Self { validator, backtracking: false, ways, compared });
        }
        let options =
            options.with_pattern_options(PatternOptions::fancy_regex().backtrack_limit(BACKTRACK_STEPS).size_limit(MAX_PATTERN_BYTES));
        let validator = options.build(&owned).map_err(|error| SchemaFault(error.to_string()))?;
        Ok(Self { validator, backtracking: true, ways, compared })
    }

    /// Whether a pattern needs the bounded backtracking engine.
    pub fn is_backtracking(&self) -> bool {
        self.backtracking
    }

    /// Validates the value at `node`.
    ///
    /// # Errors
    /// The broken rules, at most eight, without values; or the first number that cannot be compared.
    pub fn check(&self, node: &Node<'_>) -> Result<(), Vec<Detail>> {
        if let Some(inexact) = number::inexact(node, &self.compared) {
            return Err(vec![inexact]);
        }
        if self.validator.is_valid(node) {
            return Ok(());
        }
        let values = count(node, DETAIL_NODES);
        if !self.ways.are_few(values, depth(node)) {
            // The library would describe every branch at every level, which grows with the power of the depth.
            let expected = "what the schema describes".to_owned();
            let got = "something else; the schema refers to itself in many ways, so the place is not told".to_owned();
            return Err(vec![Detail { pointer: String::new(), keyword: "$ref".to_owned(), expected, got }]);
        }
        if values >= DETAIL_NODES {
            return Err(self.validator.validate(node).err().map(|error| vec![detail(node, &error)]).unwrap_or_default());
        }
        Err(self.validator.iter_errors(node).take(MAX_DETAILS).map(|error| detail(node, &error)).collect())
    }
}

fn detail(root: &Node<'_>, error: &ValidationError<'_>) -> Detail {
    let error = deepest(error);
    let (pointer, kind) = (error.instance_path().to_string(), error.kind());
    let value = root.pointer(&pointer);
    Detail { keyword: kind.keyword().to_owned(), expected: expect::expected(kind), got: expect::got(kind, value), pointer }
}

/// The fault that lies deepest: a value that no branch admits is most likely meant for the branch that it got farthest in.
fn deepest<'e>(error: &'e ValidationError<'e>) -> &'e ValidationError<'e> {
    let (Kind::AnyOf { context } | Kind::OneOfNotValid { context }) = error.kind() else { return error };
    let depth = |error: &ValidationError<'_>| error.instance_path().iter().count();
    let branches = context.iter().flatten().map(deepest);
    branches.fold(error, |best, error| if depth(error) > depth(best) { error } else { best })
}

fn depth(node: &Node<'_>) -> usize {
    let children = node.items().iter().chain(node.members().iter().map(|member| &member.node));
    children.map(|child| depth(child) + 1).max().unwrap_or(0)
}

fn count(node: &Node<'_>, limit: usize) -> usize {
    let children = node.items().iter().chain(node.members().iter().map(|member| &member.node));
    children.fold(1, |sum, child| if sum >= limit { sum } else { sum + count(child, limit - sum) })
}

/// The hash that validators are shared by.
pub type SchemaHash = [u8; 32];

/// Compiled validators by hash and treatment of formats; bounded, shared by all snapshots.
#[derive(Debug, Default)]
pub struct Schemas(DashMap<(SchemaHash, Formats), Result<Arc<Schema>, SchemaFault>>);

impl Schemas {
    /// The compiled schema of that text, compiled now if it is not at hand.
    ///
    /// # Errors
    /// The [`SchemaFault`] of its first compilation.
    pub fn get(&self, hash: SchemaHash, schema: &[u8], formats: Formats) -> Result<Arc<Schema>, SchemaFault> {
        if let Some(known) = self.0.get(&(hash, formats)) {
            return known.clone();
        }
        let compiled = Schema::compile(schema, formats).map(Arc::new);
        if self.0.len() >= CACHE_ENTRIES {
            // Which one goes hardly matters: the working set of a gateway is far below the bound.
            let evicted = self.0.iter().next().map(|entry| *entry.key());
            evicted.and_then(|key| self.0.remove(&key));
        }
        self.0.insert((hash, formats), compiled.clone());
        compiled
    }
}

/// The value as `serde_json` owns it: for schemas and for errors, never on the way of a valid call.
pub fn owned(node: &Node<'_>) -> Owned {
    match &node.value {
        Value::Null => Owned::Null,
        Value::Bool(truth) => Owned::Bool(*truth),
        Value::Number(digits) => digits.parse().map(Owned::Number).unwrap_or(Owned::Null),
        Value::String(text) => Owned::String(text.clone().into_owned()),
        Value::Array(items) => Owned::Array(items.iter().map(owned).collect()),
        Value::Object(members) => Owned::Object(members.iter().map(|member| (member.key.to_string(), owned(&member.node))).collect()),
    }
}

/// Our document as the library reads it.
struct Borrowed;

impl json::Json for Borrowed {
    type Node<'a> = &'a Node<'a>;
    type PreparedKey = Box<str>;
    type StringBuffer = ();
    const KEYS_PER_LOOKUP: usize = 2;

    fn prepare_key(key: &str) -> Box<str> {
        key.into()
    }

    fn with_string_node<T>(_: &mut (), string: &str, f: impl FnOnce(Self::Node<'_>) -> T) -> T {
        f(&Node::string(string))
    }
}

/// The digits of a number.
struct Digits<'a>(&'a str);

impl json::JsonNumber for Digits<'_> {
    fn as_u64(&self) -> Option<u64> {
        self.0.parse().ok()
    }
    fn as_i64(&self) -> Option<i64> {
        self.0.parse().ok()
    }
    fn as_f64(&self) -> Option<f64> {
        self.0.parse().ok()
    }
    fn as_str(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.0)
    }
    fn to_number(&self) -> Cow<'_, serde_json::Number> {
        Cow::Owned(self.0.parse().unwrap_or_else(|_| serde_json::Number::from(0)))
    }
    fn is_integer(&self) -> bool {
        self.is_written_as_integer() || self.as_f64().is_some_and(|value| value.fract() == 0.0)
    }
    fn is_written_as_integer(&self) -> bool {
        !self.0.contains(['.', 'e', 'E'])
    }
}

impl<'a> json::Node<'a, Borrowed> for &'a Node<'a> {
    type Object = Members<'a>;
    type Array = Items<'a>;
    type Number = Digits<'a>;

    fn as_object(&self) -> Option<Members<'a>> {
        match &self.value {
            Value::Object(members) => Some(Members(members)),
            _ => None,
        }
    }
    fn as_array(&self) -> Option<Items<'a>> {
        match &self.value {
            Value::Array(items) => Some(Items(items)),
            _ => None,
        }
    }
    fn as_string(&self) -> Option<Cow<'a, str>> {
        Node::as_str(self).map(Cow::Borrowed)
    }
    fn as_number(&self) -> Option<Digits<'a>> {
        match self.value {
            Value::Number(digits) => Some(Digits(digits)),
            _ => None,
        }
    }
    fn as_boolean(&self) -> Option<bool> {
        self.as_bool()
    }
    fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }
    fn json_type(&self) -> JsonType {
        match self.value {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }
    fn to_value(&self) -> Cow<'a, Owned> {
        Cow::Owned(owned(self))
    }
    fn identity(&self) -> Option<json::NodeIdentity> {
        Some(json::NodeIdentity::new(std::ptr::from_ref::<Node<'_>>(self).addr()))
    }
}

struct Members<'a>(&'a [text::Member<'a>]);

impl<'a> json::Object<'a, Borrowed> for Members<'a> {
    type Node = &'a Node<'a>;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }
    fn get(&self, key: &Box<str>) -> Option<&'a Node<'a>> {
        self.0.iter().find(|member| member.key == key.as_ref()).map(|member| &member.node)
    }
    fn members(&self) -> MembersIter<'a> {
        MembersIter(self.0.iter())
    }
}

struct MembersIter<'a>(std::slice::Iter<'a, text::Member<'a>>);

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, &'a Node<'a>);
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|member| (member.key.as_ref(), &member.node))
    }
}

struct Items<'a>(&'a [Node<'a>]);

impl<'a> json::Array<'a, Borrowed> for Items<'a> {
    type Node = &'a Node<'a>;
    type ElementsIter = std::slice::Iter<'a, Node<'a>>;

    fn len(&self) -> usize {
        self.0.len()
    }
    fn elements(&self) -> std::slice::Iter<'a, Node<'a>> {
        self.0.iter()
    }
}
