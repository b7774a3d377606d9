//! The resources of one server that somebody watches, whoever they are and however many.
//!
//! Owns: the set of their URIs, and the reports that one of them has changed. Leaves to others: telling the server (`listen`), and
//! who may be told (the gateway).
//! INVARIANT: one agent has no more than its share of what is watched; what nobody watches any more makes way.
//! INVARIANT: nothing is reported of a resource that nobody watches, and of each at most once in [`PAUSE`].

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::Upstream;
use super::shared::{Event, Shared};
use crate::error::{Code, Error};
use crate::limit::slots::{Place, Slots};

/// Most resources of one server that are watched at once, and how often one agent watches any of them.
const MAX_WATCHED: (usize, usize) = (4_096, 2_048);
/// How long a resource that nobody watches any more stays subscribed: an agent that opens its stream again watches the same ones.
const LINGER: Duration = Duration::from_secs(5);
/// How long after a change of the set the server is told: a stream begins with many at once.
const SETTLE: Duration = Duration::from_millis(10);
/// Longest wait for the server to know what it is to tell of.
const KNOWN: Duration = Duration::from_secs(5);
/// Parts of watched resources that have changed and were not reported yet; beyond, the whole is reported instead.
const MAX_PARTS: usize = 1_024;
/// The shortest time between two reports of the same resource.
const PAUSE: Duration = Duration::from_millis(100);

/// URIs, as the server calls its resources.
pub(super) type Uris = BTreeSet<Arc<str>>;

/// All that is watched of one server.
#[derive(Debug)]
pub(super) struct Watched {
    entries: Mutex<HashMap<Arc<str>, Entry>>,
    /// Counts each agent's share alone: a resource is one entry, however many watch it.
    shares: Arc<Slots>,
    /// What has changed and was not reported yet. Locked only while the entries are.
    news: Mutex<News>,
    changed: watch::Sender<()>,
    updated: Notify,
    /// What the server knows that it is to tell of; `None` while nobody tells it.
    known: watch::Sender<Option<Uris>>,
}

/// Somebody tells the server what is watched, as long as this is kept.
#[derive(Debug)]
pub(super) struct Telling<'w>(&'w Watched);

#[derive(Debug, Default)]
struct News {
    /// What is watched itself, in order.
    whole: Vec<String>,
    /// Parts of what is watched.
    parts: BTreeSet<String>,
}

#[derive(Debug)]
struct Entry {
    watchers: usize,
    /// When the last of them left.
    left: Instant,
    /// Has changed, and that was not reported yet.
    updated: bool,
}

/// Leave to hear of one resource. The server is told that it is not watched some time after the last is dropped.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    uri: Arc<str>,
    _share: Place,
}

impl Upstream {
    /// Watches a resource for an agent by the server's own URI: from now on [`Event::Updated`] tells that it has changed. A
    /// server that is not connected is told when it is.
    ///
    /// # Errors
    /// `concurrency_limited` when too many of its resources are watched, or too many by this agent.
    pub fn watch(&self, agent: &Arc<str>, uri: &str) -> Result<Watch, Error> {
        let shared = &self.0.shared;
        let full = |whose: &str| {
            let message = format!("{whose} as many resources of the tool server `{}` as can be at once", self.id());
            Error::new(Code::ConcurrencyLimited, message).suggest("watch less: end a subscription that is not needed first")
        };
        let share = shared.watched.shares.take(agent, MAX_WATCHED.1).map_err(|_| full("this agent watches"))?;
        let uri = shared.watched.enter(uri).ok_or_else(|| full("all agents together watch"))?;
        Ok(Watch { shared: Arc::clone(shared), uri, _share: share })
    }
}

impl Watch {
    /// Waits until the server knows that it is to tell of the resource, some seconds at most. A server that is not connected, or
    /// tells of no resource, is not waited for.
    pub fn known(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut known, uri) = (self.shared.watched.known.subscribe(), Arc::clone(&self.uri));
        async move {
            let held = known.wait_for(|known| known.as_ref().is_none_or(|known| known.contains(&uri)));
            let _ = timeout(KNOWN, held).await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.watched.leave(&self.uri);
    }
}

impl Default for Watched {
    fn default() -> Self {
        let (entries, news, updated) = (Mutex::default(), Mutex::default(), Notify::new());
        let (changed, known) = (watch::Sender::default(), watch::Sender::default());
        Self { entries, shares: Arc::new(Slots::new(usize::MAX)), news, changed, updated, known }
    }
}

impl Telling<'_> {
    /// The server knows of these, and of no others.
    pub(super) fn known(&self, uris: &Uris) {
        self.0.known.send_replace(Some(uris.clone()));
    }
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.known.send_replace(None);
    }
}

/// Whether a URI is that of a resource, or of a part of it (2025-11-25, resources, "Subscriptions").
pub fn is_within(uri: &str, whole: &str) -> bool {
    uri.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || whole.ends_with('/') || rest.starts_with(['/', '?', '#']))
}

impl Watched {
    fn enter(&self, uri: &str) -> Option<Arc<str>> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(uri) {
            entry.watchers += 1;
            return entries.get_key_value(uri).map(|(uri, _)| Arc::clone(uri));
        }
        if entries.len() >= MAX_WATCHED.0 {
            entries.retain(|_, entry| entry.watchers > 0);
            if entries.len() >= MAX_WATCHED.0 {
                return None;
            }
        }
        let uri: Arc<str> = uri.into();
        entries.insert(Arc::clone(&uri), Entry { watchers: 1, left: Instant::now(), updated: false });
        self.changed.send_replace(());
        Some(uri)
    }

    fn leave(&self, uri: &str) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(uri) else { return };
        entry.watchers -= 1;
        if entry.watchers == 0 {
            entry.left = Instant::now();
            self.changed.send_replace(());
        }
    }

    /// Begins to tell the server, which knows of nothing yet.
    pub(super) fn telling(&self) -> Telling<'_> {
        self.known.send_replace(Some(Uris::new()));
        Telling(self)
    }

    /// What the server is to tell of, and whether that includes what nobody watches any more.
    pub(super) fn wanted(&self) -> (Uris, bool) {
        let mut entries = self.entries();
        entries.retain(|_, entry| entry.watchers > 0 || entry.left.elapsed() < LINGER);
        (entries.keys().cloned().collect(), entries.values().any(|entry| entry.watchers == 0))
    }

    /// Waits until the server is to tell of others than those that are `held`, and gives them.
    pub(super) async fn other_than(&self, held: &Uris) -> Uris {
        let mut changed = self.changed.subscribe();
        loop {
            let (wanted, lingers) = self.wanted();
            if wanted != *held {
                sleep(SETTLE).await;
                return self.wanted().0;
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = sleep(LINGER), if lingers => {}
            }
        }
    }

    /// The server says that a resource, or a part of one, has changed.
    pub(super) fn updated(&self, uri: &str) {
        let mut entries = self.entries();
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.contains_key(uri) {
            if entries.get_mut(uri).is_none_or(|entry| std::mem::replace(&mut entry.updated, true)) {
                return;
            }
            news.whole.push(uri.to_owned());
        } else {
            let Some((whole, entry)) = entries.iter_mut().find(|(whole, _)| is_within(uri, whole)) else { return };
            if news.parts.len() < MAX_PARTS {
                news.parts.insert(uri.to_owned());
            } else if !std::mem::replace(&mut entry.updated, true) {
                news.whole.push(whole.to_string());
            }
        }
        self.updated.notify_one();
    }

    fn news(&self) -> Vec<String> {
        let mut entries = self.entries();
        let News { mut whole, parts } = std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner));
        whole.retain(|uri| entries.get_mut(uri.as_str()).is_some_and(|entry| std::mem::take(&mut entry.updated)));
        whole.extend(parts);
        whole
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports what has changed until the upstream is stopped. However often a server tells, nothing else waits for it.
pub(super) async fn report(shared: Arc<Shared>) {
    let reporting = async {
        loop {
            shared.watched.updated.notified().await;
            for uri in shared.watched.news() {
                shared.announce(Event::Updated { uri }).await;
            }
            sleep(PAUSE).await;
        }
    };
    let _: Option<std::convert::Infallible> = shared.stop.run_until_cancelled(reporting).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_set_changes_with_the_first_watcher_and_some_time_after_the_last() {
        let (watched, nothing) = (Watched::default(), Uris::new());
        let uri = watched.enter("a:b").unwrap();
        watched.enter("a:b").unwrap();
        let held = watched.other_than(&nothing).await;
        assert_eq!(held, Uris::from([Arc::from("a:b")]));
        watched.leave(&uri);
        watched.leave(&uri);
        let begun = Instant::now();
        assert_eq!(watched.other_than(&held).await, nothing);
        assert!(begun.elapsed() >= LINGER);
    }

    #[test]
    fn only_what_is_watched_is_news_once_and_in_order() {
        let watched = Watched::default();
        let order: Vec<String> = (0..20).rev().map(|number| format!("a:{number}")).collect();
        order.iter().for_each(|uri| drop(watched.enter(uri)));
        order.iter().chain(&order).for_each(|uri| watched.updated(uri));
        watched.updated("a:not-watched");
        assert_eq!((watched.news(), watched.news()), (order, vec![]));
    }

    #[test]
    fn a_part_of_what_is_watched_is_news_and_many_parts_are_one() {
        let watched = Watched::default();
        drop(watched.enter("file:///a"));
        ["file:///a/2", "file:///a/1", "file:///a/2", "file:///ab", "file:///a"].iter().for_each(|uri| watched.updated(uri));
        assert_eq!(watched.news(), ["file:///a", "file:///a/1", "file:///a/2"]);
        (0..10_000).for_each(|number| watched.updated(&format!("file:///a/{number}")));
        let news = watched.news();
        assert_eq!((news.len(), &*news[0]), (MAX_PARTS + 1, "file:///a"));
        assert!(is_within("file:///a", "file:///a") && is_within("file:///a/b", "file:///a") && is_within("x:/a", "x:/"));
        assert!(!is_within("file:///ab", "file:///a") && !is_within("file:///", "file:///a"));
    }

    #[test]
    fn no_more_than_so_many_are_watched() {
        let watched = Watched::default();
        assert!((0..MAX_WATCHED.0).all(|number| watched.enter(&number.to_string()).is_some()));
        assert!(watched.enter("one more").is_none() && watched.enter("0").is_some());
    }

    #[test]
    fn what_nobody_watches_any_more_makes_way() {
        let watched = Watched::default();
        assert!((0..MAX_WATCHED.0).all(|number| watched.enter(&number.to_string()).is_some()));
        watched.leave("7");
        assert!(watched.enter("one more").is_some() && watched.enter("7").is_none());
    }
}
