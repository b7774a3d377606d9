//! What people elsewhere are told of a call that waits: which steps, in which words, signed with what, and for how long it is tried.
//!
//! Owns: a message and its signature, as Standard Webhooks has both, so that receivers check them with a library. Leaves to others: that a message
//! is owed (`state`), the way there (`fetch`), when it is tried, and the records (`gateway`).
//!
//! INVARIANT: no argument leaves unless the operator says so.
//! INVARIANT: a message has one id however often it is tried, so that a receiver can tell one that it has.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::shown::time;
use super::{Approvals, Looked, Shown};
use crate::config::{Along, Secret, Webhook};
use crate::identity::People;
use crate::state::{Owed, Stands, StateError};

/// A step of which people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A call begins to wait.
    Requested,
    /// Everybody who has to has said yes.
    Approved,
    /// A person said no.
    Denied,
    /// Nobody decided, or nobody called, in time.
    Expired,
}

impl Step {
    /// The word in the database, in records and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Expired => "expired",
        }
    }
}

/// What to do with a message that was claimed.
#[derive(Debug)]
pub enum Telling {
    /// Send this.
    Send(Message),
    /// Nobody wants to know any more, for this reason.
    Late(&'static str),
}

/// A message that is ready to be sent.
#[derive(Debug)]
pub struct Message {
    /// The same however often it is sent: `webhook-id`.
    pub id: String,
    /// The JSON text.
    pub body: String,
}

/// The form of the body: what happened, when, at which gateway, and the call as it stands now.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    event: String,
    timestamp: String,
    gateway: &'a str,
    data: Shown,
}

/// The keys that messages are signed with.
#[derive(Debug)]
pub struct Signing(Vec<hmac::Key>);

/// Fewest and most bytes of a key (Standard Webhooks, "Signature scheme").
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// What stands before a key, so that people and scanners know it for one.
const PREFIX: &str = "whsec_";

impl Signing {
    /// Reads the keys.
    ///
    /// # Errors
    /// Why there are none, in words for the operator that hold nothing of them.
    pub fn read(secret: &Secret) -> Result<Self, String> {
        let text = secret.read()?;
        let keys: Option<Vec<_>> = text.split_whitespace().map(key).collect();
        let of = match secret {
            Secret::FromEnv(name) => format!("the environment variable `{name}`"),
            Secret::File(file) => file.display().to_string(),
        };
        let (low, high) = (KEY_BYTES.start(), KEY_BYTES.end());
        let wrong = || format!("{of} holds no secret of a webhook: it is `{PREFIX}` and the Base64 of {low} to {high} random bytes");
        keys.filter(|keys| !keys.is_empty()).map(Self).ok_or_else(wrong)
    }

    /// The signatures of a message that is sent at this time, in seconds since 1970: `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.{body}");
        let one = |key| format!("v1,{}", STANDARD.encode(hmac::sign(key, signed.as_bytes())));
        self.0.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

fn key(text: &str) -> Option<hmac::Key> {
    let bytes = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
    KEY_BYTES.contains(&bytes.len()).then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

impl Approvals {
    /// Where people are told.
    pub fn webhook(&self) -> Option<&Webhook> {
        self.bounds.webhook.as_ref()
    }

    /// Owes people word of a step, where somebody is to be told. That it cannot be noted undoes nothing of the step.
    pub fn owe(&self, id: &str, step: Step) {
        if self.webhook().is_none() {
            return;
        }
        if let Err(error) = self.state.owe(id, step.as_str(), self.now()) {
            tracing::error!(approval = id, step = step.as_str(), %error, "it could not be noted that the webhook is to be told");
        }
        self.owed.notify_one();
    }

    /// Owes word of those that wait and that nobody is told of, as a process leaves them that ends at the wrong moment; and of those that waited
    /// before there was a webhook.
    ///
    /// # Errors
    /// The database's.
    pub fn owe_waiting(&self) -> Result<(), StateError> {
        self.state.unowed(Step::Requested.as_str())?.iter().for_each(|id| self.owe(id, Step::Requested));
        Ok(())
    }

    /// Messages that are too many to wait; the oldest.
    ///
    /// # Errors
    /// The database's.
    pub fn surplus_messages(&self) -> Result<Vec<Owed>, StateError> {
        self.webhook().map_or(Ok(Vec::new()), |to| self.state.surplus(to.max_waiting.value()))
    }

    /// Waits until something more is owed, by this process.
    pub async fn owes(&self) {
        self.owed.notified().await;
    }

    /// Messages that are due, for this process alone for so many seconds.
    ///
    /// # Errors
    /// The database's.
    pub fn claim(&self, seconds: i64, most: u32) -> Result<Vec<Owed>, StateError> {
        let now = self.now();
        self.state.claim(now, now.saturating_add(seconds), most)
    }

    /// How many messages wait, and in how many seconds the next one is due.
    ///
    /// # Errors
    /// The database's.
    pub fn waiting_messages(&self) -> Result<(u64, Option<u64>), StateError> {
        let (waiting, due) = self.state.owed()?;
        Ok((waiting, due.map(|due| u64::try_from(due.saturating_sub(self.now())).unwrap_or(0))))
    }

    /// What to do with a message that was claimed, in the name of this gateway; with the call, where that is still known.
    ///
    /// # Errors
    /// The database's.
    pub fn telling(&self, owed: &Owed, gateway: &str, people: &People) -> Result<(Option<Looked>, Telling), StateError> {
        let Some(to) = self.webhook() else { return Ok((None, Telling::Late("nobody is to be told any more"))) };
        let Some(looked) = self.look(&owed.approval, people)? else { return Ok((None, Telling::Late("the call is forgotten"))) };
        let is_over = self.now().saturating_sub(owed.at) >= to.give_up_s.value().cast_signed();
        let telling = match owed.step == Step::Requested.as_str() {
            true if !self.is_waiting(&looked) => Telling::Late("the call waits no more"),
            false if is_over => Telling::Late("it was tried for long enough"),
            _ => Telling::Send(self.message(owed, gateway, (to, &looked))),
        };
        Ok((Some(looked), telling))
    }

    fn is_waiting(&self, looked: &Looked) -> bool {
        looked.row.stands == Stands::Open && looked.row.expires > self.now() && !looked.lacks.is_empty() && !looked.is_stale
    }

    fn message(&self, owed: &Owed, gateway: &str, (to, looked): (&Webhook, &Looked)) -> Message {
        let arguments = match to.arguments {
            Along::None => None,
            Along::All => self.arguments(&looked.row),
        };
        // What the receiver was told is no news to it.
        let data = Shown { webhook: Vec::new(), ..Shown::of(looked, arguments) };
        let body = Body { event: format!("approval.{}", owed.step), timestamp: time(owed.at), gateway, data };
        Message { id: format!("{}-{}", owed.approval, owed.step), body: serde_json::to_string(&body).unwrap_or_default() }
    }

    /// Notes that a message was taken.
    ///
    /// # Errors
    /// The database's.
    pub fn message_taken(&self, owed: &Owed) -> Result<(), StateError> {
        self.state.taken(owed, self.now())
    }

    /// Notes why a message was not taken, and in how many seconds it is tried again; never, for `None`.
    ///
    /// # Errors
    /// The database's.
    pub fn message_failed(&self, owed: &Owed, why: &str, again: Option<u64>) -> Result<(), StateError> {
        self.state.not_taken(owed, why, again.map(|seconds| self.now().saturating_add_unsigned(seconds)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a file with these words.
    fn signing(words: &str) -> Result<Signing, String> {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("hook.secret");
        std::fs::write(&file, words).unwrap();
        Signing::read(&Secret::File(file))
    }

    #[test]
    fn a_message_is_signed_as_the_libraries_of_standard_webhooks_check_it() {
        // The example of their specification and of their libraries' tests.
        let one = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let sign = |words: &str| signing(words).unwrap().sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(sign(one), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let both = sign(&format!("whsec_{}\n{one}\n", STANDARD.encode([7; 24])));
        assert!(both.ends_with(" v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=") && both.starts_with("v1,"), "{both}");
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_told() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        for words in ["", " \n", "whsec_", "hunter2-hunter2-hunter2-hunter2", &short, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw whsec_x"] {
            let told = signing(words).unwrap_err();
            assert!(told.contains("holds no secret of a webhook") && (words.len() < 8 || !told.contains(words)), "{words}: {told}");
        }
        assert!(Signing::read(&Secret::FromEnv("DOORWARD_NO_SUCH".into())).unwrap_err().contains("`DOORWARD_NO_SUCH` is not set"));
    }
}
