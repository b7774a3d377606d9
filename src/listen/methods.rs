//! The requests that are answered here and take no call's path: what is offered, the lists, and what a session keeps.

use super::admission;
use super::dispatch::{Turn, Wire};
use super::session::Negotiated;
use crate::error::{Code, Error};
use crate::gateway::Listed;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::json::Node;
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::{Method, Offers, client_name, invalid_params};
use crate::mcp::respond::{self, SERVER_INFO};
use crate::mcp::revision::Revision;

/// How long a client may keep what `server/discover` says, in milliseconds: it changes as servers come and go.
const DISCOVER_TTL_MS: u32 = 5_000;

/// Whether a method that names a target is there: one whose capability nobody has is none (2026-07-28, basic, errors).
pub fn is_offered(method: Method, offers: Offers) -> bool {
    match method {
        Method::CallTool => true,
        Method::GetPrompt => offers.prompts,
        Method::ReadResource => offers.resources,
        Method::Complete => offers.completions,
    }
}

impl Turn<'_> {
    /// Answers a request that no target is named by.
    pub(super) async fn answered_here(&self, id: &Id, method: &str, params: Option<&Node<'_>>) -> Wire {
        let offers = self.gateway.offers();
        let listed = match method {
            "tools/list" => Some(Listed::Tools),
            "prompts/list" if offers.prompts => Some(Listed::Prompts),
            "resources/list" if offers.resources => Some(Listed::Resources),
            "resources/templates/list" if offers.resources => Some(Listed::Templates),
            _ => None,
        };
        let answer = match (listed, self.revision.is_modern(), method) {
            (Some(listed), ..) => self.list(id, listed, params),
            (None, true, "server/discover") => Ok(discover(id, offers)),
            (None, false, "initialize") => self.initialize(id, offers, params),
            (None, false, "ping") => Ok(Wire::ok(respond::result(id, &[]))),
            (None, false, "logging/setLevel") if offers.logging => self.set_level(id, params),
            (None, false, "resources/subscribe") if offers.subscribe => self.watch(id, params).await,
            (None, false, "resources/unsubscribe") if offers.subscribe => self.unwatch(id, params),
            _ => Err(Error::new(Code::MethodNotFound, "the method is not served here")),
        };
        match answer.and_then(|wire| self.held(wire).map_err(admission::no_room)) {
            Ok(wire) => wire,
            Err(error) => self.refuse(id, method, error).await,
        }
    }

    fn list(&self, id: &Id, listed: Listed, params: Option<&Node<'_>>) -> Result<Wire, Error> {
        let cursor = params.and_then(|params| params.get("cursor"));
        let cursor = cursor.map(|cursor| cursor.as_str().ok_or_else(|| invalid_params("`params.cursor` is not a string"))).transpose()?;
        let page = self.gateway.list(listed, self.caller, self.revision, cursor)?;
        let next = page.next.as_deref();
        Ok(Wire::ok(respond::page(id, self.revision, listed.member(), &page.items, next, page.ttl_ms, &page.unavailable)))
    }

    fn initialize(&self, id: &Id, offers: Offers, params: Option<&Node<'_>>) -> Result<Wire, Error> {
        let asked = params.and_then(|params| params.get("protocolVersion")).and_then(Node::as_str);
        let asked = asked.ok_or_else(|| invalid_params("`params.protocolVersion` is missing"))?;
        let revision = Revision::parse(asked).filter(|revision| !revision.is_modern()).unwrap_or(Revision::NEWEST_LEGACY);
        let capabilities = Capabilities::of(params.and_then(|params| params.get("capabilities")));
        let settled = Negotiated {
            revision,
            client: params.and_then(|params| params.get("clientInfo")).map(client_name),
            capabilities: capabilities.intersect(Capabilities::known_to(revision)),
        };
        let (version, offered) = (revision.as_str(), capabilities_text(offers, revision));
        let head = format!("\"protocolVersion\":\"{version}\",\"capabilities\":{offered},\"serverInfo\":{SERVER_INFO}");
        Ok(Wire { negotiated: Some(settled), ..Wire::ok(respond::result(id, &[head.as_bytes()])) })
    }
}

/// The `ServerCapabilities` object, with what the revision knows.
fn capabilities_text(offers: Offers, revision: Revision) -> String {
    let subscribe = if offers.subscribe { ",\"subscribe\":true" } else { "" };
    let parts = [
        (offers.tools, "\"tools\":{\"listChanged\":true}".to_owned()),
        (offers.prompts, "\"prompts\":{\"listChanged\":true}".to_owned()),
        (offers.resources, format!("\"resources\":{{\"listChanged\":true{subscribe}}}")),
        (offers.completions && revision > Revision::V2024_11_05, "\"completions\":{}".to_owned()),
        (offers.logging, "\"logging\":{}".to_owned()),
    ];
    let parts: Vec<_> = parts.into_iter().filter(|(offered, _)| *offered).map(|(_, text)| text).collect();
    format!("{{{}}}", parts.join(","))
}

fn discover(id: &Id, offers: Offers) -> Wire {
    let (version, offered) = (Revision::NEWEST.as_str(), capabilities_text(offers, Revision::NEWEST));
    let members = format!(
        "\"supportedVersions\":[\"{version}\"],\"capabilities\":{offered},\"resultType\":\"complete\",\"ttlMs\":{DISCOVER_TTL_MS},\"cacheScope\":\"private\",\"_meta\":{{\"io.modelcontextprotocol/serverInfo\":{SERVER_INFO}}}"
    );
    Wire::ok(respond::result(id, &[members.as_bytes()]))
}
