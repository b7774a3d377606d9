//! Calls of agents of the handshake revisions that a tool server answers with questions: the agent is asked over its own
//! stream, and the call is sent again with its answers, as an agent of 2026-07-28 does by itself.
//!
//! INVARIANT: an agent is asked only for what it has declared; each round takes the whole path, with the policy as it is then.
//! INVARIANT: a call that waits for a person holds no place among the calls under way: a person may think for minutes, and so
//! many who do would stop every other call. It is bounded all the same, since it has a question among those under way (`asks`),
//! which are bounded, and for each agent too; at a legacy server it is one of the parked calls as well. A call that waits for
//! nobody, only to be sent again, has no such bound and keeps its place.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

use super::asks::{Back, Pending, Reply};
use super::dispatch::Turn;
use crate::error::{Code, Effect, Error};
use crate::gateway::Answer;
use crate::mcp::canonical::write_string;
use crate::mcp::capabilities::Capabilities;
use crate::mcp::json::{self, Limits, Node};
use crate::mcp::jsonrpc::Id;
use crate::mcp::messages::{Request, Retry};
use crate::mcp::respond::{Ending, Questions};
use crate::mcp::revision::Revision;

/// Rounds of questions that one call may have.
const MAX_ROUNDS: u32 = 10;
/// The first and the longest wait before a call is sent again that has nothing to ask, only a state to come back with.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long a prompt's or a resource's questions wait for their answers; a tool's manifest says how long its own do.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where the questions of one call go.
pub struct Asked<'a> {
    /// The way to the agent.
    pub back: &'a dyn Back,
    /// The conversation that the answers come in.
    pub conversation: &'a Arc<str>,
    /// The call's place among those under way.
    pub place: SemaphorePermit<'a>,
}

/// Asks and calls again until the call has ended.
pub async fn drive(turn: &Turn<'_>, asked: Asked<'_>, id: &Id, request: &Request<'_, '_>, mut answer: Answer) -> Answer {
    let Asked { back, conversation, place } = asked;
    let (mut place, deadline) = (Some(place), Instant::now() + patience(turn, request));
    for round in 0..MAX_ROUNDS {
        let (questions, waiting) = match answer {
            Answer { outcome: Ok(Ending::Asks(questions)), invocation } => (questions, invocation),
            ended => return ended,
        };
        let has_questions = questions.requests.len() > 2;
        if has_questions {
            place = None;
        }
        let mut responses = vec![b'{'];
        let mut asked = ask(turn, (back, conversation), &questions, deadline, round, &mut responses).await;
        if questions.own {
            asked = unheard(asked, &mut responses);
        }
        responses.push(b'}');
        let responses = Some(responses.as_slice()).filter(|_| has_questions);
        let state = asked.and_then(|()| match questions.state.as_deref().map(plain) {
            Some(None) => Err(protocol("the state of the call is not a string")),
            state => Ok(state.flatten()),
        });
        let again = |state| Request { retry: Some(Retry { responses, state }), ..*request };
        let state = match state {
            Ok(state) => state,
            Err(error) => return turn.gateway.give_up(turn.caller, id, &again(None), &waiting, error).await,
        };
        if place.is_none() {
            // Never closed while the service is there.
            place = turn.service.place().await;
        }
        let gateway = turn.service.gateway();
        answer = gateway.call(turn.caller, id, &again(state.as_deref()), turn.text, turn.downstream).await;
    }
    match answer.outcome {
        Ok(Ending::Asks(_)) => {
            let error = lost("the tool server asks again and again");
            turn.gateway.give_up(turn.caller, id, request, &answer.invocation, error).await
        }
        _ => answer,
    }
}

fn patience(turn: &Turn<'_>, request: &Request<'_, '_>) -> Duration {
    let catalog = turn.gateway.catalog();
    let tool = catalog.find(request.name).and_then(|index| catalog.tool(index));
    tool.map_or(PATIENCE, |tool| Duration::from_millis(tool.interaction_timeout_ms))
}

/// Puts all questions of a round to the agent. The members of `inputResponses` are in `out`, as many as there are by the end.
async fn ask(
    turn: &Turn<'_>,
    (back, conversation): (&dyn Back, &Arc<str>),
    questions: &Questions,
    deadline: Instant,
    round: u32,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let document = json::parse(&questions.requests, Limits::default()).map_err(|_| protocol("the questions cannot be read"))?;
    if document.members().is_empty() {
        let wait = AGAIN.0.saturating_mul(1 << round).min(AGAIN.1);
        tokio::select! {
            () = tokio::time::sleep(wait) => return Ok(()),
            () = turn.cancel.cancelled() => return Err(cancelled()),
        }
    }
    let mut pending = Vec::with_capacity(document.members().len());
    for member in document.members() {
        let method = member.node.get("method").and_then(Node::as_str).unwrap_or_default();
        let params = member.node.get("params");
        allowed(turn.caller.capabilities, method, params)?;
        let one = turn.service.asks().begin(&turn.caller.principal.id, conversation, back)?;
        if !back.send(question(one.id(), method, params, turn.revision, &questions.requests)) {
            return Err(missing("the tool server asks for input, and this client takes no questions on the stream of its call"));
        }
        pending.push((member.key.as_ref(), method, one));
    }
    for (key, method, mut one) in pending {
        let reply = tokio::select! {
            reply = reply(&mut one, deadline) => reply,
            () = turn.cancel.cancelled() => return Err(cancelled()),
        };
        let answer = match (reply, method) {
            (Some(result), _) => result,
            // Silence is no consent (2025-11-25, elicitation).
            (None, "elicitation/create") => Bytes::from_static(b"{\"action\":\"cancel\"}"),
            // There is no form in which a tool server is told that the agent has no answer.
            (None, _) => return Err(lost("the agent gave no answer to what the tool server asked")),
        };
        if out.len() > 1 {
            out.push(b',');
        }
        write_string(key, out);
        out.push(b':');
        out.extend_from_slice(&answer);
    }
    Ok(())
}

/// A question of our own that nobody could be asked is one that nobody answers: the call is told whose yes it needs. No server has had it.
fn unheard(asked: Result<(), Error>, responses: &mut Vec<u8>) -> Result<(), Error> {
    match asked {
        Err(error) if error.code() == Code::Cancelled => Err(error.after_effect(Effect::None, true)),
        Err(_) => {
            responses.truncate(1);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// The answer, if it comes in time and is a result.
async fn reply(pending: &mut Pending<'_>, deadline: Instant) -> Reply {
    tokio::time::timeout_at(deadline, pending.reply()).await.unwrap_or_default()
}

fn allowed(declared: Capabilities, method: &str, params: Option<&Node<'_>>) -> Result<(), Error> {
    let needed = Capabilities::needs(method, params).ok_or_else(|| protocol("it asks for what no agent can be asked for"))?;
    if declared.contains(needed) {
        return Ok(());
    }
    let mut object = Vec::new();
    needed.write(&mut object);
    let error = missing("the tool server asks for what this client has not declared");
    Err(error.data("requiredCapabilities", String::from_utf8_lossy(&object).into_owned()))
}

/// The request that puts a question of 2026-07-28 to an agent of `revision`.
fn question(id: u64, method: &str, params: Option<&Node<'_>>, revision: Revision, text: &[u8]) -> Bytes {
    let mut out = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\"").into_bytes();
    let by_url = params.and_then(|params| params.get("mode")).and_then(Node::as_str) == Some("url");
    let mut separator: &[u8] = b",\"params\":{";
    for member in params.map(Node::members).unwrap_or_default() {
        // Before 2025-11-25 there are forms only, and no word for it.
        if method == "elicitation/create" && member.key == "mode" && revision < Revision::V2025_11_25 {
            continue;
        }
        out.extend_from_slice(std::mem::replace(&mut separator, b","));
        write_string(&member.key, &mut out);
        out.push(b':');
        out.extend_from_slice(member.node.text(text));
    }
    // What 2025-11-25 has to have and 2026-07-28 no longer does. Nobody waits for its completion.
    if by_url && params.is_none_or(|params| params.get("elicitationId").is_none()) {
        out.extend_from_slice(std::mem::replace(&mut separator, b","));
        out.extend_from_slice(format!("\"elicitationId\":\"{id}\"").as_bytes());
    }
    out.extend_from_slice(if separator == b"," { b"}}" } else { b"}" });
    out.into()
}

/// The text of a JSON string.
fn plain(state: &[u8]) -> Option<String> {
    json::parse(state, Limits::default()).ok().and_then(|node| node.as_str().map(str::to_owned))
}

fn missing(message: &'static str) -> Error {
    Error::new(Code::ClientCapabilityMissing, message).from_upstream().after_effect(Effect::Unknown, false)
}

fn lost(message: &'static str) -> Error {
    Error::new(Code::InteractionLost, message).after_effect(Effect::Unknown, false)
}

fn cancelled() -> Error {
    Error::new(Code::Cancelled, "the agent gave the call up while it was asked").after_effect(Effect::Unknown, false)
}

fn protocol(message: &'static str) -> Error {
    Error::new(Code::UpstreamProtocolError, message).from_upstream().after_effect(Effect::Unknown, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, params: Option<&str>, revision: Revision) -> String {
        let text = params.unwrap_or("{}");
        let document = json::parse(text.as_bytes(), Limits::default()).unwrap();
        let bytes = question(5, method, params.map(|_| &document), revision, text.as_bytes());
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_question_is_put_in_the_words_of_the_agents_revision() {
        let form = r#"{"mode":"form","message":"m","requestedSchema":{ "n": 1.0 }}"#;
        let old = asked("elicitation/create", Some(form), Revision::V2025_06_18);
        assert_eq!(
            old,
            r#"{"jsonrpc":"2.0","id":5,"method":"elicitation/create","params":{"message":"m","requestedSchema":{ "n": 1.0 }}}"#
        );
        assert!(asked("elicitation/create", Some(form), Revision::V2025_11_25).contains(r#""mode":"form""#));
        let url = asked("elicitation/create", Some(r#"{"mode":"url","message":"m","url":"https://a"}"#), Revision::V2025_11_25);
        assert!(url.ends_with(r#","elicitationId":"5"}}"#), "{url}");
        assert_eq!(asked("roots/list", None, Revision::V2024_11_05), r#"{"jsonrpc":"2.0","id":5,"method":"roots/list"}"#);
        assert_eq!(asked("roots/list", Some("{}"), Revision::V2024_11_05), r#"{"jsonrpc":"2.0","id":5,"method":"roots/list"}"#);
    }
}
