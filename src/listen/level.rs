//! What an agent of a handshake revision sets for its session: how severe a log message must be, and which resources it watches.
//!
//! Kept in this process's memory: another instance serves the session's calls, but tells of nothing that was set here.

use std::sync::Arc;

use super::dispatch::{Turn, Wire};
use super::streams::Watched;
use crate::error::{Code, Error};
use crate::mcp::json::Node;
use crate::mcp::jsonrpc::Id;
use crate::mcp::log_level::LogLevel;
use crate::mcp::messages::invalid_params;
use crate::mcp::respond;

/// What a session hears that has set no level (2025-11-25, logging: the server may decide).
pub const UNSET: LogLevel = LogLevel::Info;

impl Turn<'_> {
    pub(super) fn set_level(&self, id: &Id, params: Option<&Node<'_>>) -> Result<Wire, Error> {
        let level = params.and_then(|params| params.get("level")).and_then(Node::as_str).and_then(LogLevel::parse);
        let level = level.ok_or_else(|| invalid_params("`params.level` is none of the eight levels"))?;
        self.service.streams().set_level(self.session()?, self.service.lasting(&self.caller.principal.id), level)?;
        Ok(Wire::ok(respond::result(id, &[])))
    }

    pub(super) async fn watch(&self, id: &Id, params: Option<&Node<'_>>) -> Result<Wire, Error> {
        let resource = self.gateway.may_watch(&self.caller.principal, uri(params)?)?;
        let (session, agent, streams) = (self.session()?, &self.caller.principal.id, self.service.streams());
        if streams.watches(session, &resource) {
            return Ok(Wire::ok(respond::result(id, &[])));
        }
        if self.service.is_draining() {
            return Err(Error::new(Code::ShuttingDown, "the gateway is stopping").retry_after_ms(1_000));
        }
        // The record first, then the server is told.
        let recorded = self.gateway.watching(self.caller, "resources/subscribe", id, vec![resource.topic()]).await?;
        let watched = Watched::new(agent, &resource)?;
        let known = watched.known();
        streams.watch(session, self.service.lasting(agent), watched, recorded)?;
        // What changes after the answer is told, so the server must know of it by then.
        known.await;
        Ok(Wire::ok(respond::result(id, &[])))
    }

    pub(super) fn unwatch(&self, id: &Id, params: Option<&Node<'_>>) -> Result<Wire, Error> {
        let uri = uri(params)?;
        // Whether it may be watched or was ever heard of: nothing is told of it, so there is nothing to refuse.
        if let Some((upstream, own)) = self.gateway.located(uri) {
            self.service.streams().unwatch(self.session()?, upstream.id(), own);
        }
        Ok(Wire::ok(respond::result(id, &[])))
    }

    fn session(&self) -> Result<&Arc<str>, Error> {
        self.conversation.ok_or_else(|| Error::new(Code::SessionInvalid, "the request belongs to no session"))
    }
}

fn uri<'d>(params: Option<&'d Node<'_>>) -> Result<&'d str, Error> {
    let uri = params.and_then(|params| params.get("uri")).and_then(Node::as_str);
    uri.ok_or_else(|| invalid_params("`params.uri` is missing or not a string"))
}
