//! Who gets a place and when, against a model of the queue.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ROOM: Room = Room { places: 3, queue: 6 };
const SHARE: Room = Room { places: 2, queue: 4 };

fn place(entered: Result<Entered, Full>) -> Place {
    match entered {
        Ok(Entered::Place(place)) => place,
        other => panic!("no place: {other:?}"),
    }
}

fn wait(entered: Result<Entered, Full>) -> Wait {
    match entered {
        Ok(Entered::Waits(wait)) => wait,
        other => panic!("not in the queue: {other:?}"),
    }
}

/// The place, where it is there already.
fn given(wait: &mut Wait) -> Option<Place> {
    wait.place.try_recv().ok()
}

#[test]
fn without_a_queue_an_agent_has_its_share_and_all_together_the_limit() {
    let (bulkhead, one, other) = (Arc::new(Bulkhead::new(Room { queue: 0, ..ROOM })), Arc::from("agent:a"), Arc::from("agent:b"));
    let kept = [place(bulkhead.enter(&one, SHARE)), place(bulkhead.enter(&one, SHARE))];
    assert_eq!(bulkhead.enter(&one, SHARE).unwrap_err(), Full::Agent);
    let third = place(bulkhead.enter(&other, SHARE));
    assert_eq!(bulkhead.enter(&other, SHARE).unwrap_err(), Full::All);
    drop((kept, third));
    assert_eq!(bulkhead.depth(), (0, 0));
    assert!(bulkhead.inner().agents.is_empty());
}

#[test]
fn a_queue_is_bounded_for_all_and_for_one() {
    let (bulkhead, one, other) = (Arc::new(Bulkhead::new(ROOM)), Arc::from("agent:a"), Arc::from("agent:b"));
    let _kept = [place(bulkhead.enter(&one, SHARE)), place(bulkhead.enter(&one, SHARE)), place(bulkhead.enter(&other, SHARE))];
    let mut waiting: Vec<_> = (0..4).map(|_| wait(bulkhead.enter(&one, SHARE))).collect();
    assert_eq!(bulkhead.enter(&one, SHARE).unwrap_err(), Full::Agent);
    waiting.extend((0..2).map(|_| wait(bulkhead.enter(&other, SHARE))));
    assert_eq!(bulkhead.enter(&other, SHARE).unwrap_err(), Full::All);
    assert_eq!(bulkhead.depth(), (3, 6));
    drop(waiting);
    assert_eq!(bulkhead.depth(), (3, 0));
    assert!(bulkhead.inner().turns.is_empty());
}

#[test]
fn one_agent_with_a_thousand_calls_waiting_delays_another_by_one_call() {
    let bulkhead = Arc::new(Bulkhead::new(Room { places: 1, queue: 2_000 }));
    let (flood, other): (Arc<str>, Arc<str>) = (Arc::from("agent:flood"), Arc::from("agent:other"));
    let all = Room { places: 1, queue: 1_500 };
    let mut running = place(bulkhead.enter(&flood, all));
    let mut flood: Vec<Wait> = (0..1_000).map(|_| wait(bulkhead.enter(&flood, all))).collect();
    let mut others: Vec<Wait> = (0..10).map(|_| wait(bulkhead.enter(&other, all))).collect();

    let mut served_before = 0;
    while let Some(next) = others.first_mut() {
        drop(running);
        running = match given(next) {
            Some(place) => {
                others.remove(0);
                place
            }
            None => {
                served_before += 1;
                let mut first = flood.remove(0);
                given(&mut first).expect("one of the two is next")
            }
        };
    }
    assert_eq!(served_before, 10, "turn and turn about");
}

#[test]
fn a_place_on_its_way_to_somebody_who_left_goes_to_the_next() {
    let (bulkhead, one) = (Arc::new(Bulkhead::new(Room { places: 1, queue: 5 })), Arc::from("agent:a"));
    let share = Room { places: 1, queue: 5 };
    let running = place(bulkhead.enter(&one, share));
    let first = wait(bulkhead.enter(&one, share));
    let mut second = wait(bulkhead.enter(&one, share));
    drop(running);
    assert!(given(&mut second).is_none());
    drop(first);
    assert!(given(&mut second).is_some());
}

#[test]
fn a_share_that_grows_lets_those_on_who_wait() {
    let (bulkhead, one) = (Arc::new(Bulkhead::new(Room { places: 4, queue: 5 })), Arc::from("agent:a"));
    let _kept = place(bulkhead.enter(&one, Room { places: 1, queue: 5 }));
    let mut first = wait(bulkhead.enter(&one, Room { places: 1, queue: 5 }));
    assert!(given(&mut first).is_none());
    let mut second = wait(bulkhead.enter(&one, Room { places: 4, queue: 5 }));
    let _places = [given(&mut first).unwrap(), given(&mut second).unwrap()];
    assert_eq!(bulkhead.depth(), (3, 0));
}

/// What somebody does next.
#[derive(Clone, Debug)]
enum Does {
    Enters(usize),
    /// Whoever holds this place, counted round, gives it back.
    Leaves(usize),
    /// Whoever waits there, counted round, gives up.
    GivesUp(usize),
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        4 => (0..4_usize).prop_map(Does::Enters),
        3 => any::<usize>().prop_map(Does::Leaves),
        1 => any::<usize>().prop_map(Does::GivesUp),
    ]
}

/// The same places by the words of the invariants: lists, looked through from the front.
#[derive(Default)]
struct Model {
    held: Vec<(usize, u32)>,
    /// Each agent's waiting calls, and whose turn it is.
    queues: BTreeMap<usize, VecDeque<u32>>,
    turns: VecDeque<usize>,
}

impl Model {
    fn holds(&self, agent: usize) -> usize {
        self.held.iter().filter(|(holder, _)| *holder == agent).count()
    }

    fn waiting(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    fn enter(&mut self, agent: usize, call: u32) -> Result<(), Full> {
        let own = self.queues.get(&agent).map_or(0, VecDeque::len);
        if self.held.len() < ROOM.places && self.holds(agent) < SHARE.places {
            self.held.push((agent, call));
        } else if own >= SHARE.queue {
            return Err(Full::Agent);
        } else if self.waiting() >= ROOM.queue {
            return Err(Full::All);
        } else {
            self.queues.entry(agent).or_default().push_back(call);
            if own == 0 {
                self.turns.push_back(agent);
            }
        }
        Ok(())
    }

    fn leave(&mut self, call: u32) {
        self.held.retain(|(_, held)| *held != call);
        let Some(at) = self.turns.iter().position(|agent| self.held.len() < ROOM.places && self.holds(*agent) < SHARE.places) else {
            return;
        };
        let agent = self.turns.remove(at).unwrap();
        let queue = self.queues.get_mut(&agent).unwrap();
        let next = queue.pop_front().unwrap();
        if !queue.is_empty() {
            self.turns.push_back(agent);
        }
        self.held.push((agent, next));
    }

    fn give_up(&mut self, call: u32) {
        for (agent, queue) in &mut self.queues {
            if queue.iter().any(|waiting| *waiting == call) {
                queue.retain(|waiting| *waiting != call);
                if queue.is_empty() {
                    self.turns.retain(|waiting| waiting != agent);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn places_go_to_whom_the_model_gives_them(steps in prop::collection::vec(does(), 1..120)) {
        let bulkhead = Arc::new(Bulkhead::new(ROOM));
        let names: Vec<Arc<str>> = (0..4).map(|agent| Arc::from(format!("agent:{agent}"))).collect();
        let (mut model, mut held, mut waits) = (Model::default(), BTreeMap::new(), BTreeMap::new());
        for (call, step) in (0..).zip(steps) {
            match step {
                Does::Enters(agent) => {
                    let expected = model.enter(agent, call);
                    match bulkhead.enter(&names[agent], SHARE) {
                        Ok(Entered::Place(place)) => drop(held.insert(call, place)),
                        Ok(Entered::Waits(wait)) => drop(waits.insert(call, wait)),
                        Err(full) => prop_assert_eq!(expected, Err(full)),
                    }
                }
                Does::Leaves(at) if !held.is_empty() => {
                    let call = *held.keys().nth(at % held.len()).unwrap();
                    model.leave(call);
                    held.remove(&call);
                }
                Does::GivesUp(at) if !waits.is_empty() => {
                    let call = *waits.keys().nth(at % waits.len()).unwrap();
                    model.give_up(call);
                    waits.remove(&call);
                }
                Does::Leaves(_) | Does::GivesUp(_) => {}
            }
            let calls: Vec<u32> = waits.keys().copied().collect();
            for call in calls {
                if let Some(place) = given(waits.get_mut(&call).unwrap()) {
                    held.insert(call, place);
                    waits.remove(&call);
                }
            }
            let mut expected: Vec<u32> = model.held.iter().map(|(_, call)| *call).collect();
            expected.sort_unstable();
            prop_assert_eq!(held.keys().copied().collect::<Vec<_>>(), expected);
            prop_assert_eq!(bulkhead.depth(), (held.len(), waits.len()));
            prop_assert!(bulkhead.inner().agents.len() <= held.len() + waits.len());
        }
    }
}
