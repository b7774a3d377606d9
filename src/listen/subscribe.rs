//! `subscriptions/listen` of 2026-07-28: a request that stays open, on which an agent is told of what it asked for.
//!
//! INVARIANT: the acknowledgement comes first, names what is told of and no more, and every message has the request's id.
//! INVARIANT: it holds no snapshot and no place among the calls; each event is decided by the policy of its moment.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::Service;
use super::changes::{self, Changes};
use super::streams::{MAX_WATCHED, STOPS, Watched};
use crate::error::{Code, Error};
use crate::gateway::{self, Change, Topic, Watchable, Watching};
use crate::invocation::Caller;
use crate::limit::slots::{Full, Place, Slots};
use crate::mcp::canonical::write_string;
use crate::mcp::json::{Node, Value};
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::{Downstream, Feed, Offers, invalid_params};
use crate::mcp::respond::{self, SERVER_INFO};

/// The request's method.
pub const METHOD: &str = "subscriptions/listen";
/// Open ones in the whole gateway, and how many of them may be one agent's.
const MAX_OPEN: (usize, usize) = (1_000, 16);
/// How often it is asked whether the agent's key still holds.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longest wait for the servers to know what they are to tell of.
const ALL_KNOWN: Duration = Duration::from_secs(5);
/// Why most subscriptions end.
const LEFT: &str = "the agent has ended it, or left";
/// The `_meta` key that ties what is told to the request that asked for it.
pub const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// The places of those that are open.
#[derive(Debug)]
pub struct Subscriptions(Arc<Slots>);

impl Default for Subscriptions {
    fn default() -> Self {
        Self(Arc::new(Slots::new(MAX_OPEN.0)))
    }
}

impl Subscriptions {
    fn open(&self, agent: &Arc<str>) -> Result<Place, Error> {
        self.0.take(agent, MAX_OPEN.1).map_err(|full| match full {
            Full::All => Error::new(Code::Overloaded, "the gateway has as many open subscriptions as it takes").retry_after_ms(1_000),
            Full::Agent => Error::new(Code::ConcurrencyLimited, format!("an agent has {} open subscriptions at most", MAX_OPEN.1))
                .suggest("end one of the open subscriptions first"),
        })
    }
}

/// What the agent asks to be told of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filter<'d> {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<&'d str>,
}

impl<'d> Filter<'d> {
    fn read(params: Option<&'d Node<'_>>) -> Result<Self, Error> {
        let asked = params.and_then(|params| params.get("notifications")).filter(|asked| asked.is_object());
        let asked = asked.ok_or_else(|| invalid_params("`params.notifications` is missing or not an object"))?;
        let is_on = |key| asked.get(key).and_then(Node::as_bool) == Some(true);
        let uris = match asked.get("resourceSubscriptions").map(|uris| &uris.value) {
            None => Vec::new(),
            Some(Value::Array(uris)) if uris.len() <= MAX_WATCHED => {
                let uris: Option<Vec<_>> = uris.iter().map(Node::as_str).collect();
                uris.ok_or_else(|| invalid_params("`params.notifications.resourceSubscriptions` is not an array of strings"))?
            }
            Some(Value::Array(_)) => return Err(invalid_params("`params.notifications.resourceSubscriptions` has over 256 entries")),
            Some(_) => return Err(invalid_params("`params.notifications.resourceSubscriptions` is not an array of strings")),
        };
        Ok(Self { tools: is_on("toolsListChanged"), prompts: is_on("promptsListChanged"), resources: is_on("resourcesListChanged"), uris })
    }

    /// What of it can be told of here.
    fn honoured(mut self, offers: Offers) -> Self {
        self.prompts &= offers.prompts;
        self.resources &= offers.resources;
        if !offers.subscribe {
            self.uris.clear();
        }
        self
    }

    fn has(&self, feed: Feed) -> bool {
        match feed {
            Feed::Tools => self.tools,
            Feed::Prompts => self.prompts,
            Feed::Resources => self.resources,
        }
    }

    fn text(&self) -> Vec<u8> {
        let mut out = vec![b'{'];
        for (key, on) in [("toolsListChanged", self.tools), ("promptsListChanged", self.prompts), ("resourcesListChanged", self.resources)]
        {
            if on {
                out.extend_from_slice(format!("\"{key}\":true,").as_bytes());
            }
        }
        if !self.uris.is_empty() {
            out.extend_from_slice(b"\"resourceSubscriptions\":[");
            for uri in &self.uris {
                write_string(uri, &mut out);
                out.push(b',');
            }
            out.pop();
            out.extend_from_slice(b"],");
        }
        if out.len() > 1 {
            out.pop();
        }
        out.push(b'}');
        out
    }
}

/// Who listens, and where it is told.
pub struct Listening<'t> {
    /// The service.
    pub service: &'t Service,
    /// Who asked.
    pub caller: &'t Caller,
    /// The request's id.
    pub id: &'t Id,
    /// Where events go.
    pub downstream: &'t dyn Downstream,
    /// Ends when the agent is gone or wants no more.
    pub cancel: &'t CancellationToken,
}

impl Listening<'_> {
    /// Tells until somebody ends it. The result, or why there was nothing to listen to.
    ///
    /// # Errors
    /// The refusal, recorded.
    pub async fn run(&self, params: Option<&Node<'_>>) -> Result<Bytes, gateway::Answer> {
        let principal = &self.caller.principal;
        let opened = Filter::read(params).and_then(|filter| {
            self.service.gateway().shared().freezes.admit(principal)?;
            Ok((filter, self.service.subscriptions().open(&principal.id)?))
        });
        let (filter, _place) = match opened {
            Ok(opened) => opened,
            Err(error) => return Err(self.refused(error).await),
        };
        // Heard from before anything is looked at, so that no change falls in between.
        let mut changes = Changes::of(self.service);
        let mut filter = filter.honoured(self.service.gateway().offers());
        let (watched, mut recorded) = match self.watched(&mut filter).await {
            Ok(watched) => watched,
            Err(error) => return Err(self.refused(error).await),
        };
        let acknowledged = self.tagged(&[b"\"notifications\":", &filter.text()]);
        self.downstream.notify("notifications/subscriptions/acknowledged", &acknowledged);
        let mut look = tokio::time::interval(LOOK_EVERY);
        let why = loop {
            tokio::select! {
                () = self.cancel.cancelled() => break LEFT,
                () = self.service.stopping().cancelled() => break STOPS,
                _ = look.tick() => {}
                // Told by nothing is who would not be let in any more; the look below ends it.
                changed = changes.next() => if changes::kept_out(self.service, &self.caller.principal).is_none() {
                    // Another policy changes every list.
                    if let (Some(recorded), true) = (&mut recorded, changed.iter().any(|change| matches!(change, Change::List(_)))) {
                        recorded.look(&self.service.gateway());
                    }
                    changed.iter().for_each(|change| self.tell(change, &filter, &watched));
                }
            }
            if let Some(why) = changes::kept_out(self.service, &self.caller.principal) {
                break why;
            }
        };
        recorded.iter_mut().for_each(|recorded| recorded.ends(why));
        let meta = format!("\"resultType\":\"complete\",\"_meta\":{{\"{SUBSCRIPTION}\":{},", self.id.as_json());
        Ok(respond::result(self.id, &[meta.as_bytes(), b"\"io.modelcontextprotocol/serverInfo\":", SERVER_INFO.as_bytes(), b"}"]))
    }

    /// Watches what may be watched, once that is on record, and leaves the rest out of the filter; the first that may not be is
    /// recorded for all.
    async fn watched(&self, filter: &mut Filter<'_>) -> Result<(Vec<Watched>, Option<Watching>), Error> {
        let (gateway, mut permitted, mut refused) = (self.service.gateway(), Vec::new(), None);
        filter.uris.retain(|uri| match gateway.may_watch(&self.caller.principal, uri) {
            Ok(resource) => {
                permitted.push(resource);
                true
            }
            Err(error) => {
                refused = refused.take().or(Some(error));
                false
            }
        });
        let lists = changes::LISTS.into_iter().filter(|feed| filter.has(*feed)).map(Topic::List);
        let topics = lists.chain(permitted.iter().map(Watchable::topic)).collect();
        let mut recorded = gateway.watching(self.caller, METHOD, self.id, topics).await?;
        let (mut watched, mut permitted) = (Vec::with_capacity(permitted.len()), permitted.into_iter());
        filter.uris.retain(|_| {
            let Some(resource) = permitted.next() else { return false };
            let one = Watched::new(&self.caller.principal.id, &resource);
            let is_honoured = one.is_ok();
            match one {
                Ok(one) => watched.push(one),
                Err(error) => {
                    recorded.iter_mut().for_each(|recorded| recorded.end_one(&resource.topic(), "there is no room for it"));
                    refused = refused.take().or(Some(error));
                }
            }
            is_honoured
        });
        recorded.iter_mut().for_each(|recorded| recorded.ends(LEFT));
        if let Some(error) = refused {
            self.refused(error).await;
        }
        // What changes after the acknowledgement is told, so their servers must know of them by then.
        let known = async {
            for watched in &watched {
                watched.known().await;
            }
        };
        self.cancel.run_until_cancelled(tokio::time::timeout(ALL_KNOWN, known)).await;
        Ok((watched, recorded))
    }

    async fn refused(&self, error: Error) -> gateway::Answer {
        self.service.gateway().refuse(self.caller, METHOD, Some(self.id), error).await
    }

    fn tell(&self, change: &Change, filter: &Filter<'_>, watched: &[Watched]) {
        let wanted = match change {
            Change::List(feed) => filter.has(*feed),
            Change::Updated { .. } => watched.iter().any(|watched| watched.is_of(change)),
        };
        if wanted && let Some((method, params)) = changes::told(self.service, &self.caller.principal, change) {
            let members = params.strip_prefix(b"{").and_then(|params| params.strip_suffix(b"}")).unwrap_or_default();
            self.downstream.notify(method, &self.tagged(&[members]));
        }
    }

    /// Parameters with these members, and the id of the subscription.
    fn tagged(&self, members: &[&[u8]]) -> Vec<u8> {
        let mut out = vec![b'{'];
        members.iter().for_each(|part| out.extend_from_slice(part));
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(format!("\"_meta\":{{\"{SUBSCRIPTION}\":{}}}}}", self.id.as_json()).as_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mcp::json;

    #[test]
    fn a_filter_is_read_honoured_and_written() {
        let text = r#"{"notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":"yes","other":1,"resourceSubscriptions":["a:b","c:\"d"]}}"#;
        let document = json::parse(text.as_bytes(), json::Limits::default()).unwrap();
        let filter = Filter::read(Some(&document)).unwrap().honoured(Offers { tools: true, subscribe: true, ..Offers::default() });
        assert_eq!(String::from_utf8(filter.text()).unwrap(), r#"{"toolsListChanged":true,"resourceSubscriptions":["a:b","c:\"d"]}"#);
        let nothing = Filter::read(Some(&document)).unwrap().honoured(Offers::default());
        assert_eq!(nothing.uris, Vec::<&str>::new());
        assert_eq!(Filter::default().text(), b"{}");
    }

    #[test]
    fn a_filter_that_is_none_is_refused() {
        for text in ["{}", r#"{"notifications":[]}"#, r#"{"notifications":{"resourceSubscriptions":[1]}}"#] {
            let document = json::parse(text.as_bytes(), json::Limits::default()).unwrap();
            assert_eq!(Filter::read(Some(&document)).unwrap_err().jsonrpc(), -32602, "{text}");
        }
    }
}
