//! What a manifest says of the confinement of its server's process: `stdio.sandbox` and `stdio.isolation`.
//!
//! Leaves to others: what that comes to on this machine (`sandbox`), and the processes themselves (`upstream`).

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::Bound;

/// How a server on pipes is confined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// Confined, with these grants; `default` is the same with none.
    Confined(Box<Grants>),
    /// `none`: a scrubbed environment and a process group of its own, and nothing else.
    None,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::Confined(Box::default())
    }
}

impl Sandbox {
    /// The grants; `None` where it is not confined.
    pub fn grants(&self) -> Option<&Grants> {
        match self {
            Self::Confined(grants) => Some(grants),
            Self::None => None,
        }
    }
}

/// What a confined server may have beside what every program needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Folders and files that it may read and execute, with all that is in them. Relative ones are of the folder of `doorward.yaml`, `~/` is
    /// the home folder. Each has to be there when the server starts.
    pub read: Vec<PathBuf>,
    /// Folders and files that it may read, change, create in and remove from, likewise.
    pub write: Vec<PathBuf>,
    /// Whether paths among `args` are granted: folders for writing, files with what is beside them for reading. `grant` or `ignore`,
    /// default `grant`.
    pub arguments: Arguments,
    /// `none`, `any`, or the TCP ports that it may reach or listen on: `{ connect: [443], bind: [] }`. Default `none`.
    pub network: Network,
    /// Whether it may use local sockets (`AF_UNIX`), such as those of a database, of Docker or of D-Bus. Default false.
    pub unix_sockets: bool,
    /// Memory of all its processes together, and of each, in MiB: 64 to 1048576, default 2048. Then it is ended and started anew.
    pub memory_mb: Bound<2_048, 64, 1_048_576>,
    /// Open files of each process: 32 to 1048576, default 1024.
    pub files: Bound<1_024, 32, 1_048_576>,
    /// Processes and threads of it together: 1 to 65536, default 256. Then it is ended and started anew.
    pub processes: Bound<256, 1, 65_536>,
    /// Processor time of each process in its whole life, in seconds: 1 to 31536000, default 36000. Then it is ended and started anew.
    pub cpu_s: Bound<36_000, 1, 31_536_000>,
    /// What this machine's kernel has to enforce, or the server is not started: `off`, `basic`, `files` or `full`. Default `basic`.
    pub minimum: Level,
}

/// Whether paths among a command's arguments are granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arguments {
    /// A folder for reading and writing, a file with what is beside it for reading.
    #[default]
    Grant,
    /// Not.
    Ignore,
}

/// How much of a confinement is enforced, from least to most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing but the environment and the process group.
    Off,
    /// No new privileges, the filter of system calls with the network, and the limits; not the files.
    #[default]
    Basic,
    /// Also which files may be opened (Landlock, Linux 5.13 and newer).
    Files,
    /// All that the manifest says, and signals to other processes (Landlock ABI 6, Linux 6.12 and newer).
    Full,
}

impl Level {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Basic => "basic",
            Self::Files => "files",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// The network that a confined server has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// No sockets of IP at all.
    #[default]
    None,
    /// TCP to and from these ports, of any address; no UDP, and so no names but those of `/etc/hosts`.
    Ports(Ports),
    /// TCP and UDP, without bounds.
    Any,
}

/// TCP ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ports {
    /// Ports that it may connect to, of any address.
    pub connect: Vec<u16>,
    /// Ports that it may listen on.
    pub bind: Vec<u16>,
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("none"),
            Self::Any => out.write_str("any"),
            Self::Ports(Ports { connect, bind }) => write!(out, "TCP to {connect:?}, on {bind:?}"),
        }
    }
}

/// Which calls share a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// All.
    #[default]
    Shared,
    /// Those of one agent and of the person that it acts for; others have processes of their own.
    Principal,
}

/// A value that is one of some words, or a map.
trait WordOrMap: Sized {
    type Map: DeserializeOwned;
    const EXPECTED: &'static str;
    fn of_word(word: &str) -> Option<Self>;
    fn of_map(map: Self::Map) -> Self;
}

struct Reader<T>(PhantomData<T>);

impl<'de, T: WordOrMap> Visitor<'de> for Reader<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<T, E> {
        T::of_word(word).ok_or_else(|| E::custom(format!("`{}` is not {}", word.escape_default(), T::EXPECTED)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::Map::deserialize(MapAccessDeserializer::new(map)).map(T::of_map)
    }
}

impl WordOrMap for Sandbox {
    type Map = Grants;
    const EXPECTED: &'static str = "`default`, `none` or a map of grants";
    fn of_word(word: &str) -> Option<Self> {
        match word {
            "default" => Some(Self::default()),
            "none" => Some(Self::None),
            _ => None,
        }
    }
    fn of_map(map: Grants) -> Self {
        Self::Confined(Box::new(map))
    }
}

impl WordOrMap for Network {
    type Map = Ports;
    const EXPECTED: &'static str = "`none`, `any` or `{ connect: [PORT], bind: [PORT] }`";
    fn of_word(word: &str) -> Option<Self> {
        match word {
            "none" => Some(Self::None),
            "any" => Some(Self::Any),
            _ => None,
        }
    }
    fn of_map(map: Ports) -> Self {
        Self::Ports(map)
    }
}

impl<'de> Deserialize<'de> for Sandbox {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Reader(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(Reader(PhantomData))
    }
}

impl Serialize for Sandbox {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => out.serialize_str("none"),
            // Pins of `wrap` and what is remembered of servers stand under this word.
            Self::Confined(grants) if **grants == Grants::default() => out.serialize_str("default"),
            Self::Confined(grants) => grants.serialize(out),
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => out.serialize_str("none"),
            Self::Any => out.serialize_str("any"),
            Self::Ports(ports) => ports.serialize(out),
        }
    }
}

impl JsonSchema for Sandbox {
    fn schema_name() -> Cow<'static, str> {
        "Sandbox".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let grants = generator.subschema_for::<Grants>();
        json_schema!({ "description": "How a server on pipes is confined.", "default": "default", "anyOf": [{ "enum": ["default", "none"] }, grants] })
    }
}

impl JsonSchema for Network {
    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let ports = generator.subschema_for::<Ports>();
        json_schema!({ "description": "The network that a confined server has.", "default": "none", "anyOf": [{ "enum": ["none", "any"] }, ports] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_yaml;
    use std::path::Path;

    fn read(text: &str) -> Result<Sandbox, String> {
        #[derive(Deserialize, Debug)]
        struct Holder {
            sandbox: Sandbox,
        }
        parse_yaml::<Holder>(Path::new("f.yaml"), text).map(|holder| holder.sandbox).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_sandbox_is_a_word_or_a_map_of_grants() {
        assert_eq!(read("sandbox: default").unwrap(), Sandbox::default());
        assert_eq!(read("sandbox: none").unwrap(), Sandbox::None);
        let text = "sandbox: { read: [/srv], network: { connect: [443] }, memory_mb: 512, minimum: full }";
        let grants = read(text).unwrap().grants().cloned().unwrap();
        assert_eq!((grants.read, grants.memory_mb.value(), grants.minimum), (vec![PathBuf::from("/srv")], 512, Level::Full));
        assert_eq!(grants.network, Network::Ports(Ports { connect: vec![443], bind: vec![] }));
    }

    #[test]
    fn what_is_wrong_in_it_is_told_with_its_place() {
        for (text, place) in [
            ("sandbox: strict", "f.yaml:1:10: "),
            ("sandbox:\n  reads: [/srv]", "f.yaml:2:3: "),
            ("sandbox:\n  memory_mb: 5", "f.yaml:2:14: "),
            ("sandbox:\n  network: some", "f.yaml:2:12: "),
            ("sandbox:\n  network: { connect: [70000] }", "f.yaml:2:24: "),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.starts_with(place), "{text}: {told}");
        }
    }

    #[test]
    fn levels_are_ordered_as_they_are_told() {
        assert!(Level::Off < Level::Basic && Level::Basic < Level::Files && Level::Files < Level::Full);
    }

    #[test]
    fn what_is_written_is_what_is_read_back() {
        for text in ["sandbox: default", "sandbox: none", "sandbox: { write: [a], network: any }"] {
            let sandbox = read(text).unwrap();
            let written = serde_json::to_string(&sandbox).unwrap();
            assert_eq!(serde_json::from_str::<Sandbox>(&written).unwrap(), sandbox, "{written}");
        }
    }
}
