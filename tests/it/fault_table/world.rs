//! What the world outside the log knows, and whether the log agrees with it.

use std::collections::{BTreeMap, BTreeSet};

use doorward::audit::find::read_all;
use doorward::audit::record::Record;
use doorward::audit::storage::Storage;
use doorward::audit::verify::verify;
use doorward::audit::{Kind, Options};
use doorward::clock::Clock;

/// What others than the log have seen.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Calls that the tool server got.
    pub received: BTreeSet<String>,
    /// Refusals that an agent was told of.
    pub refused: BTreeSet<String>,
}

/// Options for a log on which nothing happens but by `tick`.
pub fn options() -> Options {
    Options {
        clock: Clock::fixed(1_795_255_200_000_000_000),
        has_thread: false,
        reserve_bytes: 0,
        outcome_room_bytes: 1_024,
        space_check_ms: 0,
        ..Options::default()
    }
}

pub fn intent(call: &str) -> Record<'_> {
    let args = Some(r#"{"path":"notes/a"}"#.into());
    Record { call_id: Some(call.into()), agent: Some("demo".into()), target: Some("demo__write".into()), args, ..Record::new(Kind::Intent) }
}

pub fn outcome(call: &str, intent_seq: u64) -> Record<'_> {
    let outcome = Some("ok".into());
    Record { call_id: Some(call.into()), intent_seq: Some(intent_seq), outcome, ..Record::new(Kind::Outcome) }
}

pub fn refusal(call: &str) -> Record<'_> {
    Record { call_id: Some(call.into()), agent: Some("demo".into()), code: Some("policy_denied".into()), ..Record::new(Kind::Refusal) }
}

/// What does not hold of a log whose process has started again.
pub fn violations(disk: &dyn Storage, world: &World) -> Vec<String> {
    let report = verify(disk, "main").unwrap();
    let mut wrong: Vec<String> = report.findings.iter().map(|finding| format!("verify: {finding}")).collect();
    let (mut intents, mut ends, mut refused) = (BTreeMap::new(), BTreeMap::<u64, u32>::new(), BTreeSet::new());
    for stored in read_all(disk).unwrap() {
        let call = stored.record.call_id.clone().unwrap_or_default().into_owned();
        match (stored.record.kind, stored.record.intent_seq) {
            (Kind::Intent, _) => drop(intents.insert(stored.seq, call)),
            (Kind::Outcome, Some(intent)) => *ends.entry(intent).or_default() += 1,
            (Kind::Refusal, _) => drop(refused.insert(call)),
            _ => {}
        }
    }
    for (seq, call) in &intents {
        match ends.remove(seq) {
            Some(1) => {}
            count => wrong.push(format!("the intent {seq} of {call} has {} ends", count.unwrap_or(0))),
        }
    }
    wrong.extend(ends.keys().map(|intent| format!("an end without the intent {intent}")));
    let known: BTreeSet<_> = intents.into_values().collect();
    wrong.extend(world.received.difference(&known).map(|call| format!("{call} was received and is no intent")));
    wrong.extend(world.refused.difference(&refused).map(|call| format!("{call} was refused and is not on record")));
    wrong
}
