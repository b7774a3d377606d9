//! The operator's choices for sealed payloads: who opens them, how many of these together, and how large they may be.

use std::collections::HashSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bound, Config, Person};

/// Most openers: with two of them needed, each payload's head has a line for each pair.
const MAX_OPENERS: usize = 8;

/// Payloads of calls whose policy row or manifest says `record_payload`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Payloads {
    /// Names of `people` with a `payload_key`, who open payloads: up to 8. Default none; then nothing may demand `record_payload`.
    pub openers: Vec<String>,
    /// How many openers are needed to open one: 1 or 2. Default 2 where there are two openers or more.
    pub quorum: Option<Bound<2, 1, 2>>,
    /// Largest payload in bytes: 1024 to 268435456, default 4194304. A call with larger arguments is refused with `payload_too_large`; a larger
    /// result reaches its agent, and its record says that it was not kept.
    pub max_bytes: Bound<4_194_304, 1_024, 268_435_456>,
}

/// Who opens payloads, made ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Openers {
    /// Names and public keys, in the order of the file.
    pub people: Vec<(String, OpenerKey)>,
    /// How many of them are needed.
    pub quorum: usize,
    /// Largest payload in bytes.
    pub max_bytes: usize,
}

/// What is wrong with the choices, and where.
pub(super) struct Wrong {
    pub(super) path: Vec<String>,
    pub(super) message: String,
    pub(super) help: &'static str,
}

impl Config {
    /// Who opens payloads; `None` where nobody does.
    pub fn openers(&self) -> Option<Openers> {
        let chosen = &self.audit.payloads;
        let people: Vec<_> = chosen.openers.iter().filter_map(|name| Some((name.clone(), self.opener(name)?.payload_key?))).collect();
        let usual = people.len().min(2);
        let quorum = chosen.quorum.map_or(usual, Bound::size);
        (!people.is_empty()).then(|| Openers { people, quorum, max_bytes: chosen.max_bytes.size() })
    }

    fn opener(&self, name: &str) -> Option<&Person> {
        self.people.iter().find(|person| person.name == name)
    }

    pub(super) fn check_openers(&self) -> Result<(), Wrong> {
        let wrong = |path: &[&str], message: String, help| {
            let path = ["audit", "payloads"].iter().chain(path).map(|part| (*part).to_owned()).collect();
            Err(Wrong { path, message, help })
        };
        let chosen = &self.audit.payloads;
        let (mut names, mut keys) = (HashSet::new(), HashSet::new());
        for (at, name) in chosen.openers.iter().enumerate() {
            let at = at.to_string();
            let path = ["openers", at.as_str()];
            let Some(person) = self.opener(name) else {
                let message = format!("`{}` is not one of `people`", name.escape_default());
                return wrong(&path, message, "name a person of `people`, and give that one a `payload_key`");
            };
            let Some(key) = person.payload_key else {
                return wrong(&path, format!("`{name}` has no `payload_key`"), KEYGEN);
            };
            if !names.insert(name) || !keys.insert(key) {
                let message = format!("`{name}` stands here twice, or has the `payload_key` of another opener");
                return wrong(&path, message, "each opener has a key of their own; otherwise two keys are not two people");
            }
        }
        if chosen.openers.len() > MAX_OPENERS {
            return wrong(&["openers"], format!("there are more than {MAX_OPENERS} openers"), "name fewer");
        }
        if chosen.quorum.is_some_and(|quorum| quorum.size() > chosen.openers.len()) {
            return wrong(
                &["quorum"],
                "there are fewer openers than `quorum` asks for".to_owned(),
                "name more openers, or leave `quorum` out",
            );
        }
        Ok(())
    }
}

/// How one comes to a key.
const KEYGEN: &str = "`doorward audit keygen --opener NAME --out FILE` makes a key, and prints the line to add";

/// A person's public key for payloads in print: `x25519:` and 32 bytes in Base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpenerKey([u8; 32]);

impl OpenerKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads the printed form.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?.try_into().ok()?))
    }

    /// The 32 bytes of X25519 (RFC 7748).
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for OpenerKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{PREFIX}{}", STANDARD.encode(self.0))
    }
}

impl Serialize for OpenerKey {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OpenerKey {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let wrong = "it is not a key for payloads: `x25519:` and Base64, as `doorward audit keygen --opener` prints it";
        Self::parse(&String::deserialize(input)?).ok_or_else(|| serde::de::Error::custom(wrong))
    }
}

impl JsonSchema for OpenerKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OpenerKey".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^x25519:[A-Za-z0-9+/]{43}=$" })
    }
}

const PREFIX: &str = "x25519:";
