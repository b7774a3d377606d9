//! `tool-manifests/NAME.lock.json`: the definitions that people have reviewed, and how they are compared with live ones.
//!
//! The file is JSON with sorted members, indented for review; each definition stands beside the SHA-256 of its canonical
//! text, which is what a live definition is compared by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{Fault, read_text};
use crate::mcp::canonical::{write_canonical, write_string};
use crate::mcp::json::{self, Limits, Node, Value};
use crate::seal::{hex, sha256};

/// SHA-256 of a definition's canonical text.
pub type DefinitionHash = [u8; 32];

/// Bounds of a lock file and of a live listing: generous, for 10,000 tools.
pub const LIMITS: Limits = Limits { depth: 64, nodes: 4_000_000 };

/// One tool as its server describes it: the canonical JSON text, and its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The server's own name of the tool.
    pub name: String,
    /// Canonical JSON text.
    pub text: Box<[u8]>,
    /// SHA-256 of `text`.
    pub hash: DefinitionHash,
}

impl Definition {
    /// Takes a `Tool` object of a `tools/list` result.
    ///
    /// # Errors
    /// What is wrong with it, for the operator: no usable name, or no object as `inputSchema`.
    pub fn new(tool: &Node<'_>) -> Result<Self, String> {
        let name = tool.get("name").and_then(Node::as_str).ok_or("a tool has no name")?;
        if name.is_empty() || name.len() > 128 || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte)) {
            return Err(format!("`{}` is not a tool name", name.escape_default()));
        }
        if tool.get("inputSchema").is_none_or(|schema| schema.get("type").and_then(Node::as_str) != Some("object")) {
            return Err(format!("the `inputSchema` of `{name}` is not one of `type: object`"));
        }
        let mut text = Vec::new();
        write_canonical(tool, &mut text);
        Ok(Self { name: name.to_owned(), hash: sha256(&text), text: text.into() })
    }

    /// The definition as a document.
    pub fn node(&self) -> Option<Node<'_>> {
        json::parse(&self.text, LIMITS).ok()
    }
}

/// The reviewed definitions of one upstream, by the server's own name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// By name.
    pub tools: BTreeMap<String, Definition>,
    /// How the definitions got here when nobody reviewed them: `first_use` in `wrap`.
    pub waiver: Option<String>,
}

/// Where the lock of an upstream stands.
pub fn file(folder: &Path, upstream: &str) -> PathBuf {
    folder.join(format!("{upstream}.lock.json"))
}

impl Lock {
    /// Reads a lock; `None` when there is no file.
    ///
    /// # Errors
    /// A [`Fault`] when the file cannot be read, is no lock, or a definition differs from the hash beside it.
    pub fn load(file: &Path) -> Result<Option<Self>, Fault> {
        let text = match read_text(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fault::file(file, format!("cannot be read: {error}"))),
        };
        let bytes = text.as_bytes();
        let document = json::parse(bytes, LIMITS).map_err(|error| {
            let (line, column) = place(bytes, error.offset);
            Fault::at(file, line, column, error.to_string())
        })?;
        let wrong = |node: &Node<'_>, message: String| {
            let (line, column) = place(bytes, node.span().start);
            Fault::at(file, line, column, message).help("write the lock with `doorward tools pin`, and review the difference")
        };
        if document.get("lock").and_then(Node::as_u64) != Some(1) {
            return Err(wrong(&document, "not a lock of version 1".to_owned()));
        }
        let mut lock = Self { waiver: document.get("waiver").and_then(Node::as_str).map(str::to_owned), ..Self::default() };
        for member in document.get("tools").map(Node::members).unwrap_or_default() {
            let definition = member.node.get("definition").ok_or_else(|| wrong(&member.node, "a `definition` is missing".to_owned()))?;
            let definition = Definition::new(definition).map_err(|message| wrong(&member.node, message))?;
            if definition.name != member.key || member.node.get("sha256").and_then(Node::as_str) != Some(&hex(&definition.hash)) {
                return Err(wrong(&member.node, format!("the definition of `{}` is not the one that was pinned", member.key)));
            }
            lock.tools.insert(definition.name.clone(), definition);
        }
        Ok(Some(lock))
    }

    /// Writes the lock whole or not at all.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, file: &Path, upstream: &str) -> std::io::Result<()> {
        let text = self.render(upstream);
        // Two processes may pin at once, as two clients of one `wrap` do.
        let partial = file.with_extension(format!("{}.partial", std::process::id()));
        std::fs::write(&partial, text)?;
        std::fs::rename(&partial, file)
    }

    /// The file's text.
    pub fn render(&self, upstream: &str) -> Vec<u8> {
        let mut out = b"{\n  \"lock\": 1,\n  \"tools\": {".to_vec();
        for (index, definition) in self.tools.values().enumerate() {
            out.extend_from_slice(if index == 0 { b"\n    " } else { b",\n    " });
            write_string(&definition.name, &mut out);
            out.extend_from_slice(b": {\n      \"definition\": ");
            if let Some(node) = definition.node() {
                write_indented(&node, 3, &mut out);
            }
            out.extend_from_slice(format!(",\n      \"sha256\": \"{}\"\n    }}", hex(&definition.hash)).as_bytes());
        }
        out.extend_from_slice(if self.tools.is_empty() { b"},\n" } else { b"\n  },\n" });
        out.extend_from_slice(b"  \"upstream\": ");
        write_string(upstream, &mut out);
        if let Some(waiver) = &self.waiver {
            out.extend_from_slice(b",\n  \"waiver\": ");
            write_string(waiver, &mut out);
        }
        out.extend_from_slice(b"\n}\n");
        out
    }
}

/// One difference between a reviewed and a live definition.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// JSON Pointer into the definition.
    pub pointer: String,
    /// The reviewed text; `None` where it is new.
    pub reviewed: Option<String>,
    /// The live text; `None` where it is gone.
    pub live: Option<String>,
}

/// The differences field by field, in the order of their pointers.
pub fn changes(reviewed: &Node<'_>, live: &Node<'_>) -> Vec<Change> {
    let mut found = Vec::new();
    compare(String::new(), Some(reviewed), Some(live), &mut found);
    found
}

fn compare(pointer: String, reviewed: Option<&Node<'_>>, live: Option<&Node<'_>>, found: &mut Vec<Change>) {
    let text = |node: Option<&Node<'_>>| {
        node.map(|node| {
            let mut out = Vec::new();
            write_canonical(node, &mut out);
            String::from_utf8_lossy(&out).into_owned()
        })
    };
    let (was, is) = (text(reviewed), text(live));
    if was == is {
        return;
    }
    match (reviewed, live) {
        (Some(one), Some(other)) if one.is_object() && other.is_object() => {
            let mut keys: Vec<&str> = one.members().iter().chain(other.members()).map(|member| member.key.as_ref()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let step = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                compare(step, one.get(key), other.get(key), found);
            }
        }
        _ => found.push(Change { pointer, reviewed: was, live: is }),
    }
}

fn write_indented(node: &Node<'_>, level: usize, out: &mut Vec<u8>) {
    let line = |level: usize, out: &mut Vec<u8>| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', level * 2));
    };
    match &node.value {
        Value::Array(items) if !items.is_empty() => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                line(level + 1, out);
                write_indented(item, level + 1, out);
            }
            line(level, out);
            out.push(b']');
        }
        Value::Object(members) if !members.is_empty() => {
            out.push(b'{');
            for (index, member) in members.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                line(level + 1, out);
                write_string(&member.key, out);
                out.extend_from_slice(b": ");
                write_indented(&member.node, level + 1, out);
            }
            line(level, out);
            out.push(b'}');
        }
        _ => write_canonical(node, out),
    }
}

fn place(bytes: &[u8], offset: usize) -> (u64, u64) {
    let before = bytes.get(..offset).unwrap_or(bytes);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    (line as u64, column as u64)
}
