//! Places of which there is a bounded number, and a bounded queue of those who wait for one.
//!
//! Owns: who has a place, who waits, and whose turn it is. Leaves to others: how long somebody waits, and what is done in a place.
//! [`super::slots`] counts such places where nobody waits.
//!
//! INVARIANT: a free place goes to the agents in turn, and within an agent to who came first: whoever has a thousand calls waiting
//! has one turn in each round, as everybody has.
//! INVARIANT: nobody waits while there is a free place that they may take.
//! INVARIANT: who gives up waiting leaves the queue at once; a place that was on its way to them goes to the next.
//! INVARIANT: an agent that has no place and waits for none takes no memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::slots::Full;

/// How many places there are, and how many may wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Places, or one agent's share of them.
    pub places: usize,
    /// Waiting calls, or those of one agent. With 0 nobody waits: who finds no place is turned away at once.
    pub queue: usize,
}

/// All places of one kind.
#[derive(Debug)]
pub struct Bulkhead {
    room: Room,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    taken: usize,
    waiting: usize,
    next_ticket: u64,
    agents: HashMap<Arc<str>, Agent>,
    /// The agents that wait, the next one first.
    turns: VecDeque<Arc<str>>,
}

#[derive(Debug, Default)]
struct Agent {
    taken: usize,
    /// Its share of the places, as it was told last.
    share: usize,
    /// In the order in which they came, so that tickets ascend.
    queue: VecDeque<(u64, oneshot::Sender<Place>)>,
}

/// What came of asking for a place.
#[derive(Debug)]
pub enum Entered {
    /// There was one.
    Place(Place),
    /// There will be.
    Waits(Wait),
}

/// A place, given back when dropped.
#[derive(Debug)]
pub struct Place(Option<(Arc<Bulkhead>, Arc<str>)>);

/// Somebody in the queue. Dropped, it leaves.
#[derive(Debug)]
pub struct Wait {
    bulkhead: Arc<Bulkhead>,
    agent: Arc<str>,
    ticket: u64,
    place: oneshot::Receiver<Place>,
}

impl Bulkhead {
    /// So much room for all agents together.
    pub fn new(room: Room) -> Self {
        Self { room, inner: Mutex::default() }
    }

    /// Takes a place for an agent that may have `share`, or has it wait for one.
    ///
    /// # Errors
    /// Whose bound is reached: that of the places where nobody may wait, else that of the queue.
    pub fn enter(self: &Arc<Self>, agent: &Arc<str>, share: Room) -> Result<Entered, Full> {
        let mut inner = self.inner();
        let is_full = inner.taken >= self.room.places;
        if let Some(own) = inner.agents.get_mut(agent) {
            own.share = share.places;
            if !is_full && own.taken < share.places && own.queue.is_empty() {
                own.taken += 1;
                inner.taken += 1;
                return Ok(Entered::Place(Place::new(self, agent)));
            }
        } else if !is_full && share.places > 0 {
            inner.agents.insert(Arc::clone(agent), Agent { taken: 1, share: share.places, ..Agent::default() });
            inner.taken += 1;
            return Ok(Entered::Place(Place::new(self, agent)));
        }
        let waits = inner.queue(agent, share, self.room.queue, is_full);
        drop(inner);
        let (ticket, place) = waits?;
        // A share may have grown since the agent's last call, and then its queue moves on.
        self.pass_on();
        Ok(Entered::Waits(Wait { bulkhead: Arc::clone(self), agent: Arc::clone(agent), ticket, place }))
    }

    /// How many places are taken, and how many calls wait.
    pub fn depth(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.taken, inner.waiting)
    }

    /// Hands free places to whoever is next.
    fn pass_on(self: &Arc<Self>) {
        loop {
            let Some((agent, waiter)) = self.inner().next(self.room.places) else { return };
            if let Err(mut unwanted) = waiter.send(Place::new(self, &agent)) {
                // Its caller has just left. Given back here, and not by its drop, which would come back here and so on.
                unwanted.0 = None;
                self.inner().leave(&agent);
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Puts somebody at the end of the agent's queue.
    fn queue(&mut self, agent: &Arc<str>, share: Room, most: usize, is_full: bool) -> Result<(u64, oneshot::Receiver<Place>), Full> {
        let own = self.agents.get(agent).map_or(0, |own| own.queue.len());
        if most == 0 || share.queue == 0 {
            return Err(if is_full { Full::All } else { Full::Agent });
        }
        if own >= share.queue {
            return Err(Full::Agent);
        }
        if self.waiting >= most {
            return Err(Full::All);
        }
        let (give, place) = oneshot::channel();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.waiting += 1;
        let entry = self.agents.entry(Arc::clone(agent)).or_default();
        entry.share = share.places;
        entry.queue.push_back((ticket, give));
        if own == 0 {
            self.turns.push_back(Arc::clone(agent));
        }
        Ok((ticket, place))
    }

    /// Takes a place for the agent whose turn it is, where there is one that it may have.
    fn next(&mut self, places: usize) -> Option<(Arc<str>, oneshot::Sender<Place>)> {
        if self.taken >= places {
            return None;
        }
        let may = |agent: &Arc<str>| self.agents.get(agent).is_some_and(|own| own.taken < own.share);
        let at = self.turns.iter().position(may)?;
        let agent = self.turns.remove(at)?;
        let own = self.agents.get_mut(&agent)?;
        let (_, waiter) = own.queue.pop_front()?;
        own.taken += 1;
        self.taken += 1;
        self.waiting -= 1;
        if !own.queue.is_empty() {
            self.turns.push_back(Arc::clone(&agent));
        }
        Some((agent, waiter))
    }

    /// Gives one of the agent's places back.
    fn leave(&mut self, agent: &Arc<str>) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(own) = self.agents.get_mut(agent) {
            own.taken = own.taken.saturating_sub(1);
            self.forget(agent);
        }
    }

    /// Takes somebody out of the queue who is still in it.
    fn give_up(&mut self, agent: &Arc<str>, ticket: u64) {
        let Some(own) = self.agents.get_mut(agent) else { return };
        let Ok(at) = own.queue.binary_search_by_key(&ticket, |(ticket, _)| *ticket) else { return };
        own.queue.remove(at);
        self.waiting -= 1;
        if own.queue.is_empty() {
            self.turns.retain(|waiting| waiting != agent);
            self.forget(agent);
        }
    }

    fn forget(&mut self, agent: &Arc<str>) {
        if self.agents.get(agent).is_some_and(|own| own.taken == 0 && own.queue.is_empty()) {
            self.agents.remove(agent);
        }
    }
}

impl Place {
    fn new(bulkhead: &Arc<Bulkhead>, agent: &Arc<str>) -> Self {
        Self(Some((Arc::clone(bulkhead), Arc::clone(agent))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((bulkhead, agent)) = self.0.take() else { return };
        let mut inner = bulkhead.inner();
        inner.leave(&agent);
        let somebody_waits = inner.waiting > 0;
        drop(inner);
        if somebody_waits {
            bulkhead.pass_on();
        }
    }
}

impl Wait {
    /// Waits for the place; `None` only where the bulkhead's queue was lost, which does not happen while this is kept. May be called
    /// again where it was not waited for to the end.
    pub async fn place(&mut self) -> Option<Place> {
        (&mut self.place).await.ok()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // A place that is on its way falls back with the receiver.
        self.bulkhead.inner().give_up(&self.agent, self.ticket);
    }
}

#[cfg(test)]
mod tests;
