//! The tools that people have reviewed: manifest and lock joined, and compared with what the server says today; and the
//! prompts and resources that servers offer, which nobody reviews.
//!
//! Owns: public names, tiers, standing. Leaves to `policy` who may do what, and to `upstream` how a server is reached.
//!
//! INVARIANT: a tool is callable only when it is in the manifest and in the lock, its schemas compile, and its live
//! definition has the hash of the reviewed one.
//! INVARIANT: a catalog never changes; what a server says of itself today stands in [`Live`], beside all snapshots.

pub mod address;
pub mod label;
pub mod lock;
pub mod manifest;
pub mod objective;
pub mod param_header;
pub mod sandbox;
pub mod spelling;
pub mod step;
pub mod tier;
pub mod transport;

mod named;
mod target;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

pub use self::label::{Label, claimed_labels};
use self::lock::{Definition, DefinitionHash, Lock};
use self::manifest::{Manifest, Prefix};
pub use self::named::{PolicyNames, prompt_policy_name, template_policy_name};
use self::spelling::Spelling;
pub use self::target::{Kind, Standing, Target, TaskSupport, claimed_tier};
use crate::config::Fault;
use crate::mcp::messages::Offers;
use crate::schema::Schemas;
use crate::seal::{hex, sha256};

/// What an upstream last listed; shared by all snapshots.
#[derive(Debug, Default)]
pub struct Live {
    listing: ArcSwapOption<Listing>,
    generation: AtomicU64,
}

/// One complete listing.
#[derive(Debug, Default)]
pub struct Listing {
    /// By the server's own name.
    pub tools: HashMap<String, Definition>,
    /// Tools that could not even be read, with the reason.
    pub unreadable: Vec<String>,
    /// Prompts, in the server's order.
    pub prompts: Vec<Item>,
    /// Resources, in the server's order.
    pub resources: Vec<Item>,
    /// Templates of resources, in the server's order.
    pub templates: Vec<Item>,
    /// What the server says that it can do.
    pub offers: Offers,
}

impl Listing {
    /// The prompt of that name.
    pub fn prompt(&self, own: &str) -> Option<&Item> {
        self.prompts.iter().find(|item| &*item.own == own)
    }

    /// Leaves out what cannot be named in a rule or a record, and what is listed twice.
    fn only_sound(&mut self) {
        sound(&mut self.prompts, "prompt", named::is_prompt_name);
        let is_uri = |own: &str| Spelling::of(own).is_some();
        sound(&mut self.resources, "resource", is_uri);
        sound(&mut self.templates, "template", is_uri);
    }
}

/// Longest public name, in bytes (2025-11-25 and later, tool names).
const MAX_NAME: usize = 128;

/// The public name of a server's tool or prompt. One that would be too long ends in a hash of the whole.
pub fn public_name(prefix: Prefix, upstream: &str, own: &str) -> String {
    let whole = match prefix {
        Prefix::None => own.to_owned(),
        Prefix::Upstream => format!("{upstream}__{own}"),
    };
    if whole.len() <= MAX_NAME {
        return whole;
    }
    let hash = hex(&sha256(whole.as_bytes()));
    let hash = hash.get(..12).unwrap_or_default();
    let kept = (0..MAX_NAME - hash.len()).rev().find(|end| whole.is_char_boundary(*end)).unwrap_or_default();
    format!("{}-{hash}", whole.get(..kept).unwrap_or_default())
}

fn sound(items: &mut Vec<Item>, what: &'static str, is_sound: impl Fn(&str) -> bool) {
    let mut known = HashSet::new();
    items.retain(|item| {
        let keep = is_sound(&item.own) && known.insert(item.own.clone());
        if !keep {
            tracing::warn!(what, name = ?item.own, "left out: its name is not one that a rule could name, or it is listed twice");
        }
        keep
    });
}

/// A prompt, resource or template as its server lists it. Nobody reviews them: what may be read is a rule, not a pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The server's own name of a prompt; the URI or its template of the others.
    pub own: Box<str>,
    /// The whole object, JSON text as received.
    pub json: Bytes,
}

impl Live {
    /// Takes a new listing.
    pub fn set(&self, mut listing: Listing) {
        listing.only_sound();
        self.listing.store(Some(Arc::new(listing)));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The last listing; `None` before the first connection.
    pub fn listing(&self) -> Option<Arc<Listing>> {
        self.listing.load_full()
    }

    /// Grows with each listing.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn standing(&self, name: &str, reviewed: &DefinitionHash) -> Standing {
        match self.listing.load().as_deref() {
            None => Standing::Unconfirmed,
            Some(listing) => match listing.tools.get(name) {
                None => Standing::Gone,
                Some(live) if live.hash == *reviewed => Standing::Reviewed,
                Some(_) => Standing::Drifted,
            },
        }
    }
}

/// One upstream of the catalog.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// Its reviewed definitions.
    pub lock: Arc<Lock>,
    /// What it says of itself today.
    pub live: Arc<Live>,
    /// Whether tiers were taken from annotations, as in `wrap`.
    pub claimed: bool,
}

/// A target's place in the catalog and in the policy's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TargetIndex(pub u32);

/// Every reviewed tool.
#[derive(Debug, Default)]
pub struct Catalog {
    sources: Vec<Source>,
    tools: Vec<Target>,
    by_name: HashMap<Box<str>, TargetIndex>,
}

impl Catalog {
    /// Every label that something in it brings: tools, prompts and resources.
    pub fn brought(&self) -> Vec<Label> {
        let tools = self.tools.iter().flat_map(|tool| &tool.labels);
        let offered =
            self.sources.iter().flat_map(|source| source.manifest.prompt_labels().iter().chain(source.manifest.resource_labels()));
        let mut all: Vec<Label> = tools.chain(offered).cloned().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Joins manifests and locks. Compiles the schemas where there are few; the others compile at their first call.
    pub fn new(sources: Vec<Source>, schemas: &Schemas) -> Self {
        let mut tools: Vec<Target> = sources.iter().enumerate().flat_map(|(index, source)| target::of_source(index, source)).collect();
        tools.sort_by(|one, other| (one.upstream, &one.own_name).cmp(&(other.upstream, &other.own_name)));
        if tools.len() <= target::EAGER_SCHEMAS {
            tools.iter_mut().for_each(|tool| tool.compile(schemas));
        }
        let index = |at: usize| TargetIndex(u32::try_from(at).unwrap_or(u32::MAX));
        tools.iter_mut().enumerate().for_each(|(at, tool)| tool.index = Some(index(at)));
        let by_name = tools.iter().enumerate().map(|(at, tool)| (tool.name.clone(), index(at))).collect();
        Self { sources, tools, by_name }
    }

    /// Reads all manifests and locks of a folder. `live` gives each upstream's live state, so that it carries over.
    ///
    /// # Errors
    /// All faults found.
    pub fn load(folder: &Path, live: impl Fn(&str) -> Arc<Live>, schemas: &Schemas) -> Result<Self, Vec<Fault>> {
        let manifests = manifest::load_folder(folder)?;
        let (mut sources, mut faults) = (Vec::new(), Vec::new());
        for manifest in manifests {
            match Lock::load(&lock::file(folder, &manifest.upstream)) {
                Ok(lock) => sources.push(Source {
                    live: live(&manifest.upstream),
                    lock: Arc::new(lock.unwrap_or_default()),
                    manifest: Arc::new(manifest),
                    claimed: false,
                }),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(Self::new(sources, schemas)) } else { Err(faults) }
    }

    /// The tool of exactly that public name.
    pub fn find(&self, name: &str) -> Option<TargetIndex> {
        self.by_name.get(name).copied()
    }

    /// The tool at an index that this catalog gave out.
    pub fn tool(&self, index: TargetIndex) -> Option<&Target> {
        self.tools.get(index.0 as usize)
    }

    /// All tools, sorted by upstream and name; a tool's place is its [`TargetIndex`].
    pub fn tools(&self) -> &[Target] {
        &self.tools
    }

    /// All upstreams.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// The upstream of a tool.
    pub fn source(&self, tool: &Target) -> Option<&Source> {
        self.sources.get(tool.upstream)
    }

    /// How the target stands now. A resource need not be listed: templates and links name others.
    pub fn standing(&self, target: &Target) -> Standing {
        match (&target.withheld, self.source(target), target.kind) {
            (Some(reason), _, _) => reason.clone(),
            (None, Some(source), Kind::Tool) => source.live.standing(&target.own_name, &target.hash),
            (None, Some(source), Kind::Prompt) => match source.live.listing.load().as_deref() {
                None => Standing::Unconfirmed,
                Some(listing) => listing.prompt(&target.own_name).map_or(Standing::Gone, |_| Standing::Reviewed),
            },
            (None, Some(_), Kind::Resource) => Standing::Reviewed,
            (None, None, _) => Standing::Gone,
        }
    }

    /// The upstream's place and the server's own name of a prompt, where the public name is made of the two.
    pub fn prompt<'n>(&self, name: &'n str) -> Option<(usize, Cow<'n, str>)> {
        let (at, own) = self.owner(name, |name| name.split_once("__"))?;
        if name.len() < MAX_NAME - 3 {
            return Some((at, Cow::Borrowed(own)));
        }
        let source = self.sources.get(at)?;
        let (prefix, upstream) = (source.manifest.prefix, &source.manifest.upstream);
        let listing = source.live.listing();
        let whole = listing.iter().flat_map(|listing| &listing.prompts).find(|item| public_name(prefix, upstream, &item.own) == name);
        Some((at, whole.map_or(Cow::Borrowed(own), |item| Cow::Owned(item.own.to_string()))))
    }

    /// The upstream's place and the server's own URI, where a URI is a public one.
    pub fn own_uri<'n>(&self, uri: &'n str) -> Option<(usize, &'n str)> {
        self.owner(uri, address::split)
    }

    fn owner<'n>(&self, public: &'n str, split: impl Fn(&'n str) -> Option<(&'n str, &'n str)>) -> Option<(usize, &'n str)> {
        if self.sources.iter().any(|source| source.manifest.prefix == Prefix::None) {
            // There is no other upstream then.
            return Some((0, public));
        }
        let (upstream, own) = split(public)?;
        let at = self.sources.iter().position(|source| source.manifest.upstream == upstream)?;
        Some((at, own))
    }

    /// The target's name, where the public name is one that an upstream lists today and nobody has reviewed.
    pub fn unreviewed(&self, name: &str) -> Option<String> {
        self.sources.iter().find_map(|source| {
            let upstream = source.manifest.upstream.as_str();
            let own = match source.manifest.prefix {
                Prefix::None => name,
                Prefix::Upstream => name.strip_prefix(upstream)?.strip_prefix("__")?,
            };
            source.live.listing()?.tools.contains_key(own).then(|| format!("{upstream}__{own}"))
        })
    }

    /// Grows whenever any upstream lists anew.
    pub fn generation(&self) -> u64 {
        self.sources.iter().map(|source| source.live.generation()).sum()
    }
}
