//! The sessions with one legacy HTTP server: one for each principal, and one of our own.
//!
//! Leaves to others: opening and ending them (`http_link`).
//! INVARIANT: a session is found only under the key that it was opened for.
//! INVARIANT: there are at most [`MAX_SESSIONS`]; a session in use is never given up for another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::inbound::Greeting;
use super::request::Level;

/// Sessions with one server.
pub(super) const MAX_SESSIONS: usize = 1024;
/// How long an unused session is kept.
const IDLE: Duration = Duration::from_secs(600);

/// A session, as `initialize` opened it.
#[derive(Clone, Debug)]
pub(super) struct Session {
    /// `Mcp-Session-Id`, where the server gave one.
    pub(super) id: Option<HeaderValue>,
    /// What the server said.
    pub(super) greeting: Greeting,
    /// The log messages that the server was told to send.
    pub(super) level: Arc<Level>,
}

/// A session that is or will be open. Whoever holds it is using it.
pub(super) type Place = Arc<OnceCell<Session>>;

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Box<str>, Entry>>);

#[derive(Debug)]
struct Entry {
    place: Place,
    used: Instant,
}

impl Entry {
    fn is_free(&self) -> bool {
        Arc::strong_count(&self.place) == 1
    }
}

impl Sessions {
    /// The place of `key`, and one that was given up for it. `None` when all are in use.
    pub(super) fn take(&self, key: &str) -> Option<(Place, Option<Place>)> {
        let mut entries = self.entries();
        let used = Instant::now();
        if let Some(entry) = entries.get_mut(key) {
            entry.used = used;
            return Some((Arc::clone(&entry.place), None));
        }
        let mut evicted = None;
        if entries.len() >= MAX_SESSIONS {
            let oldest = entries.iter().filter(|(_, entry)| entry.is_free()).min_by_key(|(_, entry)| entry.used);
            let oldest = oldest.map(|(key, _)| key.clone())?;
            evicted = entries.remove(&oldest).map(|entry| entry.place);
        }
        let place = Place::default();
        entries.insert(key.into(), Entry { place: Arc::clone(&place), used });
        Some((place, evicted))
    }

    /// Gives up this very session, so that the next call of `key` opens another.
    pub(super) fn forget(&self, key: &str, place: &Place) {
        let mut entries = self.entries();
        if entries.get(key).is_some_and(|entry| Arc::ptr_eq(&entry.place, place)) {
            entries.remove(key);
        }
    }

    /// Takes out what nobody has used for a while.
    pub(super) fn idle(&self) -> Vec<Place> {
        let mut entries = self.entries();
        entries.extract_if(|_, entry| entry.is_free() && entry.used.elapsed() > IDLE).map(|(_, entry)| entry.place).collect()
    }

    /// Takes out all.
    pub(super) fn all(&self) -> Vec<Place> {
        self.entries().drain().map(|(_, entry)| entry.place).collect()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Box<str>, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_pool_gives_up_its_oldest_free_session_only() {
        let sessions = Sessions::default();
        let busy = sessions.take("p0").unwrap().0;
        for index in 1..MAX_SESSIONS {
            tokio::time::advance(Duration::from_millis(1)).await;
            sessions.take(&format!("p{index}")).unwrap();
        }
        let second = sessions.take("p1").unwrap().0;
        assert!(sessions.take("new").unwrap().1.is_some());
        assert!(Arc::ptr_eq(&busy, &sessions.take("p0").unwrap().0));
        assert!(Arc::ptr_eq(&second, &sessions.take("p1").unwrap().0));
        assert!(sessions.idle().is_empty());
        tokio::time::advance(IDLE * 2).await;
        assert_eq!(sessions.idle().len(), MAX_SESSIONS - 2);
    }

    #[tokio::test]
    async fn forgetting_a_session_does_not_touch_its_successor() {
        let sessions = Sessions::default();
        let old = sessions.take("p").unwrap().0;
        sessions.forget("p", &old);
        let new = sessions.take("p").unwrap().0;
        sessions.forget("p", &old);
        assert!(Arc::ptr_eq(&new, &sessions.take("p").unwrap().0));
    }
}
