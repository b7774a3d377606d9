//! Numbers and names that an operator writes, each with its default and its bounds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A whole number with a default and bounds that are part of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Bound<const DEFAULT: u64, const LOW: u64, const HIGH: u64>(u64);

impl<const D: u64, const L: u64, const H: u64> Bound<D, L, H> {
    /// The value.
    pub fn value(self) -> u64 {
        self.0
    }

    /// The value as a size of memory.
    pub fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const D: u64, const L: u64, const H: u64> Default for Bound<D, L, H> {
    fn default() -> Self {
        Self(D)
    }
}

impl<'de, const D: u64, const L: u64, const H: u64> Deserialize<'de> for Bound<D, L, H> {
    fn deserialize<S: serde::Deserializer<'de>>(input: S) -> Result<Self, S::Error> {
        let value = u64::deserialize(input)?;
        if (L..=H).contains(&value) {
            return Ok(Self(value));
        }
        Err(serde::de::Error::custom(format!("{value} is out of bounds: {L} to {H}")))
    }
}

impl<const D: u64, const L: u64, const H: u64> JsonSchema for Bound<D, L, H> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bound".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": L, "maximum": H, "default": D })
    }
}

/// The name of a log, which stands in its keys: 1 to 64 of `A-Za-z0-9._-`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct LogName(String);

impl LogName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogName {
    fn default() -> Self {
        Self("doorward".to_owned())
    }
}

impl<'de> Deserialize<'de> for LogName {
    fn deserialize<S: serde::Deserializer<'de>>(input: S) -> Result<Self, S::Error> {
        let name = String::deserialize(input)?;
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=64).contains(&name.len()) && name.bytes().all(is_letter) {
            return Ok(Self(name));
        }
        Err(serde::de::Error::custom(format!(
            "`{}` is not a name: write 1 to 64 of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`",
            name.escape_default()
        )))
    }
}

impl JsonSchema for LogName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LogName".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$", "default": "doorward" })
    }
}

/// A public key in print: `NAME+HASH+BASE64`. Whether its hash is right is for its reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct KeyText(String);

impl KeyText {
    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<S: serde::Deserializer<'de>>(input: S) -> Result<Self, S::Error> {
        let text = String::deserialize(input)?;
        let parts: Vec<&str> = text.splitn(3, '+').collect();
        let is_key = matches!(parts[..], [name, hash, key] if !name.is_empty() && hash.len() == 8 && key.len() == 44);
        if is_key && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text));
        }
        Err(serde::de::Error::custom("it is not a public key: `NAME+HASH+BASE64`, as `doorward audit keygen` prints it"))
    }
}

impl JsonSchema for KeyText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KeyText".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[^+\\s]+\\+[0-9a-f]{8}\\+[A-Za-z0-9+/=]{44}$" })
    }
}
