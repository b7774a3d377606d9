//! How much a server may say that nobody waits for.
//!
//! Owns: the budget of what cannot be used, over which a link is lost, and the pace of messages, beyond which a link is read more
//! slowly: the server then waits for its pipe or its connection. Leaves to others: what a message means (`inbound`).
//! INVARIANT: an answer that a call waits for costs nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::words::printable;

/// Unusable lines of a server that has not introduced itself: banners, and what its packages say while they are installed.
const EARLY: u32 = 500;
/// Unusable lines at once of one that has; there are servers that keep their log on standard output.
const LATER: u32 = 10_000;
/// Unusable lines a second that may go on for ever.
const UNUSABLE_RATE: u32 = 100;
/// Messages at once that nobody waits for. Each costs some microseconds.
const MESSAGES: u32 = 10_000;
/// Such messages a second that may go on for ever.
const MESSAGE_RATE: u32 = 5_000;
/// So many bytes count as a line or message of their own.
const UNIT_BYTES: usize = 1024;
/// The shortest pause of a reader: with shorter ones it would wake up for each message.
const PAUSE: Duration = Duration::from_millis(20);
/// The shortest time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// Bytes of the last unusable line in the reason of a loss.
const MAX_SHOWN: usize = 60;

/// What one line or event of a server was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// So many messages that no call waited for; none where it was the answer to a call.
    Unasked(u32),
    /// No message of the protocol.
    Unusable,
}

/// Why a link is given up, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flooded(pub(super) String);

/// What one link has left.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    upstream: Arc<str>,
    unusable: Spent,
    messages: Spent,
    /// Messages since the last warning, and when that was.
    said: (u64, Option<Instant>),
}

impl Pace {
    /// The whole budget.
    pub(super) fn new(upstream: &Arc<str>) -> Self {
        let said = (0, None);
        Self { upstream: Arc::clone(upstream), unusable: Spent::new(UNUSABLE_RATE), messages: Spent::new(MESSAGE_RATE), said }
    }

    /// Takes note of what was read, and waits until more may be. `greeted` says that the server has introduced itself.
    ///
    /// # Errors
    /// [`Flooded`] when too much could not be used.
    pub(super) async fn after(&mut self, said: Said, text: &[u8], greeted: bool) -> Result<(), Flooded> {
        let more = u32::try_from(text.len() / UNIT_BYTES).unwrap_or(u32::MAX);
        match said {
            Said::Unasked(0) => Ok(()),
            Said::Unasked(messages) => {
                self.messages(messages, more).await;
                Ok(())
            }
            Said::Unusable => {
                let most = if greeted { LATER } else { EARLY };
                match self.unusable.spend(more.saturating_add(1), most) {
                    Duration::ZERO => Ok(()),
                    _ => Err(Flooded(format!("more than {most} lines at once are no messages; the last begins `{}`", beginning(text)))),
                }
            }
        }
    }

    /// Takes note of lines of an event stream that may make no event, as comments do.
    pub(super) async fn idle(&mut self, lines: u32) {
        if lines > 0 {
            self.messages(lines, 0).await;
        }
    }

    async fn messages(&mut self, messages: u32, more: u32) {
        self.said.0 = self.said.0.saturating_add(u64::from(messages));
        let over = self.messages.spend(messages.saturating_add(more), MESSAGES);
        if over.is_zero() {
            return;
        }
        if self.said.1.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            let messages = std::mem::take(&mut self.said.0);
            tracing::warn!(upstream = %self.upstream, messages, "the tool server says more than anybody waits for, and is read more slowly");
            self.said.1 = Some(Instant::now());
        }
        // Boxed, since it is rare and would make the state of every call larger.
        Box::pin(sleep(over.max(PAUSE))).await;
    }
}

/// How much of a rate is spent, as the time at which nothing of it will be.
#[derive(Clone, Copy, Debug)]
struct Spent {
    each: Duration,
    until: Instant,
}

impl Spent {
    fn new(per_second: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_second, until: Instant::now() }
    }

    /// Spends so much; how long until no more than `most` is spent.
    fn spend(&mut self, units: u32, most: u32) -> Duration {
        let now = Instant::now();
        self.until = self.until.max(now) + self.each.saturating_mul(units);
        self.until.saturating_duration_since(now + self.each * most)
    }
}

fn beginning(text: &[u8]) -> String {
    printable(text.get(..text.len().min(MAX_SHOWN)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(pace: &mut Pace, number: u32, greeted: bool) -> Result<(), Flooded> {
        for _ in 0..number {
            pace.after(Said::Unusable, b"y", greeted).await?;
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn unusable_lines_are_few_before_the_greeting_and_come_back_with_time() {
        let mut pace = Pace::new(&"a".into());
        lines(&mut pace, EARLY, false).await.unwrap();
        lines(&mut pace, LATER - EARLY, true).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        lines(&mut pace, UNUSABLE_RATE, true).await.unwrap();
        let Flooded(reason) = lines(&mut pace, 1, true).await.unwrap_err();
        assert!(reason.contains("10000 lines") && reason.contains("`y`"), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_line_counts_for_many() {
        let mut pace = Pace::new(&"a".into());
        assert!(pace.after(Said::Unusable, &[b'x'; 500 << 10], false).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn messages_are_taken_at_their_rate_and_answers_at_once() {
        let (mut pace, begun) = (Pace::new(&"a".into()), Instant::now());
        for _ in 0..MESSAGES {
            pace.after(Said::Unasked(1), b"{}", true).await.unwrap();
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for _ in 0..3 * MESSAGE_RATE {
            pace.after(Said::Unasked(1), b"{}", true).await.unwrap();
            pace.after(Said::Unasked(0), &[b'x'; 1 << 20], true).await.unwrap();
        }
        assert!(begun.elapsed().abs_diff(Duration::from_secs(3)) <= 2 * PAUSE, "{:?}", begun.elapsed());
        // All but those that the one warning told of, the first that was too many among them.
        assert_eq!(pace.said.0, u64::from(3 * MESSAGE_RATE - 1));
    }
}
