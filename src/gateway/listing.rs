//! The four lists: what a principal may use, as bytes that are made once for each set of roles.
//!
//! INVARIANT: a tool is listed exactly when some arguments could be allowed and its definition is reviewed; prompts and
//! resources when their name is allowed.
//! INVARIANT: a list never waits for an upstream; one that is away costs its own entries only.

use std::sync::Arc;

use bytes::Bytes;
use dashmap::DashMap;

use super::{Gateway, Shared};
use crate::catalog::tier::Tier;
use crate::catalog::{
    Catalog, Item, Listing, PolicyNames, Source, Standing, Target, address, prompt_policy_name, public_name, template_policy_name,
};
use crate::error::{Code, Error};
use crate::identity::Principal;
use crate::invocation::Caller;
use crate::mcp::canonical::write_string;
use crate::mcp::json::{self, Limits, Node};
use crate::mcp::messages::Offers;
use crate::mcp::revision::Revision;
use crate::policy::{ClassId, Policy};
use crate::seal::{hex, sha256};

/// Lists that are kept; a policy has few sets of roles.
const MAX_LISTS: usize = 4_096;
/// Tools that a wrong name is compared with.
const MAX_COMPARED: usize = 4_096;
/// Entries of one page.
const PAGE_ITEMS: usize = 1_000;
/// How long a client may keep a list, in milliseconds. Short: a list follows policy edits within seconds.
const TTL_MS: u32 = 5_000;
/// What cursors are sealed for.
const CURSOR: &str = "cursor1";

/// The lists that a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Listed {
    /// `tools/list`.
    Tools,
    /// `prompts/list`.
    Prompts,
    /// `resources/list`.
    Resources,
    /// `resources/templates/list`.
    Templates,
}

impl Listed {
    /// The member of the result that has the entries.
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page {
    /// The entries, as the JSON text of an array.
    pub items: Bytes,
    /// The cursor of the next page.
    pub next: Option<String>,
    /// How long it may be kept, in milliseconds.
    pub ttl_ms: u32,
    /// The upstreams whose entries are missing.
    pub unavailable: Vec<String>,
}

/// One list as it was made, with the catalog's generation at that time.
#[derive(Debug)]
struct Known {
    generation: u64,
    pages: Vec<Bytes>,
    /// The hash of all pages: a cursor leads on in the very list that it came from.
    print: String,
}

/// The lists by set of roles, by era and by what they list.
#[derive(Debug, Default)]
pub(super) struct Listings(DashMap<(ClassId, bool, Listed), Arc<Known>>);

impl Gateway {
    /// A page of a list for this caller, as the revision has it. No cursor, or an empty one, is the first.
    ///
    /// # Errors
    /// `state_invalid` for a cursor that is not this caller's, or whose list has changed since.
    pub fn list(&self, what: Listed, caller: &Caller, revision: Revision, cursor: Option<&str>) -> Result<Page, Error> {
        let known = self.known(what, self.policy.class(&caller.principal.id), revision);
        let print = format!("{}\n{}\n{}", what.member(), caller.principal.id, known.print);
        let at = match cursor.filter(|cursor| !cursor.is_empty()) {
            None => 0,
            Some(cursor) => self.place(cursor, &print).filter(|at| *at < known.pages.len()).ok_or_else(foreign_cursor)?,
        };
        let next = (at + 1 < known.pages.len()).then(|| self.shared.seal.seal(CURSOR, format!("{}\n{print}", at + 1).as_bytes()));
        if next == Some(None) {
            return Err(Error::new(Code::Internal, "the machine gives no randomness for a cursor"));
        }
        let items = known.pages.get(at).cloned().unwrap_or_else(|| Bytes::from_static(b"[]"));
        let unavailable = self.unheard(what);
        let ttl_ms = if unavailable.is_empty() { TTL_MS } else { 0 };
        Ok(Page { items, next: next.flatten(), ttl_ms, unavailable })
    }

    /// The upstreams that have not been heard of, so that their entries are missing. Tools are listed from the lock.
    fn unheard(&self, what: Listed) -> Vec<String> {
        let sources = self.catalog.sources().iter().filter(|source| what != Listed::Tools && source.live.listing().is_none());
        sources.map(|source| source.manifest.upstream.clone()).collect()
    }

    fn place(&self, cursor: &str, print: &str) -> Option<usize> {
        let plain = String::from_utf8(self.shared.seal.open(CURSOR, cursor)?).ok()?;
        let (at, rest) = plain.split_once('\n')?;
        at.parse().ok().filter(|_| rest == print)
    }

    fn known(&self, what: Listed, class: ClassId, revision: Revision) -> Arc<Known> {
        let (generation, key) = (self.catalog.generation(), (class, revision.is_modern(), what));
        if let Some(known) = self.listings.0.get(&key).filter(|known| known.generation == generation) {
            return Arc::clone(&known);
        }
        let pages = match what {
            Listed::Tools => pages(self.listed(class).map(|tool| {
                let legacy = tool.listed_legacy.as_ref().filter(|_| !revision.is_modern());
                legacy.unwrap_or(&tool.listed).clone()
            })),
            _ => pages(self.catalog.sources().iter().flat_map(|source| self.entries(what, class, source))),
        };
        let print = hex(&sha256(&pages.concat()));
        let known = Arc::new(Known { generation, pages, print });
        if self.listings.0.len() < MAX_LISTS || self.listings.0.contains_key(&key) {
            self.listings.0.insert(key, Arc::clone(&known));
        }
        known
    }

    /// What a server offers that the class may use, under public names, in the server's order.
    fn entries(&self, what: Listed, class: ClassId, source: &Source) -> Vec<Bytes> {
        let upstream = source.manifest.upstream.as_str();
        let Some(listing) = source.live.listing() else { return Vec::new() };
        let (items, member) = items(&listing, what);
        let shown = items.iter().filter(|item| match what {
            Listed::Prompts => self.allows(class, Some(PolicyNames::one(prompt_policy_name(upstream, &item.own)))),
            Listed::Templates => {
                let stem = item.own.split('{').next().unwrap_or_default();
                self.policy.lists_some(class, &template_policy_name(upstream, stem), Tier::Read)
            }
            Listed::Resources | Listed::Tools => self.allows(class, PolicyNames::resource(upstream, &item.own)),
        });
        let prefix = source.manifest.prefix;
        let public = |own: &str| match what {
            Listed::Prompts => public_name(prefix, upstream, own),
            _ => address::public(prefix, upstream, own).into_owned(),
        };
        shown.filter_map(|item| renamed(&item.json, member, &public(&item.own))).collect()
    }

    fn allows(&self, class: ClassId, names: Option<PolicyNames>) -> bool {
        names.is_some_and(|names| self.policy.could_by_names(class, names.iter(), Tier::Read).is_permit())
    }

    fn listed(&self, class: ClassId) -> impl Iterator<Item = &Target> {
        self.catalog.tools().iter().filter(move |tool| {
            let allowed = tool.index.is_some_and(|index| self.policy.lists(class, index));
            allowed && matches!(self.catalog.standing(tool), Standing::Reviewed | Standing::Unconfirmed)
        })
    }

    /// The listed tool whose name is most like this one, if one is like it at all.
    pub(super) fn resembling(&self, principal: &Principal, name: &str) -> Option<&str> {
        let class = self.policy.class(&principal.id);
        if name.len() > 128 {
            return None;
        }
        let scored = self.listed(class).take(MAX_COMPARED).map(|tool| (strsim::jaro_winkler(name, &tool.name), &*tool.name));
        scored.filter(|(score, _)| *score > 0.85).max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, name)| name)
    }

    /// What agents are told that can be asked for here. A server that has not been heard of yet may offer everything.
    pub fn offers(&self) -> Offers {
        let own = Offers { tools: true, ..Offers::default() };
        let offered = |source: &Source| source.live.listing().map_or(Offers::ALL, |listing| listing.offers);
        self.catalog.sources().iter().fold(own, |all, source| all.union(offered(source)))
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What carries over between snapshots.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

fn foreign_cursor() -> Error {
    Error::new(Code::StateInvalid, "the cursor is not one of this list").wire(-32602, 200)
}

fn items(listing: &Listing, what: Listed) -> (&[Item], &'static str) {
    match what {
        Listed::Tools => (&[], "name"),
        Listed::Prompts => (&listing.prompts, "name"),
        Listed::Resources => (&listing.resources, "uri"),
        Listed::Templates => (&listing.templates, "uriTemplate"),
    }
}

/// The definition under its public name; every other byte is the server's.
fn renamed(json: &Bytes, member: &str, public: &str) -> Option<Bytes> {
    let node = json::parse(json, Limits { depth: 64, nodes: 20_000 }).ok()?;
    let at = node.get(member).filter(|name| name.as_str().is_some())?.span();
    if node.get(member).and_then(Node::as_str) == Some(public) {
        return Some(json.clone());
    }
    let mut out = json.get(..at.start)?.to_vec();
    write_string(public, &mut out);
    out.extend_from_slice(json.get(at.end..)?);
    Some(out.into())
}

/// Arrays of at most [`PAGE_ITEMS`] entries; one that is empty where there are none.
fn pages(entries: impl Iterator<Item = Bytes>) -> Vec<Bytes> {
    let (mut pages, mut page, mut count) = (Vec::new(), vec![b'['], 0);
    for entry in entries {
        if count == PAGE_ITEMS {
            page.push(b']');
            pages.push(Bytes::from(std::mem::replace(&mut page, vec![b'['])));
            count = 0;
        }
        if count > 0 {
            page.push(b',');
        }
        page.extend_from_slice(&entry);
        count += 1;
    }
    page.push(b']');
    pages.push(page.into());
    pages
}
