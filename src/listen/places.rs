//! Who holds a connection: all of them together are bounded, and so is what one address holds of them.
//!
//! INVARIANT: a place is given back when its [`Place`] is dropped, whatever ended the connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Listen;
use crate::identity::network;

/// Between two lines of the log about connections that were turned away.
const PAUSE: Duration = Duration::from_secs(10);

/// The places for connections.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    share: usize,
    held: Arc<Held>,
    turned: Arc<Mutex<Turned>>,
}

/// Connections that were turned away and not told of yet.
#[derive(Debug, Default)]
struct Turned {
    count: u64,
    /// Whether the pause after a line of the log still lasts.
    is_pause: bool,
}

/// How many places each network holds; those that hold none are not listed.
#[derive(Debug, Default)]
struct Held(Mutex<HashMap<IpAddr, usize>>);

/// One connection's place.
#[derive(Debug)]
pub struct Place {
    peer: IpAddr,
    held: Arc<Held>,
    _free: OwnedSemaphorePermit,
}

impl Places {
    /// As many as the operator allows.
    pub fn new(bounds: &Listen) -> Self {
        let all = bounds.max_connections.size();
        let share = (all * bounds.address_share_percent.size()).div_ceil(100);
        Self { free: Arc::new(Semaphore::new(all)), share, held: Arc::default(), turned: Arc::default() }
    }

    /// Waits until there is a place for anybody.
    pub async fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_owned().await.ok()
    }

    /// Gives the free place to a peer, unless its network holds its whole share.
    pub fn take(&self, free: OwnedSemaphorePermit, peer: IpAddr) -> Option<Place> {
        let peer = network(peer);
        let mut held = self.held.lock();
        let count = held.entry(peer).or_default();
        if *count >= self.share {
            return None;
        }
        *count += 1;
        drop(held);
        Some(Place { peer, held: Arc::clone(&self.held), _free: free })
    }
}

impl Places {
    /// How many connections there are.
    pub fn held(&self) -> usize {
        self.held.lock().values().sum()
    }

    /// Notes that a connection was turned away, and has the log say so: at once, then after each pause how many more they were.
    pub fn turned_away(&self, peer: IpAddr) {
        let peer = network(peer);
        let Some(count) = lock(&self.turned).note() else { return };
        warn(peer, count);
        let turned = Arc::clone(&self.turned);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                let Some(count) = lock(&turned).end_pause() else { return };
                warn(peer, count);
            }
        });
    }
}

fn warn(peer: IpAddr, count: u64) {
    tracing::warn!(count, %peer, "connections were closed at once: their address holds its share of the connections (`listen.address_share_percent`)");
}

impl Turned {
    /// How many are to be told of now; `None` within the pause.
    fn note(&mut self) -> Option<u64> {
        self.count += 1;
        (!std::mem::replace(&mut self.is_pause, true)).then(|| std::mem::take(&mut self.count))
    }

    /// How many came in the pause, after which another begins; without any, none does.
    fn end_pause(&mut self) -> Option<u64> {
        self.is_pause = self.count > 0;
        self.is_pause.then(|| std::mem::take(&mut self.count))
    }
}

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        lock(&self.0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if let Some(count) = held.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn neighbours_of_one_ipv6_network_share_what_an_address_may_hold() {
        let places = Places::new(&Listen { max_connections: serde_json::from_str("3").unwrap(), ..Listen::default() });
        let take = async |peer: &str| places.take(places.free().await.unwrap(), peer.parse().unwrap());
        let first = take("2001:db8::1").await.unwrap();
        let _second = take("2001:db8::2").await.unwrap();

        assert!(take("2001:db8::3").await.is_none(), "half of three, rounded up, are taken");
        assert!(take("2001:db8:0:1::1").await.is_some());

        drop(first);
        assert!(take("2001:db8::3").await.is_some());
        assert_eq!(places.held.lock().len(), 1, "who holds nothing is forgotten");
    }

    #[test]
    fn those_turned_away_are_told_at_once_and_then_by_their_number_after_each_pause() {
        let mut turned = Turned::default();
        assert_eq!([turned.note(), turned.note(), turned.note()], [Some(1), None, None]);
        assert_eq!((turned.end_pause(), turned.note(), turned.end_pause()), (Some(2), None, Some(1)));
        assert_eq!((turned.end_pause(), turned.note()), (None, Some(1)), "after a quiet pause the next is told at once");
    }
}
