//! What an agent with an open stream may watch, and which changes it is told of: decided anew for each of them.
//!
//! INVARIANT: a [`Watching`] is on record before it is there, and whatever it was permitted ends on record once.

use std::sync::Arc;

use bytes::Bytes;

use super::resolve::UNKNOWN;
use super::{Change, Gateway, Shared};
use crate::audit::trail::Watched;
use crate::catalog::tier::Tier;
use crate::catalog::{PolicyNames, address};
use crate::error::{Code, Error};
use crate::identity::Principal;
use crate::invocation::Caller;
use crate::mcp::canonical::write_string;
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::{Feed, Meta};
use crate::policy::{DEFAULT_DENY, DENIED_BY_RULE, Decision, Obligation, Obliged};
use crate::upstream::Upstream;

/// A resource that may be watched.
pub struct Watchable {
    /// Where it is.
    pub upstream: Upstream,
    /// The server's own URI.
    pub own: String,
    names: PolicyNames,
}

/// Something that an agent is told of.
#[derive(Debug)]
pub enum Topic {
    /// The changes of a list.
    List(Feed),
    /// The changes of a resource, by its names in the policy.
    Resource(PolicyNames),
}

impl Topic {
    fn name(&self) -> &str {
        match self {
            Self::List(Feed::Tools) => "tools/list",
            Self::List(Feed::Prompts) => "prompts/list",
            Self::List(Feed::Resources) => "resources/list",
            Self::Resource(names) => &names.name,
        }
    }
}

impl Watchable {
    /// What it is on record.
    pub fn topic(&self) -> Topic {
        Topic::Resource(self.names.clone())
    }
}

/// What an agent watches, on record. Dropped, its end is recorded too.
pub struct Watching {
    shared: Arc<Shared>,
    principal: Principal,
    watched: Watched,
    /// Whether each is permitted now.
    topics: Vec<(Topic, bool)>,
    why: &'static str,
}

impl Watching {
    /// Notes why all of it will have ended when this is dropped.
    pub fn ends(&mut self, why: &'static str) {
        self.why = why;
    }

    /// Ends one of them.
    pub fn end_one(&mut self, topic: &Topic, why: &'static str) {
        if let Some(at) = self.topics.iter().position(|(known, _)| known.name() == topic.name()) {
            self.topics.remove(at);
            self.shared.audit.note_watch(&self.watched, "ended", &[topic.name()], why);
        }
    }

    /// Asks whether each is permitted still, or again, and records what is otherwise than before.
    pub fn look(&mut self, gateway: &Gateway) {
        let kept_out = self.shared.kept_out(&self.principal);
        let holds = kept_out.is_none();
        let (mut lost, mut back) = (Vec::new(), Vec::new());
        for (topic, permitted) in &mut self.topics {
            let now = holds
                && match topic {
                    Topic::List(_) => true,
                    Topic::Resource(names) => gateway.decide_bare(&self.principal, names).is_permit(),
                };
            if std::mem::replace(permitted, now) != now {
                if now { &mut back } else { &mut lost }.push(topic.name());
            }
        }
        let why = kept_out.unwrap_or("the policy does not permit it any more");
        for (action, topics, why) in [("ended", lost, why), ("begun", back, "it is permitted again")] {
            if !topics.is_empty() {
                self.shared.audit.note_watch(&self.watched, action, &topics, why);
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let rest: Vec<&str> = self.topics.iter().filter(|(_, permitted)| *permitted).map(|(topic, _)| topic.name()).collect();
        if !rest.is_empty() {
            self.shared.audit.note_watch(&self.watched, "ended", &rest, self.why);
        }
    }
}

impl Gateway {
    /// Stores that the caller is told of these from now on.
    ///
    /// # Errors
    /// `audit_unavailable`.
    pub async fn watching(&self, caller: &Caller, method: &str, id: &Id, topics: Vec<Topic>) -> Result<Option<Watching>, Error> {
        if topics.is_empty() {
            return Ok(None);
        }
        let trail = self.shared.audit.trail(caller, method, Some(id), Meta::of(None), self.policy.version());
        let names: Vec<&str> = topics.iter().map(Topic::name).collect();
        let watched = self.shared.audit.watch(&trail, &names).await?;
        let topics = topics.into_iter().map(|topic| (topic, true)).collect();
        let (shared, principal) = (Arc::clone(&self.shared), caller.principal.clone());
        Ok(Some(Watching { shared, principal, watched, topics, why: "it did not come about" }))
    }

    /// Where a public URI leads, whoever asks.
    pub fn located<'u>(&self, uri: &'u str) -> Option<(&Upstream, &'u str)> {
        let (at, own) = self.catalog.own_uri(uri)?;
        Some((self.upstreams.get(at)?, own))
    }

    /// A resource that the principal may read. The caller records a refusal.
    ///
    /// # Errors
    /// `frozen` where the agent is, `tool_not_found` for a URI that leads nowhere or may not be known of, `policy_denied` for one that may not
    /// be read.
    pub fn may_watch(&self, principal: &Principal, uri: &str) -> Result<Watchable, Error> {
        self.shared.freezes.admit(principal)?;
        let missing = || Error::new(Code::ToolNotFound, "there is no such resource").because(UNKNOWN);
        let (upstream, own) = self.located(uri).ok_or_else(missing)?;
        let names = PolicyNames::resource(upstream.id(), own).ok_or_else(missing)?;
        let class = self.policy.class(&principal.id);
        if !self.policy.sees_by_name(class, &names.name) {
            return Err(missing().operator("no rule lets this agent see the resource").because("not_visible"));
        }
        match self.decide_bare(principal, &names) {
            Decision::Permit { .. } => Ok(Watchable { upstream: upstream.clone(), own: own.to_owned(), names }),
            Decision::Deny { rules } => {
                let (message, reason) = match rules.is_empty() {
                    true => ("no rule allows this resource", DEFAULT_DENY),
                    false => ("a rule denies this resource", DENIED_BY_RULE),
                };
                let rules = rules.iter().map(|rule| rule.as_str().to_owned()).collect();
                Err(Error::new(Code::PolicyDenied, message).rules(rules).because(reason))
            }
        }
    }

    /// Whether a resource may be watched. What a person has to say yes to cannot be, since nobody is asked at each of its changes, nor can what is
    /// only tried out.
    fn decide_bare(&self, principal: &Principal, names: &PolicyNames) -> Decision<'static> {
        let identity = self.shared.identity.load();
        let is_agent = |name: &str| identity.has_agent(name);
        let before = self.shared.runs.before(principal, None, &is_agent);
        let class = self.policy.class(&principal.id);
        let upstream = names.name.split(':').nth(1);
        let source = self.catalog.sources().iter().find(|source| Some(&*source.manifest.upstream) == upstream);
        let labels = source.map_or(&[][..], |source| source.manifest.resource_labels());
        let now = (&before, self.shared.audit.clock());
        match self.policy.decide_bare(principal, now, class, names.iter(), (Tier::Read, labels)) {
            Decision::Permit { obligations, .. } if obligations.iter().any(is_no_watch) => {
                let asking = obligations.iter().filter(|obliged| is_no_watch(obliged));
                Decision::Deny { rules: asking.map(|obliged| obliged.rule.clone()).collect::<Vec<_>>().into() }
            }
            decision => decision,
        }
    }

    /// The `params` of the notification of a change, where the principal may be told of it.
    pub fn shows(&self, principal: &Principal, change: &Change) -> Option<Bytes> {
        match change {
            Change::List(_) => Some(Bytes::from_static(b"{}")),
            Change::Updated { upstream, uri } => {
                let names = PolicyNames::resource(upstream, uri)?;
                let source = self.catalog.sources().iter().find(|source| source.manifest.upstream == **upstream)?;
                let known = self.decide_bare(principal, &names).is_permit();
                let mut out = b"{\"uri\":".to_vec();
                write_string(&address::public(source.manifest.prefix, upstream, uri), &mut out);
                out.push(b'}');
                known.then(|| out.into())
            }
        }
    }
}

fn is_no_watch(obliged: &Obliged) -> bool {
    matches!(obliged.obligation, Obligation::Approve { .. } | Obligation::ApproveUser) || obliged.obligation.is_dry_run()
}
