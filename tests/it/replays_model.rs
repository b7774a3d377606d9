//! The store of named calls against a model of a few lines: all orders of calls, ends, voids, releases, time and restarts.

use std::collections::HashMap;
use std::path::Path;

use doorward::state::{BegunReplay, NewReplay, ReplayEnd, ReplayStands, Room, State};
use proptest::prelude::*;
use rusqlite::Connection;

const AGENTS: [&str; 2] = ["agent:a", "agent:b"];
const UPSTREAMS: [&str; 2] = ["one", "two"];
/// Calls in all and of one agent; bytes in all and of one agent.
const CALLS: (u64, u64) = (6, 4);
const BYTES: (u64, u64) = (60, 40);
const WINDOW: i64 = 50;
const LASTS: i64 = 20;

#[derive(Clone, Debug)]
enum Step {
    Begin {
        name: u8,
        agent: usize,
        upstream: usize,
        by_arguments: bool,
    },
    End {
        name: u8,
        how: usize,
        bytes: usize,
    },
    Void(usize),
    Release(u8),
    Wait(i64),
    /// The process is killed and begins anew.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..9_u8, 0..2_usize, 0..2_usize, any::<bool>()).prop_map(|(name, agent, upstream, by_arguments)| Step::Begin { name, agent, upstream, by_arguments }),
        5 => (0..9_u8, 0..5_usize, 0..30_usize).prop_map(|(name, how, bytes)| Step::End { name, how, bytes }),
        1 => (0..2_usize).prop_map(Step::Void),
        1 => (0..9_u8).prop_map(Step::Release),
        2 => (1..40_i64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

#[derive(Clone, Debug)]
struct Row {
    call: String,
    agent: usize,
    upstream: usize,
    by_arguments: bool,
    stands: ReplayStands,
    lasts: i64,
    expires: i64,
    bytes: u64,
    has_result: bool,
    voided: bool,
}

#[derive(Default)]
struct Model {
    rows: HashMap<u8, Row>,
    now: i64,
    calls: usize,
}

impl Model {
    fn taken(&self, agent: Option<usize>) -> (u64, u64) {
        let rows = self.rows.values().filter(|row| agent.is_none_or(|agent| row.agent == agent));
        rows.fold((0, 0), |(calls, bytes), row| (calls + 1, bytes + row.bytes))
    }

    fn void(&mut self, upstream: usize) {
        let is_meant = |row: &Row| row.by_arguments && row.upstream == upstream;
        self.rows.retain(|_, row| !(is_meant(row) && row.stands == ReplayStands::Done));
        for row in self.rows.values_mut().filter(|row| is_meant(row) && matches!(row.stands, ReplayStands::Runs | ReplayStands::Asks)) {
            row.voided = true;
        }
    }

    /// Only results that a repeat may make again go for want of room.
    fn make_room(&mut self, agent: usize) {
        if self.taken(Some(agent)).0 >= CALLS.1 {
            self.rows.retain(|_, row| !(row.by_arguments && row.stands == ReplayStands::Done && row.agent == agent));
        }
        if self.taken(None).0 >= CALLS.0 {
            self.rows.retain(|_, row| !(row.by_arguments && row.stands == ReplayStands::Done));
        }
    }

    fn is_lost(&self, row: &Row) -> bool {
        row.stands == ReplayStands::Unknown || (row.stands != ReplayStands::Done && row.lasts <= self.now)
    }
}

fn begin(model: &mut Model, state: &State, (name, agent, upstream, by_arguments): (u8, usize, usize, bool)) -> Result<(), TestCaseError> {
    model.calls += 1;
    let (call, now) = (format!("c{}", model.calls), model.now);
    let (lasts, expires) = (now + LASTS, now + WINDOW);
    let new = NewReplay {
        name: &[name; 32],
        contents: &[1; 32],
        call: &call,
        origin: "main",
        agent: AGENTS[agent],
        target: "t",
        upstream: UPSTREAMS[upstream],
        by_arguments,
        over: None,
        now,
        lasts,
        expires,
    };
    let begun = state.begin_replay(&new, CALLS).unwrap();
    // What is refused changes nothing, not even what it looked at.
    if let Some(known) = model.rows.get(&name).filter(|row| row.expires > now) {
        let BegunReplay::Known(row) = begun else { return Err(TestCaseError::fail(format!("{begun:?} in place of {known:?}"))) };
        prop_assert_eq!((&row.call, row.stands), (&known.call, known.stands));
        return Ok(());
    }
    let before = model.rows.clone();
    model.rows.retain(|_, row| row.expires > now);
    if by_arguments {
        model.void(upstream);
    }
    model.make_room(agent);
    let wanted = match (model.taken(Some(agent)).0 >= CALLS.1, model.taken(None).0 >= CALLS.0) {
        (true, _) => BegunReplay::FullForAgent,
        (_, true) => BegunReplay::Full,
        _ => BegunReplay::New,
    };
    prop_assert_eq!(&begun, &wanted);
    match begun {
        BegunReplay::New => {
            let row = Row {
                call,
                agent,
                upstream,
                by_arguments,
                stands: ReplayStands::Runs,
                lasts,
                expires,
                bytes: 0,
                has_result: false,
                voided: false,
            };
            model.rows.insert(name, row);
        }
        _ => model.rows = before,
    }
    Ok(())
}

fn end(model: &mut Model, state: &State, (name, how, bytes): (u8, usize, usize)) -> Result<(), TestCaseError> {
    let now = model.now;
    let Some(row) = model.rows.get(&name).cloned().filter(|row| matches!(row.stands, ReplayStands::Runs | ReplayStands::Asks)) else {
        // Not the one that runs: nothing happens.
        let (all, agent) = (BYTES.0, BYTES.1);
        state.end_replay((&[name; 32], "another"), ReplayEnd::Free, (now, now + WINDOW), (all, agent)).unwrap();
        return Ok(());
    };
    let text = "x".repeat(bytes);
    let how = [
        ReplayEnd::Free,
        ReplayEnd::Asks(now + 2 * LASTS, None),
        ReplayEnd::Unknown("code", false),
        ReplayEnd::Done(Ok(&text)),
        ReplayEnd::Done(Err("code")),
    ][how];
    let room = state.end_replay((&[name; 32], &row.call), how, (now, now + WINDOW), BYTES).unwrap();
    let (of_all, of_agent) = (model.taken(None).1, model.taken(Some(row.agent)).1);
    let mut wanted = Room::Kept;
    let is_gone = matches!(how, ReplayEnd::Free) || (matches!(how, ReplayEnd::Done(_)) && row.voided);
    if is_gone {
        model.rows.remove(&name);
    } else {
        let row = model.rows.get_mut(&name).unwrap();
        row.stands = match how {
            ReplayEnd::Asks(..) => ReplayStands::Asks,
            ReplayEnd::Unknown(..) => ReplayStands::Unknown,
            _ => ReplayStands::Done,
        };
        match how {
            ReplayEnd::Asks(lasts, _) => (row.lasts, row.expires) = (lasts, row.expires.max(lasts)),
            ReplayEnd::Done(Ok(_)) if of_all + bytes as u64 <= BYTES.0 && of_agent + bytes as u64 <= BYTES.1 => {
                (row.bytes, row.has_result, row.expires) = (bytes as u64, true, now + WINDOW);
            }
            ReplayEnd::Done(Ok(_)) => {
                wanted = Room::None;
                row.expires = now + WINDOW;
            }
            _ => row.expires = now + WINDOW,
        }
    }
    prop_assert_eq!(room, wanted);
    Ok(())
}

fn agrees(model: &Model, state: &State, folder: &Path) -> Result<(), TestCaseError> {
    for name in 0..9_u8 {
        let stored = state.replay(&[name; 32], model.now).unwrap();
        let wanted = model.rows.get(&name).filter(|row| row.expires > model.now);
        prop_assert_eq!(stored.is_some(), wanted.is_some(), "{}", name);
        if let (Some(stored), Some(wanted)) = (stored, wanted) {
            prop_assert_eq!((&stored.call, stored.stands, stored.sealed.is_some()), (&wanted.call, wanted.stands, wanted.has_result));
            prop_assert_eq!((stored.lasts, stored.expires), (wanted.lasts, wanted.expires));
        }
    }
    // The sums that the bounds go by are those of the rows.
    let database = Connection::open(folder.join("state.db")).unwrap();
    for (agent, which) in [("", None), (AGENTS[0], Some(0)), (AGENTS[1], Some(1))] {
        let sum =
            database.query_row("SELECT calls, bytes FROM replay_room WHERE agent = ?1", [agent], |row| Ok((row.get(0)?, row.get(1)?)));
        let sum: (u64, u64) = sum.unwrap_or_default();
        prop_assert_eq!(sum, model.taken(which), "{}", agent);
        prop_assert!(sum.0 <= CALLS.0 && sum.1 <= BYTES.0);
    }
    let lost = state.replays(false, model.now).unwrap();
    let wanted = model.rows.values().filter(|row| row.expires > model.now && model.is_lost(row)).count();
    prop_assert_eq!(lost.len(), wanted);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in proptest::collection::vec(step(), 1..60)) {
        let home = tempfile::tempdir().unwrap();
        let mut state = State::open(home.path()).unwrap();
        let mut model = Model { now: 1_000, ..Model::default() };
        for step in steps {
            match step {
                Step::Begin { name, agent, upstream, by_arguments } => begin(&mut model, &state, (name, agent, upstream, by_arguments))?,
                Step::End { name, how, bytes } => end(&mut model, &state, (name, how, bytes))?,
                Step::Void(upstream) => {
                    state.void_replays(UPSTREAMS[upstream]).unwrap();
                    model.void(upstream);
                }
                Step::Release(name) => {
                    let call = model.rows.get(&name).map(|row| row.call.clone()).unwrap_or_default();
                    let is_lost = model.rows.get(&name).is_some_and(|row| model.is_lost(row));
                    prop_assert_eq!(state.release_replay(&call, model.now).unwrap().is_some(), is_lost);
                    if is_lost {
                        model.rows.remove(&name);
                    }
                }
                Step::Wait(seconds) => model.now += seconds,
                Step::Restart => {
                    drop(state);
                    state = State::open(home.path()).unwrap();
                    state.abandon_replays("other").unwrap();
                    state.abandon_replays("main").unwrap();
                    model.rows.values_mut().filter(|row| row.stands == ReplayStands::Runs).for_each(|row| row.stands = ReplayStands::Unknown);
                }
            }
            agrees(&model, &state, home.path())?;
        }
    }
}
