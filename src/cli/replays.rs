//! `doorward replays`: calls with a key, a repeat of which does not act again; and those of them whose end nobody knows.
//!
//! INVARIANT: nothing is released that is not on record with who did it.

use clap::Subcommand;

use super::{Context, Failure, person, table};
use crate::clock::{Clock, rfc3339};
use crate::listen::admin::Deed;
use crate::state::{ReplayStands, State, StoredReplay};

/// Longest reason, in bytes.
const MAX_TEXT: usize = 1_024;

/// The verbs of `doorward replays`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the calls whose end nobody knows: a repeat of one is refused with `outcome_unknown`.
    #[command(after_help = "Example:\n  doorward replays list --json")]
    List {
        /// Also those that run, wait for answers, or have ended.
        #[arg(long)]
        all: bool,
    },
    /// Let a call whose end nobody knows be made again under its key. Look at the tool first: what it has done, it will do twice.
    #[command(
        after_help = "Example:\n  doorward replays release 0199d3b0-1c7e-7a31-9b1c-3a7f0c1d2e4f --reason \"the bank has no such payment\""
    )]
    Release {
        /// Its invocation, as `list`, the agent's error and `doorward audit unresolved` have it.
        invocation: String,
        /// Why, for the record.
        #[arg(long)]
        reason: String,
    },
}

/// Carries the verb out.
pub async fn run(context: &Context, verb: &Verb) -> Result<u8, Failure> {
    let config = context.config()?;
    let state = State::open(config.state.as_ref()).map_err(Failure::other)?;
    let now = Clock::system().unix_seconds();
    let (invocation, reason) = match verb {
        Verb::List { all } => return list(context, &state.replays(*all, now).map_err(Failure::other)?, now),
        Verb::Release { invocation, reason } => (invocation, reason),
    };
    if reason.trim().is_empty() || reason.len() > MAX_TEXT {
        return Err(Failure::Usage("a reason has 1 to 1024 bytes".to_owned()));
    }
    let unknown = || {
        Failure::Usage(format!(
            "`{}` is no call with a key whose end is unknown; `doorward replays list` lists those",
            table::safe(invocation)
        ))
    };
    let known = state.replays(false, now).map_err(Failure::other)?.into_iter().find(|row| row.call == *invocation).ok_or_else(unknown)?;
    let deed = Deed {
        action: "replay_release".to_owned(),
        subject: format!("{} of {}", known.target, known.agent),
        call_id: Some(known.call.clone()),
        reason: Some(reason.clone()),
        ..Deed::default()
    };
    person::record_deed(&config, deed).await.map_err(person::undone)?;
    let released = state.release_replay(invocation, now).map_err(Failure::other)?.ok_or_else(unknown)?;
    match context.json {
        true => println!("{}", serde_json::json!({ "invocation": released.call, "released": true })),
        false => {
            println!("released: {} of {} runs again when the agent sends it", table::safe(&released.target), table::safe(&released.agent))
        }
    }
    Ok(0)
}

fn list(context: &Context, rows: &[StoredReplay], now: i64) -> Result<u8, Failure> {
    if context.json {
        let rows: Vec<_> = rows.iter().map(|row| as_json(row, now)).collect();
        println!("{}", serde_json::to_string(&rows).map_err(Failure::other)?);
        return Ok(0);
    }
    if rows.is_empty() {
        println!("no call with a key has an unknown end");
        return Ok(0);
    }
    let line = |row: &StoredReplay| {
        let code = row.code.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            row.call.clone(),
            standing(row, now).to_owned(),
            table::safe(&row.agent),
            table::safe(&row.target),
            time(row.began),
            code,
            time(row.expires),
        ]
    };
    let lines: Vec<_> = rows.iter().map(line).collect();
    print!("{}", table::render(&["INVOCATION", "STANDING", "AGENT", "TARGET", "BEGAN", "ENDED IN", "KNOWN UNTIL"], &lines));
    Ok(0)
}

/// One that must have ended by now, and did not say how, is as unknown as any.
fn standing(row: &StoredReplay, now: i64) -> &'static str {
    match row.stands {
        ReplayStands::Runs | ReplayStands::Asks if row.lasts <= now => ReplayStands::Unknown.as_str(),
        stands => stands.as_str(),
    }
}

fn as_json(row: &StoredReplay, now: i64) -> serde_json::Value {
    serde_json::json!({
        "invocation": row.call, "standing": standing(row, now), "agent": row.agent, "target": row.target, "origin": row.origin,
        "began": time(row.began), "ended": row.ended.map(time), "code": row.code, "until": time(row.expires),
    })
}

fn time(seconds: i64) -> String {
    rfc3339(seconds.saturating_mul(1_000_000_000))
}
