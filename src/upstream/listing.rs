//! All tools of a server, page by page.
//!
//! INVARIANT: a server cannot make the list endless or huge: pages, tools and bytes are bounded, and a cursor must be new.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::inbound;
use super::link::Link;
use super::request::{Exchange, Outcome, Part, Sent};
use super::shared::Definition;
use crate::error::Error;
use crate::mcp::json::{self, Node};
use crate::mcp::revision::Era;

/// Most pages of a list.
const MAX_PAGES: usize = 1_000;
/// Most tools of a server.
const MAX_TOOLS: usize = 20_000;
/// All definitions of a server together, in bytes.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Why there is no list.
#[derive(Debug)]
pub(super) enum Unlisted {
    /// The server cannot be reached, or did not answer in time.
    Unreachable(String),
    /// It answered, and not with a list.
    Refused(String),
}

/// Lists all tools; each page may take `page`.
pub(super) async fn tools(link: &Link, era: Era, page: Duration) -> Result<Vec<Definition>, Unlisted> {
    let mut list = List::default();
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let (body, span) = one(link, era, cursor.as_deref(), page).await?;
        cursor = list.add(&body, span).map_err(Unlisted::Refused)?;
        if cursor.is_none() {
            return Ok(list.tools);
        }
    }
    Err(Unlisted::Refused(format!("the list of tools has more than {MAX_PAGES} pages")))
}

async fn one(link: &Link, era: Era, cursor: Option<&str>, page: Duration) -> Result<(Bytes, std::ops::Range<usize>), Unlisted> {
    let (sent, members) = (Sent::default(), cursor.map(|cursor| ("cursor", Part::Text(cursor))));
    let exchange = Exchange::own(era, "tools/list", members.as_slice(), &sent);
    let reply = timeout(page, link.exchange(&exchange)).await;
    let reply = reply.map_err(|_| Unlisted::Unreachable("the list of tools did not come in time".to_owned()))?;
    let reply = reply.map_err(|error| Unlisted::Unreachable(explain(&error)))?;
    match reply.outcome.clone() {
        Outcome::Result(span) => Ok((reply.body, span)),
        Outcome::Failure(_) => {
            let refusal = inbound::refusal(reply.text());
            Err(Unlisted::Refused(format!("`tools/list` is refused with error {}: {}", refusal.code, refusal.message)))
        }
    }
}

/// An error and what only the operator reads of it.
pub(super) fn explain(error: &Error) -> String {
    error.detail().map_or_else(|| error.to_string(), |detail| format!("{error}: {detail}"))
}

#[derive(Debug, Default)]
struct List {
    tools: Vec<Definition>,
    bytes: usize,
    cursors: HashSet<String>,
}

impl List {
    /// Adds the page at `span` and gives the cursor of the next.
    fn add(&mut self, body: &Bytes, span: std::ops::Range<usize>) -> Result<Option<String>, String> {
        let text = body.get(span.clone()).unwrap_or_default();
        let page = json::parse(text, inbound::LIMITS).map_err(|fault| format!("a page of tools is refused: {fault}"))?;
        let tools = page.get("tools").ok_or("a page of tools has no `tools`")?;
        for tool in tools.items() {
            let name = tool.get("name").and_then(Node::as_str).ok_or("a tool has no name")?;
            let at = tool.span();
            self.bytes += at.len();
            if self.tools.len() >= MAX_TOOLS || self.bytes > MAX_BYTES {
                return Err(format!("the server has more than {MAX_TOOLS} tools or {MAX_BYTES} bytes of definitions"));
            }
            let json = body.slice(span.start + at.start..span.start + at.end);
            self.tools.push(Definition { name: name.to_owned(), json });
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
        let mut list = List::default();
        let next = add(&mut list, r#"{"tools":[{"name":"a", "x":1.0}],"nextCursor":"2"}"#).unwrap();
        assert_eq!((next.as_deref(), add(&mut list, r#"{"tools":[{"name":"b"}]}"#).unwrap()), (Some("2"), None));
        assert_eq!(list.tools.iter().map(|tool| &tool.json).collect::<Vec<_>>(), [r#"{"name":"a", "x":1.0}"#, r#"{"name":"b"}"#]);
    }

    #[test]
    fn a_cursor_that_comes_again_ends_the_listing() {
        let mut list = List::default();
        add(&mut list, r#"{"tools":[],"nextCursor":"2"}"#).unwrap();
        assert!(add(&mut list, r#"{"tools":[],"nextCursor":"2"}"#).is_err());
    }

    #[test]
    fn too_many_tools_are_refused() {
        let mut list = List::default();
        let page = format!(r#"{{"tools":[{}]}}"#, vec![r#"{"name":"a"}"#; MAX_TOOLS + 1].join(","));
        assert!(add(&mut list, &page).is_err());
    }
}
