//! All that a server lists, page by page: tools, prompts, resources and their templates.
//!
//! INVARIANT: a server cannot make a list endless or huge: pages, items and bytes are bounded, and a cursor must be new.
//! INVARIANT: only the tools decide whether there is a listing, since only they are compared with a lock: another list that fails
//! stays as it was.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::inbound::{self, Greeting};
use super::link::Link;
use super::request::{Exchange, Outcome, Part, Sent};
use super::shared::Definition;
use crate::error::Error;
use crate::mcp::json::{self, Node};
use crate::mcp::revision::Era;

/// Most pages of a list.
const MAX_PAGES: usize = 1_000;
/// Longest time for a page of a list that is not the tools', so that a server which cannot list them is not held up for long.
const REST_PAGE: Duration = Duration::from_secs(5);
const METHOD_NOT_FOUND: i64 = -32601;

/// A list: how it is asked for, what its items are called, and how much of it is taken.
#[derive(Debug)]
struct Kind {
    method: &'static str,
    /// The member of a page that holds the items.
    items: &'static str,
    /// The member of an item that names it.
    name: &'static str,
    most: usize,
    bytes: usize,
    /// Whether a server that offers it may still not know the method.
    may_lack: bool,
}

const MIB: usize = 1024 * 1024;
const TOOLS: Kind = Kind { method: "tools/list", items: "tools", name: "name", most: 20_000, bytes: 64 * MIB, may_lack: false };
const PROMPTS: Kind = Kind { method: "prompts/list", items: "prompts", name: "name", most: 10_000, bytes: 16 * MIB, may_lack: false };
const RESOURCES: Kind = Kind { method: "resources/list", items: "resources", name: "uri", most: 10_000, bytes: 16 * MIB, may_lack: false };
// There is no capability of its own for templates.
const TEMPLATES: Kind = Kind {
    method: "resources/templates/list",
    items: "resourceTemplates",
    name: "uriTemplate",
    most: 10_000,
    bytes: 16 * MIB,
    may_lack: true,
};

/// Why there is no list.
#[derive(Debug)]
pub(super) enum Unlisted {
    /// The server cannot be reached, or did not answer in time.
    Unreachable(String),
    /// It answered, and not with a list.
    Refused(String),
}

/// What a server lists beside its tools.
#[derive(Clone, Debug, Default)]
pub(super) struct Rest {
    pub(super) prompts: Vec<Definition>,
    pub(super) resources: Vec<Definition>,
    pub(super) templates: Vec<Definition>,
}

/// Lists the tools; each page may take `page`.
pub(super) async fn tools(link: &Link, era: Era, page: Duration) -> Result<Vec<Definition>, Unlisted> {
    pages(&TOOLS, link, era, page).await
}

/// Lists all that the server of `id` offers; each page may take `page`. What fails of the rest stays as it was `before`.
///
/// # Errors
/// When the tools cannot be listed, or a server without tools cannot be reached.
pub(super) async fn all(
    id: &str,
    link: &Link,
    greeting: &Greeting,
    page: Duration,
    before: Rest,
) -> Result<(Vec<Definition>, Rest), Unlisted> {
    let (offers, era, rest) = (greeting.offers, greeting.version.era(), page.min(REST_PAGE));
    let list = async |kind: &'static Kind, offered: bool, page| if offered { Some(pages(kind, link, era, page).await) } else { None };
    let (tools, prompts, resources, templates) = tokio::join!(
        list(&TOOLS, offers.tools, page),
        list(&PROMPTS, offers.prompts, rest),
        list(&RESOURCES, offers.resources, rest),
        list(&TEMPLATES, offers.resources, rest)
    );
    let tools = match (tools, prompts.as_ref().or(resources.as_ref())) {
        (Some(tools), _) => tools?,
        (None, Some(Err(Unlisted::Unreachable(reason)))) => return Err(Unlisted::Unreachable(reason.clone())),
        (None, _) => Vec::new(),
    };
    let kept = |kind: &Kind, list: Option<Result<Vec<Definition>, Unlisted>>, before| match list {
        Some(Ok(list)) => list,
        None => Vec::new(),
        Some(Err(Unlisted::Unreachable(reason) | Unlisted::Refused(reason))) => {
            tracing::warn!(upstream = id, method = kind.method, %reason, "a list of the tool server stays as it was");
            before
        }
    };
    let rest = Rest {
        prompts: kept(&PROMPTS, prompts, before.prompts),
        resources: kept(&RESOURCES, resources, before.resources),
        templates: kept(&TEMPLATES, templates, before.templates),
    };
    Ok((tools, rest))
}

async fn pages(kind: &'static Kind, link: &Link, era: Era, page: Duration) -> Result<Vec<Definition>, Unlisted> {
    let mut list = List::of(kind);
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let Some((body, span)) = one(kind, link, era, cursor.as_deref(), page).await? else { return Ok(Vec::new()) };
        cursor = list.add(&body, span).map_err(Unlisted::Refused)?;
        if cursor.is_none() {
            return Ok(list.found);
        }
    }
    Err(Unlisted::Refused(format!("`{}` has more than {MAX_PAGES} pages", kind.method)))
}

type Page = (Bytes, std::ops::Range<usize>);

/// One page; `None` where the server may lack the list, and does.
async fn one(kind: &Kind, link: &Link, era: Era, cursor: Option<&str>, page: Duration) -> Result<Option<Page>, Unlisted> {
    let (sent, members) = (Sent::default(), cursor.map(|cursor| ("cursor", Part::Text(cursor))));
    let exchange = Exchange::own(era, kind.method, members.as_slice(), &sent);
    let reply = timeout(page, link.exchange(&exchange)).await;
    let reply = reply.map_err(|_| Unlisted::Unreachable(format!("the answer to `{}` did not come in time", kind.method)))?;
    let reply = reply.map_err(|error| Unlisted::Unreachable(explain(&error)))?;
    match reply.outcome.clone() {
        Outcome::Result(span) => Ok(Some((reply.body, span))),
        Outcome::Failure(_) => {
            let refusal = inbound::refusal(reply.text());
            if kind.may_lack && refusal.code == METHOD_NOT_FOUND {
                return Ok(None);
            }
            Err(Unlisted::Refused(format!("`{}` is refused with error {}: {}", kind.method, refusal.code, refusal.message)))
        }
    }
}

/// An error and what only the operator reads of it.
pub(super) fn explain(error: &Error) -> String {
    error.detail().map_or_else(|| error.to_string(), |detail| format!("{error}: {detail}"))
}

#[derive(Debug)]
struct List {
    kind: &'static Kind,
    found: Vec<Definition>,
    bytes: usize,
    cursors: HashSet<String>,
}

impl List {
    fn of(kind: &'static Kind) -> Self {
        Self { kind, found: Vec::new(), bytes: 0, cursors: HashSet::new() }
    }

    /// Adds the page at `span` and gives the cursor of the next.
    fn add(&mut self, body: &Bytes, span: std::ops::Range<usize>) -> Result<Option<String>, String> {
        let Kind { items, name, most, bytes, .. } = self.kind;
        let text = body.get(span.clone()).unwrap_or_default();
        let page = json::parse(text, inbound::LIMITS).map_err(|fault| format!("a page of `{items}` is refused: {fault}"))?;
        for item in page.get(items).ok_or_else(|| format!("a page of `{items}` has no `{items}`"))?.items() {
            let name = item.get(name).and_then(Node::as_str).ok_or_else(|| format!("one of `{items}` has no `{name}`"))?;
            let at = item.span();
            self.bytes += at.len();
            if self.found.len() >= *most || self.bytes > *bytes {
                return Err(format!("the server has more than {most} `{items}`, or more than {bytes} bytes of them"));
            }
            let json = body.slice(span.start + at.start..span.start + at.end);
            self.found.push(Definition { name: name.to_owned(), json });
        }
        let Some(cursor) = page.get("nextCursor").and_then(Node::as_str) else { return Ok(None) };
        if !self.cursors.insert(cursor.to_owned()) {
            return Err("the server gives the same cursor twice".to_owned());
        }
        Ok(Some(cursor.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(list: &mut List, page: &str) -> Result<Option<String>, String> {
        let body = Bytes::from(format!("[{page}]"));
        list.add(&body, 1..body.len() - 1)
    }

    #[test]
    fn definitions_are_the_bytes_of_the_server() {
        let mut list = List::of(&TOOLS);
        let next = add(&mut list, r#"{"tools":[{"name":"a", "x":1.0}],"nextCursor":"2"}"#).unwrap();
        assert_eq!((next.as_deref(), add(&mut list, r#"{"tools":[{"name":"b"}]}"#).unwrap()), (Some("2"), None));
        assert_eq!(list.found.iter().map(|tool| &tool.json).collect::<Vec<_>>(), [r#"{"name":"a", "x":1.0}"#, r#"{"name":"b"}"#]);
    }

    #[test]
    fn a_cursor_that_comes_again_ends_the_listing() {
        let mut list = List::of(&TOOLS);
        add(&mut list, r#"{"tools":[],"nextCursor":"2"}"#).unwrap();
        assert!(add(&mut list, r#"{"tools":[],"nextCursor":"2"}"#).is_err());
    }

    #[test]
    fn too_many_tools_are_refused() {
        let mut list = List::of(&TOOLS);
        let page = format!(r#"{{"tools":[{}]}}"#, vec![r#"{"name":"a"}"#; TOOLS.most + 1].join(","));
        assert!(add(&mut list, &page).is_err());
    }
}
