//! Bytes of messages that are held in memory: bodies that are read or worked on, and answers that their clients have not taken.
//!
//! Owns: how many there are, and how many of them are one agent's. Leaves to others: what is read, and what is answered.
//!
//! A message of HTTP/1.1 of at most [`FREE`] bytes is not counted: it is part of what its connection may cost. Over HTTP/2 a connection has many,
//! so there each counts at least so much.
//!
//! INVARIANT: a body never has more room than was counted for it, whatever its head declares; what is declared and never sent counts nothing.
//! INVARIANT: what one agent holds beyond its share is not held against the others: to them it holds its share.
//! INVARIANT: an agent that has no other answer to take gets its answer, however large it is: it may be beyond the agent's share, in a room of
//! its own of half of all, or alone in it. Any other answer is within its agent's share, or is not held.
//! INVARIANT: answers have half as much again as bodies, so that calls that were let in can be answered when no more are.
//! INVARIANT: an agent that holds nothing takes no memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};

use crate::config::Listen;
use crate::limit::slots::Full;

/// What a message may have without being counted, in bytes.
pub const FREE: usize = 16 << 10;

/// All bytes that are held.
#[derive(Debug)]
pub struct Buffers {
    most: usize,
    share: usize,
    held: Mutex<Held>,
    /// What is held in all, to look at without the lock.
    all: AtomicUsize,
}

#[derive(Debug, Default)]
struct Held {
    agents: HashMap<Arc<str>, Own>,
    /// What is held in all, of each agent no more than its share.
    within: usize,
    /// What agents hold beyond their shares.
    beyond: usize,
}

/// What one agent holds.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    bytes: usize,
    /// Those of them that are answers.
    answers: usize,
}

/// Bytes that are counted for an agent until this is dropped.
#[derive(Debug)]
pub struct Taken {
    buffers: Arc<Buffers>,
    agent: Arc<str>,
    bytes: usize,
    /// Those of them that are answers.
    answers: usize,
}

/// A text, and what is counted for it.
struct Counted<T> {
    text: T,
    _taken: Taken,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Counted<T> {
    fn as_ref(&self) -> &[u8] {
        self.text.as_ref()
    }
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It has more bytes than one may have.
    TooLarge,
    /// Too much is held already.
    Full(Full),
    /// It broke off.
    Broken,
}

impl Buffers {
    /// As much as the operator allows.
    pub fn new(bounds: &Listen) -> Self {
        let most = bounds.max_buffered_bytes.size();
        let share = usize::try_from(most as u128 * u128::from(bounds.buffered_share_percent.value()) / 100).unwrap_or(usize::MAX);
        Self { most, share, held: Mutex::default(), all: AtomicUsize::new(0) }
    }

    /// Whether an agent may bring more.
    ///
    /// # Errors
    /// Whose bound is reached.
    pub fn room(&self, agent: &Arc<str>) -> Result<(), Full> {
        // Mostly nothing is held, and then nobody has to wait for a lock.
        if self.bytes() == 0 { Ok(()) } else { self.fits(&self.held(), agent, 1, self.most) }
    }

    /// How many bytes are held.
    pub fn bytes(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Reads a body of at most `most` bytes. `is_alone` says that its connection has no other.
    ///
    /// # Errors
    /// Why it was not read to its end.
    pub async fn read(self: &Arc<Self>, agent: &Arc<str>, body: Incoming, most: usize, is_alone: bool) -> Result<Bytes, Unread> {
        let size = body.size_hint();
        if size.lower() > most as u64 {
            return Err(Unread::TooLarge);
        }
        if is_alone && size.upper().is_some_and(|upper| upper <= FREE as u64) {
            return match Limited::new(body, most).collect().await {
                Ok(collected) => Ok(collected.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => Err(Unread::TooLarge),
                Err(_) => Err(Unread::Broken),
            };
        }
        let mut taken = self.nothing(agent);
        // No more than it can become.
        let declared = size.upper().and_then(|upper| usize::try_from(upper).ok()).map_or(most, |upper| upper.min(most));
        let mut room = if is_alone { FREE } else { 0 };
        let mut text: Vec<u8> = Vec::new();
        let mut body = body;
        while let Some(frame) = body.frame().await {
            // Trailers say nothing here.
            let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            let length = text.len().saturating_add(data.len());
            if length > most {
                return Err(Unread::TooLarge);
            }
            if length > text.capacity() {
                let capacity = length.max((2 * text.capacity()).min(declared));
                let counted = capacity.max(FREE);
                taken.grow(counted.saturating_sub(room), self.most).map_err(Unread::Full)?;
                room = room.max(counted);
                text.reserve_exact(capacity - text.len());
            }
            text.extend_from_slice(&data);
        }
        Ok(Bytes::from_owner(Counted { text, _taken: taken }))
    }

    /// Room for an answer of so many bytes, until the client has taken it; none is needed for a small one.
    ///
    /// # Errors
    /// Why it is not to be held.
    pub fn answer(self: &Arc<Self>, agent: &Arc<str>, bytes: usize) -> Result<Option<Taken>, Full> {
        if bytes <= FREE {
            return Ok(None);
        }
        let mut held = self.held();
        let own = held.own(agent);
        let within = self.fits(&held, agent, bytes, self.most_of_answers());
        if within == Err(Full::Agent) && own.answers == 0 {
            let room = self.share.saturating_sub(own.bytes);
            let most = (self.most / 2).max(if held.beyond == 0 { usize::MAX } else { 0 });
            if held.within.saturating_add(room) > self.most_of_answers() || held.beyond.saturating_add(bytes - room) > most {
                return Err(Full::All);
            }
        } else {
            within?;
        }
        self.change(&mut held, agent, |own| Own { bytes: own.bytes + bytes, answers: own.answers + bytes });
        let mut taken = self.nothing(agent);
        (taken.bytes, taken.answers) = (bytes, bytes);
        Ok(Some(taken))
    }

    /// Room for what is said before an answer, until the client has taken it; none is needed for little.
    ///
    /// # Errors
    /// Why it is not to be held.
    pub fn said(self: &Arc<Self>, agent: &Arc<str>, bytes: usize) -> Result<Option<Taken>, Full> {
        if bytes <= FREE {
            return Ok(None);
        }
        let mut taken = self.nothing(agent);
        taken.grow(bytes, self.most_of_answers())?;
        Ok(Some(taken))
    }

    fn nothing(self: &Arc<Self>, agent: &Arc<str>) -> Taken {
        Taken { buffers: Arc::clone(self), agent: Arc::clone(agent), bytes: 0, answers: 0 }
    }

    fn most_of_answers(&self) -> usize {
        self.most.saturating_add(self.most / 2)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room within the agent's share, and within this much of all.
    fn fits(&self, held: &Held, agent: &Arc<str>, more: usize, most: usize) -> Result<(), Full> {
        if held.own(agent).bytes.saturating_add(more) > self.share {
            return Err(Full::Agent);
        }
        if held.within.saturating_add(more) > most { Err(Full::All) } else { Ok(()) }
    }

    /// Under the lock, so that nobody comes between this and what was looked at before.
    fn change(&self, held: &mut Held, agent: &Arc<str>, change: impl FnOnce(Own) -> Own) {
        let before = held.own(agent);
        let after = change(before);
        let within = |own: Own| own.bytes.min(self.share);
        held.within = held.within + within(after) - within(before);
        held.beyond = held.beyond + (after.bytes - within(after)) - (before.bytes - within(before));
        match held.agents.get_mut(agent) {
            _ if after.bytes == 0 => drop(held.agents.remove(agent)),
            Some(own) => *own = after,
            None => drop(held.agents.insert(Arc::clone(agent), after)),
        }
        self.all.store(held.within + held.beyond, Ordering::Relaxed);
    }
}

impl Held {
    fn own(&self, agent: &Arc<str>) -> Own {
        self.agents.get(agent).copied().unwrap_or_default()
    }
}

impl Taken {
    /// Counts more, within the agent's share and this much of all.
    fn grow(&mut self, more: usize, most: usize) -> Result<(), Full> {
        let mut held = self.buffers.held();
        self.buffers.fits(&held, &self.agent, more, most)?;
        self.buffers.change(&mut held, &self.agent, |own| Own { bytes: own.bytes + more, ..own });
        self.bytes += more;
        Ok(())
    }

    /// What is counted for several messages of one agent that go out as one.
    pub fn of_all(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        parts.into_iter().reduce(|mut all, mut part| {
            all.bytes += std::mem::take(&mut part.bytes);
            all.answers += std::mem::take(&mut part.answers);
            all
        })
    }

    /// The text, counted as this until it is dropped.
    pub fn with(taken: Option<Self>, text: Bytes) -> Bytes {
        match taken {
            Some(taken) => Bytes::from_owner(Counted { text, _taken: taken }),
            None => text,
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = self.buffers.held();
        let less = |own: Own| Own { bytes: own.bytes.saturating_sub(self.bytes), answers: own.answers.saturating_sub(self.answers) };
        self.buffers.change(&mut held, &self.agent, less);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// Of 64 MiB, of which an agent may hold half.
    fn buffers() -> (Arc<Buffers>, [Arc<str>; 4]) {
        (Arc::new(Buffers::new(&Listen::default())), ["a", "b", "c", "d"].map(Arc::from))
    }

    #[test]
    fn an_agents_only_answer_fits_and_no_other_beyond_its_share() {
        let (buffers, [a, b, ..]) = buffers();
        let large = buffers.answer(&a, 200 * MIB).unwrap();
        assert_eq!(buffers.answer(&a, MIB).unwrap_err(), Full::Agent);
        assert_eq!((buffers.room(&a), buffers.room(&b)), (Err(Full::Agent), Ok(())));
        assert!(buffers.answer(&a, FREE).is_ok(), "what is not counted always fits");
        assert_eq!(buffers.answer(&b, 33 * MIB).unwrap_err(), Full::All, "one at a time is so large");
        let within = buffers.answer(&b, 32 * MIB).unwrap();
        assert_eq!(buffers.bytes(), 232 * MIB);
        drop((large, within));
        assert_eq!(buffers.bytes(), 0);
        assert!(buffers.held().agents.is_empty());
    }

    #[test]
    fn answers_have_half_as_much_again_as_bodies_and_so_have_those_beyond_a_share() {
        let (buffers, [a, b, c, d]) = buffers();
        let beyond = [buffers.answer(&a, 48 * MIB), buffers.answer(&b, 48 * MIB)];
        assert!(beyond.iter().all(Result::is_ok));
        assert_eq!((buffers.room(&c), buffers.said(&c, MIB).is_ok()), (Err(Full::All), true));
        assert_eq!(buffers.answer(&c, 33 * MIB).unwrap_err(), Full::All);
        let within = buffers.answer(&c, 32 * MIB);
        assert!(within.is_ok());
        assert_eq!((buffers.bytes(), buffers.answer(&d, MIB).unwrap_err()), (128 * MIB, Full::All));
    }

    #[test]
    fn what_an_agent_sends_is_within_its_share_with_its_answers() {
        let (buffers, [a, ..]) = buffers();
        let body = buffers.said(&a, 20 * MIB).unwrap();
        let only = buffers.answer(&a, 20 * MIB).unwrap();
        assert_eq!(buffers.answer(&a, MIB).unwrap_err(), Full::Agent);
        drop(body);
        let parts = [only.unwrap(), buffers.answer(&a, 12 * MIB).unwrap().unwrap()];
        let both = Taken::with(Taken::of_all(parts), Bytes::from_static(b"both"));
        assert_eq!((buffers.bytes(), buffers.answer(&a, MIB).unwrap_err()), (32 * MIB, Full::Agent));
        drop(both);
        assert_eq!(buffers.bytes(), 0);
    }

    #[test]
    fn what_an_agent_lets_go_is_taken_off_what_it_holds() {
        let (buffers, [a, ..]) = buffers();
        let held = |buffers: &Buffers| (buffers.bytes(), buffers.held().agents.values().map(|own| own.bytes).collect::<Vec<_>>());
        let [first, second] = [3 * FREE, 2 * FREE].map(|bytes| buffers.answer(&a, bytes).unwrap());
        assert_eq!(held(&buffers), (5 * FREE, vec![5 * FREE]));
        drop(first);
        assert_eq!(held(&buffers), (2 * FREE, vec![2 * FREE]));
        drop(second);
        assert_eq!(held(&buffers), (0, vec![]));
    }
}
