//! Bytes of messages that are held in memory: bodies that are read or worked on, and answers that their clients have not taken.
//!
//! Owns: how many there are, and how many of them are one agent's. Leaves to others: what is read, and what is answered.
//!
//! A message of HTTP/1.1 of at most [`FREE`] bytes is not counted: it is part of what its connection may cost. Over HTTP/2 a connection has many,
//! so there each counts at least so much.
//!
//! INVARIANT: a body never has more room than was counted for it, whatever its head declares; what is declared and never sent counts nothing.
//! INVARIANT: answers are never refused, since their calls are done; they count, so that no more is taken on.
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

type Held = HashMap<Arc<str>, usize>;

/// Bytes that are counted for an agent until this is dropped.
#[derive(Debug)]
struct Taken {
    buffers: Arc<Buffers>,
    agent: Arc<str>,
    bytes: usize,
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
        if self.bytes() == 0 { Ok(()) } else { self.fits(&self.held(), agent, 1) }
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
        let mut taken = Taken { buffers: Arc::clone(self), agent: Arc::clone(agent), bytes: 0 };
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
                taken.grow(counted.saturating_sub(room)).map_err(Unread::Full)?;
                room = room.max(counted);
                text.reserve_exact(capacity - text.len());
            }
            text.extend_from_slice(&data);
        }
        Ok(Bytes::from_owner(Counted { text, _taken: taken }))
    }

    /// An answer's bytes, counted until the client has taken them.
    pub fn answer(self: &Arc<Self>, agent: &Arc<str>, text: Bytes) -> Bytes {
        if text.len() <= FREE {
            return text;
        }
        let bytes = text.len();
        self.add(&mut self.held(), agent, bytes);
        Bytes::from_owner(Counted { text, _taken: Taken { buffers: Arc::clone(self), agent: Arc::clone(agent), bytes } })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fits(&self, held: &Held, agent: &Arc<str>, more: usize) -> Result<(), Full> {
        if self.bytes().saturating_add(more) > self.most {
            return Err(Full::All);
        }
        let own = held.get(agent).copied().unwrap_or_default();
        if own.saturating_add(more) > self.share { Err(Full::Agent) } else { Ok(()) }
    }

    /// Under the lock, so that nobody comes between this and what was looked at before.
    fn add(&self, held: &mut Held, agent: &Arc<str>, more: usize) {
        self.all.fetch_add(more, Ordering::Relaxed);
        match held.get_mut(agent) {
            Some(own) => *own += more,
            None => drop(held.insert(Arc::clone(agent), more)),
        }
    }
}

impl Taken {
    /// Counts more.
    fn grow(&mut self, more: usize) -> Result<(), Full> {
        let mut held = self.buffers.held();
        self.buffers.fits(&held, &self.agent, more)?;
        self.buffers.add(&mut held, &self.agent, more);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = self.buffers.held();
        self.buffers.all.fetch_sub(self.bytes, Ordering::Relaxed);
        match held.get_mut(&self.agent) {
            Some(own) if *own > self.bytes => *own -= self.bytes,
            _ => drop(held.remove(&self.agent)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_lets_go_is_taken_off_what_it_holds() {
        let (buffers, agent) = (Arc::new(Buffers::new(&Listen::default())), Arc::from("agent:a"));
        let held = |buffers: &Buffers| (buffers.bytes(), buffers.held().values().copied().collect::<Vec<_>>());
        let [first, second] = [3 * FREE, 2 * FREE].map(|bytes| buffers.answer(&agent, vec![b'x'; bytes].into()));
        assert_eq!(held(&buffers), (5 * FREE, vec![5 * FREE]));
        drop(first);
        assert_eq!(held(&buffers), (2 * FREE, vec![2 * FREE]));
        drop(second);
        assert_eq!(held(&buffers), (0, vec![]));
    }
}
