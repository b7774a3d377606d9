//! Places of which there is a bounded number: how many are taken, and how many of them are one agent's.
//!
//! Owns: the counts. Leaves to others: how many there are and what is done in them, such as calls of an upstream.
//! INVARIANT: an agent without a place takes no memory, so there are never more counts than places.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All are taken.
    All,
    /// The agent has its share.
    Agent,
}

/// All places of one kind.
#[derive(Debug)]
pub struct Slots {
    limit: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_agent: HashMap<Arc<str>, usize>,
}

/// A place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    slots: Arc<Slots>,
    agent: Arc<str>,
}

impl Slots {
    /// So many places for all agents together.
    pub fn new(limit: usize) -> Self {
        Self { limit, taken: Mutex::default() }
    }

    /// Takes a place for an agent that may have `share` of them.
    ///
    /// # Errors
    /// Whose bound is reached.
    pub fn take(self: &Arc<Self>, agent: &Arc<str>, share: usize) -> Result<Place, Full> {
        let mut taken = self.taken();
        if taken.all >= self.limit {
            return Err(Full::All);
        }
        match taken.by_agent.get_mut(agent) {
            Some(own) if *own >= share => return Err(Full::Agent),
            Some(own) => *own += 1,
            None => {
                taken.by_agent.insert(Arc::clone(agent), 1);
            }
        }
        taken.all += 1;
        Ok(Place { slots: Arc::clone(self), agent: Arc::clone(agent) })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        taken.all = taken.all.saturating_sub(1);
        match taken.by_agent.get_mut(&self.agent) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.by_agent.remove(&self.agent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_its_share_and_all_together_the_limit() {
        let (slots, one, other) = (Arc::new(Slots::new(3)), Arc::from("agent:a"), Arc::from("agent:b"));
        let first = slots.take(&one, 2).unwrap();
        let second = slots.take(&one, 2).unwrap();
        assert_eq!(slots.take(&one, 2).unwrap_err(), Full::Agent);
        let third = slots.take(&other, 2).unwrap();
        assert_eq!(slots.take(&other, 2).unwrap_err(), Full::All);
        drop(first);
        let again = slots.take(&one, 2).unwrap();
        drop((second, third, again));
        assert!(slots.taken().by_agent.is_empty());
        assert_eq!(slots.taken().all, 0);
    }
}
