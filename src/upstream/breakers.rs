//! The breakers of one upstream: its own, and one for each of its tools that has failed.
//!
//! Owns: which failures are transient, and whose they are. Leaves to others: the states (`breaker`).
//! INVARIANT: a tool that fails is left alone without the others, and a server that cannot be reached is no fault of a tool's.
//! INVARIANT: nothing but what may pass counts as a failure: an answer of any kind is a success, and what the server refuses by an HTTP
//! status below 500 teaches nothing.
//! INVARIANT: no agent opens a breaker by giving its calls little time.
//! INVARIANT: there are no more breakers than tools, and a call asks after its tool's only once one of them has failed.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::breaker::{Breaker, Changed, Permit, Standing};
use super::request::{ANSWERED, IMPATIENT};
use crate::error::{Code, Effect, Error};

/// All breakers of an upstream.
#[derive(Debug)]
pub(super) struct Breakers {
    upstream: Arc<str>,
    own: Breaker,
    tools: Mutex<HashMap<Box<str>, Breaker>>,
    /// Whether there is any among `tools`.
    has_tools: AtomicBool,
    hasher: RandomState,
}

/// Leave for one call, which goes back untold when dropped.
#[derive(Debug)]
pub(super) struct Leave {
    own: Permit,
    /// None where the tool has no breaker, as long as it has never failed.
    tool: Option<Permit>,
}

/// What an error says of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing of anybody.
    None,
    /// The server cannot be reached.
    Server,
    /// The server failed at this call.
    Call,
}

impl Breakers {
    /// Closed ones.
    pub(super) fn new(upstream: &Arc<str>) -> Self {
        let (tools, has_tools) = (Mutex::default(), AtomicBool::new(false));
        Self { upstream: Arc::clone(upstream), own: Breaker::new(), tools, has_tools, hasher: RandomState::new() }
    }

    /// Lets a call in; of a tool, where it is of one.
    ///
    /// # Errors
    /// `circuit_open` with the wait.
    pub(super) fn permit(&self, tool: Option<&str>) -> Result<Leave, Error> {
        // Its own first: a tool that is left alone must not use up the server's probe.
        let of_tool = tool.and_then(|tool| Some((tool, self.tool(tool)?)));
        let tool = of_tool.map(|(tool, breaker)| breaker.permit().map_err(|wait| self.open(Some(tool), wait))).transpose()?;
        let own = self.own.permit().map_err(|wait| self.open(None, wait))?;
        Ok(Leave { own, tool })
    }

    /// Why no call of the tool would be let in now, not even one that tries.
    pub(super) fn refusal(&self, tool: Option<&str>) -> Option<Error> {
        let of_tool = tool.and_then(|tool| Some(self.open(Some(tool), self.tool(tool)?.refusal()?)));
        of_tool.or_else(|| Some(self.open(None, self.own.refusal()?)))
    }

    fn open(&self, tool: Option<&str>, wait: Duration) -> Error {
        let message = match tool {
            Some(tool) => format!("the tool `{tool}` of the server `{}` failed too often just now", self.upstream),
            None => format!("the tool server `{}` failed too often just now", self.upstream),
        };
        // Rounded up: whoever comes back when told must find it over.
        let wait = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Error::new(Code::CircuitOpen, message).retry_after_ms(wait.max(1))
    }

    /// Takes in how a call went; of a tool, where it was of one.
    pub(super) fn learn(&self, leave: Leave, tool: Option<&str>, outcome: Result<(), &Error>) {
        let fault = match outcome {
            Ok(()) => {
                self.tell(None, leave.own.succeeded());
                return self.tell(tool, leave.tool.map_or(Changed::No, Permit::succeeded));
            }
            Err(error) => fault(error),
        };
        match (fault, tool) {
            (Fault::None, _) => {}
            (Fault::Server, _) | (Fault::Call, None) => self.tell(None, leave.own.failed(None)),
            (Fault::Call, Some(name)) => {
                self.tell(None, leave.own.failed(Some(self.hasher.hash_one(name))));
                let permit = leave.tool.unwrap_or_else(|| self.made(name).first_permit());
                self.tell(tool, permit.failed(None));
            }
        }
    }

    fn tell(&self, tool: Option<&str>, changed: Changed) {
        let upstream = &*self.upstream;
        match (changed, tool) {
            (Changed::No, _) => {}
            (Changed::Opened(wait), Some(tool)) => tracing::warn!(upstream, tool, ?wait, "the tool keeps failing and is left alone"),
            (Changed::Opened(wait), None) => tracing::warn!(upstream, ?wait, "the tool server keeps failing and is left alone"),
            (Changed::Closed, Some(tool)) => tracing::info!(upstream, tool, "the tool works again"),
            (Changed::Closed, None) => tracing::info!(upstream, "the tool server works again"),
        }
    }

    /// How the upstream's own stands.
    pub(super) fn standing(&self) -> Standing {
        self.own.standing()
    }

    /// How those of its tools stand that have failed and not worked since, by name.
    pub(super) fn of_tools(&self) -> Vec<(String, Standing)> {
        let tools = self.tools();
        let standing = tools.iter().map(|(name, breaker)| (name.to_string(), breaker.standing()));
        let mut failing: Vec<_> = standing.filter(|(_, standing)| *standing != Standing::Closed { failures: 0 }).collect();
        failing.sort_by(|(one, _), (other, _)| one.cmp(other));
        failing
    }

    fn tool(&self, name: &str) -> Option<Breaker> {
        if !self.has_tools.load(Ordering::Acquire) {
            return None;
        }
        self.tools().get(name).cloned()
    }

    fn made(&self, name: &str) -> Breaker {
        let made = self.tools().entry(name.into()).or_insert_with(Breaker::new).clone();
        self.has_tools.store(true, Ordering::Release);
        made
    }

    fn tools(&self) -> MutexGuard<'_, HashMap<Box<str>, Breaker>> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the same call may go well a moment later, as far as the error tells.
pub fn may_pass(error: &Error) -> bool {
    fault(error) != Fault::None
}

/// Whether the agent's own deadline brought the error about, which says nothing of the server.
pub fn is_impatient(error: &Error) -> bool {
    error.reason() == Some(IMPATIENT)
}

fn fault(error: &Error) -> Fault {
    match (error.code(), error.effect()) {
        _ if matches!(error.reason(), Some(ANSWERED | IMPATIENT)) => Fault::None,
        (Code::UpstreamUnavailable, Effect::None) => Fault::Server,
        (Code::UpstreamUnavailable | Code::UpstreamTimeout | Code::UpstreamDisconnected | Code::UpstreamProtocolError, _) => Fault::Call,
        _ => Fault::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breakers() -> Breakers {
        Breakers::new(&"up".into())
    }

    fn error(code: Code, effect: Effect) -> Error {
        Error::new(code, "it failed").after_effect(effect, false)
    }

    fn fail(breakers: &Breakers, tool: &str, times: u32, error: &Error) {
        for _ in 0..times {
            let leave = breakers.permit(Some(tool)).unwrap();
            breakers.learn(leave, Some(tool), Err(error));
        }
    }

    fn works(breakers: &Breakers, tool: &str) {
        breakers.learn(breakers.permit(Some(tool)).unwrap(), Some(tool), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tool_that_fails_is_left_alone_and_its_neighbours_go_on() {
        let breakers = breakers();
        fail(&breakers, "slow", 5, &error(Code::UpstreamTimeout, Effect::Unknown));
        let refused = breakers.permit(Some("slow")).unwrap_err();
        assert_eq!(refused.code(), Code::CircuitOpen);
        assert_eq!(breakers.refusal(Some("slow")).unwrap().wait_ms(), refused.wait_ms());
        works(&breakers, "good");
        assert_eq!(breakers.standing(), Standing::Closed { failures: 0 });

        tokio::time::advance(Duration::from_millis(refused.wait_ms().unwrap())).await;
        assert!(breakers.refusal(Some("slow")).is_none());
        works(&breakers, "slow");
        assert!(breakers.of_tools().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_cannot_be_reached_is_no_fault_of_a_tool() {
        let breakers = breakers();
        fail(&breakers, "a", 5, &error(Code::UpstreamUnavailable, Effect::None));
        assert!(breakers.permit(Some("b")).is_err() && breakers.of_tools().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_at_which_several_tools_fail_is_left_alone() {
        let (breakers, lost) = (breakers(), error(Code::UpstreamDisconnected, Effect::Unknown));
        fail(&breakers, "a", 3, &lost);
        fail(&breakers, "b", 2, &lost);
        assert!(breakers.permit(Some("c")).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_probe_of_the_server_is_not_used_up_by_a_tool_that_is_left_alone() {
        let breakers = breakers();
        fail(&breakers, "b", 2, &error(Code::UpstreamTimeout, Effect::Unknown));
        fail(&breakers, "a", 3, &error(Code::UpstreamTimeout, Effect::Unknown));
        let wait = Duration::from_millis(breakers.permit(Some("c")).unwrap_err().wait_ms().unwrap());
        tokio::time::advance(wait).await;
        // Its own breaker opens: three before, and two more of calls that had been let in before.
        for _ in 0..2 {
            let _opens = breakers.made("a").first_permit().failed(None);
        }
        assert!(breakers.permit(Some("a")).unwrap_err().to_string().contains("`a`"));
        works(&breakers, "c");
        assert_eq!(breakers.standing(), Standing::Closed { failures: 0 });
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_trips_nothing() {
        let breakers = breakers();
        for code in Code::ALL {
            let passes = ["upstream_unavailable", "upstream_timeout", "upstream_disconnected", "upstream_protocol_error"];
            if !passes.contains(&code.facts().code) {
                fail(&breakers, "a", 10, &error(*code, Effect::Unknown));
            }
        }
        let refused = error(Code::UpstreamUnavailable, Effect::None).because(ANSWERED);
        fail(&breakers, "a", 10, &refused);
        fail(&breakers, "a", 10, &error(Code::UpstreamTimeout, Effect::Unknown).because(IMPATIENT));
        assert_eq!((breakers.standing(), breakers.of_tools().len()), (Standing::Closed { failures: 0 }, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_whose_caller_goes_away_gives_its_place_back() {
        let breakers = breakers();
        fail(&breakers, "a", 5, &error(Code::UpstreamTimeout, Effect::Unknown));
        let wait = breakers.permit(Some("a")).unwrap_err().wait_ms().unwrap();
        tokio::time::advance(Duration::from_millis(wait)).await;
        let probe = breakers.permit(Some("a")).unwrap();
        assert!(breakers.permit(Some("a")).is_err());
        breakers.learn(probe, Some("a"), Err(&error(Code::Cancelled, Effect::Unknown)));
        drop(breakers.permit(Some("a")).unwrap());
        works(&breakers, "a");
        works(&breakers, "a");
    }
}
