//! Who holds a connection: all of them together are bounded, and so is what one address holds of them.
//!
//! INVARIANT: a place is given back when its [`Place`] is dropped, whatever ended the connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Listen;
use crate::identity::network;

/// The places for connections.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    share: usize,
    held: Arc<Held>,
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
        Self { free: Arc::new(Semaphore::new(all)), share, held: Arc::default() }
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

impl Held {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
}
