//! The task that tells people elsewhere of calls that wait: it takes what is owed, sends it, and records what came of it.
//!
//! Owns: when a message is sent again, and the records. Leaves to others: what is owed and in which words (`approval`), and the way there (`fetch`).
//!
//! INVARIANT: no call waits for it: a call notes in the database that something is owed, and goes on.
//! INVARIANT: it only tells. Nothing of an answer is read but its status.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::approval::Looked;
use crate::approval::webhook::{Message, Signing, Telling};
use crate::audit::record::Record;
use crate::audit::trail::approval_record;
use crate::config::Webhook;
use crate::fetch;
use crate::state::Owed;
use crate::upstream::Backoff;

/// Messages under way at once, each of another call.
const AT_ONCE: u32 = 8;
/// How long a claim holds, in seconds: longer than an exchange can take.
const CLAIM_S: i64 = 30;
/// How soon it is looked again for what other processes have left.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// The first pause after a failure and the longest, before jitter.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// How the webhook stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Messages that are owed.
    pub waiting: u64,
    /// Messages that were taken since the start.
    pub taken: u64,
    /// Attempts that failed since the start.
    pub failed: u64,
    /// Why the last attempt failed; `None` after a good one.
    pub failing: Option<String>,
}

/// The same where it is read and written.
#[derive(Debug, Default)]
pub struct Standings(Mutex<Standing>);

impl Standings {
    /// As it is now.
    pub fn now(&self) -> Standing {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running task.
#[derive(Debug)]
pub struct Teller {
    task: JoinHandle<()>,
    last: CancellationToken,
}

impl Teller {
    /// Starts it, where somebody is to be told; messages are sent in the name of this gateway.
    pub fn start(shared: &Arc<Shared>, gateway: &str) -> Option<Self> {
        let to = shared.approvals.webhook()?.clone();
        let last = CancellationToken::new();
        let task = Task { shared: Arc::clone(shared), to, gateway: gateway.into(), last: last.clone() };
        Some(Self { task: tokio::spawn(task.run()), last })
    }

    /// Sends what is due, for so long at most, and ends. What is not taken by then is told by the next process.
    pub async fn finish(mut self, patience: Duration) {
        self.last.cancel();
        if tokio::time::timeout(patience, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the webhook did not take the last messages in time; the next start sends them");
        }
    }
}

#[derive(Clone)]
struct Task {
    shared: Arc<Shared>,
    to: Webhook,
    gateway: Arc<str>,
    last: CancellationToken,
}

impl Task {
    async fn run(self) {
        if let Err(error) = self.shared.with_approvals(|approvals, _| approvals.owe_waiting()).await {
            tracing::error!(error = error.detail(), "it cannot be read of which calls nobody was told");
        }
        loop {
            // Asked before what is due is read: what came before the end is sent.
            let is_last = self.last.is_cancelled();
            let sent = self.send_due().await;
            let wait = self.note_waiting().await;
            if sent > 0 {
                continue;
            }
            if is_last {
                return;
            }
            tokio::select! {
                () = self.last.cancelled() => {}
                () = self.shared.approvals.owes() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Sends what is due now, some at once; how many there were.
    async fn send_due(&self) -> usize {
        let claimed = self.shared.with_approvals(|approvals, _| {
            let surplus = approvals.surplus_messages()?;
            Ok((surplus, approvals.claim(CLAIM_S, AT_ONCE)?))
        });
        let (surplus, claimed) = match claimed.await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::error!(error = error.detail(), "it cannot be read what the webhook is to be told");
                return 0;
            }
        };
        for owed in &surplus {
            self.give_up(owed, "too many messages wait").await;
        }
        let mut sending = JoinSet::new();
        let claimed =
            claimed.into_iter().filter(|one| !surplus.iter().any(|other| (&other.approval, &other.step) == (&one.approval, &one.step)));
        for owed in claimed {
            let task = self.clone();
            sending.spawn(async move { task.tell(owed).await });
        }
        sending.join_all().await.len()
    }

    async fn tell(&self, owed: Owed) {
        let (gateway, asked) = (Arc::clone(&self.gateway), owed.clone());
        let telling = self.shared.with_approvals(move |approvals, people| approvals.telling(&asked, &gateway, people)).await;
        match telling {
            Ok((looked, Telling::Send(message))) => match self.post(&message).await {
                Ok(()) => self.taken(&owed, looked.as_ref()).await,
                Err(why) => self.failed(&owed, looked.as_ref(), &why).await,
            },
            Ok((_, Telling::Late(why))) => self.give_up(&owed, why).await,
            // It is claimed, and tried again when that is over.
            Err(error) => {
                tracing::error!(approval = owed.approval, error = error.detail(), "it cannot be read what the webhook is to be told")
            }
        }
    }

    async fn post(&self, message: &Message) -> Result<(), String> {
        let url = fetch::parse(&self.to.url)?;
        let secret = self.to.secret.clone();
        let signing = tokio::task::spawn_blocking(move || Signing::read(&secret)).await.map_err(|error| error.to_string())??;
        let now = self.shared.audit.clock().unix_seconds();
        let mut headers = HeaderMap::new();
        let signed = [
            ("webhook-id", message.id.clone()),
            ("webhook-timestamp", now.to_string()),
            ("webhook-signature", signing.sign(&message.id, now, &message.body)),
        ];
        for (name, value) in signed {
            let value = HeaderValue::try_from(value).map_err(|error| error.to_string())?;
            headers.insert(HeaderName::from_static(name), value);
        }
        let answer = fetch::post_json(&url, headers, message.body.clone().into()).await?;
        if answer.status.is_success() { Ok(()) } else { Err(format!("the server answered {}", answer.status.as_u16())) }
    }

    async fn taken(&self, owed: &Owed, looked: Option<&Looked>) {
        let was_failing = {
            let mut standing = self.shared.told.lock();
            standing.taken += 1;
            standing.failing.take().is_some()
        };
        if was_failing {
            tracing::info!(host = self.to.host(), "the webhook takes messages again");
        }
        let tries = if owed.tries > 1 { format!(", at the {}. try", owed.tries) } else { String::new() };
        self.record(owed, looked, "told", format!("{} took it{tries}", self.to.host()));
        let told = owed.clone();
        self.noted(self.shared.with_approvals(move |approvals, _| approvals.message_taken(&told)).await);
    }

    /// Tries it again later. Only the first failure of a message is recorded, and the last.
    async fn failed(&self, owed: &Owed, looked: Option<&Looked>, why: &str) {
        let is_first = {
            let mut standing = self.shared.told.lock();
            standing.failed += 1;
            standing.failing.replace(why.to_owned()).is_none()
        };
        if is_first {
            tracing::warn!(host = self.to.host(), error = why, "the webhook does not take a message; it is tried again");
        }
        if owed.tries == 1 {
            self.record(owed, looked, "not_told", format!("{} did not take it, and it is tried again: {why}", self.to.host()));
        }
        let (told, why, again) = (owed.clone(), why.to_owned(), pause(owed.tries));
        self.noted(self.shared.with_approvals(move |approvals, _| approvals.message_failed(&told, &why, Some(again))).await);
    }

    /// Tells nobody any more.
    async fn give_up(&self, owed: &Owed, why: &'static str) {
        let name = owed.approval.clone();
        let looked = self.shared.with_approvals(move |approvals, people| approvals.look(&name, people)).await.ok().flatten();
        let last = owed.failing.as_ref().map(|last| format!("; the last try: {last}")).unwrap_or_default();
        self.record(owed, looked.as_ref(), "not_told", format!("given up: {why}{last}"));
        let (told, why) = (owed.clone(), format!("{why}{last}"));
        self.noted(self.shared.with_approvals(move |approvals, _| approvals.message_failed(&told, &why, None)).await);
    }

    fn record(&self, owed: &Owed, looked: Option<&Looked>, action: &'static str, note: String) {
        let Some(looked) = looked else { return };
        let (actor, subject, note) = (Some("doorward".into()), Some(owed.step.as_str().into()), Some(note.into()));
        self.shared.audit.note(&Record { actor, subject, note, ..approval_record(&owed.approval, &looked.facts, action) });
    }

    /// A message of which it cannot be noted what came of it is sent once more: a receiver knows it by its id.
    fn noted(&self, noted: Result<(), crate::error::Error>) {
        if let Err(error) = noted {
            tracing::error!(error = error.detail(), "it could not be noted what came of a message to the webhook");
        }
    }

    /// Notes how many messages wait; how long until the next one is due.
    async fn note_waiting(&self) -> Duration {
        match self.shared.with_approvals(|approvals, _| approvals.waiting_messages()).await {
            Ok((waiting, due)) => {
                self.shared.told.lock().waiting = waiting;
                due.map_or(LOOK_AGAIN, |seconds| Duration::from_secs(seconds.max(1)).min(LOOK_AGAIN))
            }
            Err(_) => LOOK_AGAIN,
        }
    }
}

/// How many seconds after so many tries: doubled each time, and never in step with another gateway.
fn pause(tries: u32) -> u64 {
    let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let steps = tries.clamp(1, 16);
    let last = (0..steps).map(|_| backoff.step()).last().unwrap_or(PAUSES.0);
    (last + Duration::from_millis(500)).as_secs().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_stay_there() {
        for (tries, longest) in [(1, 2), (2, 4), (3, 8), (5, 32), (6, 60), (7, 60), (400, 60)] {
            let pause = pause(tries);
            assert!(pause >= longest / 2 && pause <= longest, "{pause} s after {tries} tries");
        }
    }
}
