//! `audit index`: completes the index, or makes it anew.

use std::io::Write;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::print::json_line;
use super::{Asking, Error};
use crate::audit::index::{Index, IndexError};
use crate::cli::table::safe;

/// Tries until the gateway, which fills in short turns, lets this process do it.
fn patiently<T>(mut attempt: impl FnMut() -> Result<Option<T>, IndexError>) -> Result<T, IndexError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(Some(done)) => return Ok(done),
            Ok(None) | Err(IndexError::Busy) if Instant::now() < until => std::thread::sleep(PAUSE),
            Ok(None) => return Err(IndexError::Busy),
            Err(error) => return Err(error),
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Serialize)]
struct Done {
    records: u64,
    seconds: f64,
    bytes: u64,
}

/// Fills the index to its end.
pub(super) fn run(mut asking: Asking<'_>, rebuild: bool, out: &mut dyn Write) -> Result<u8, Error> {
    if rebuild {
        patiently(|| Index::delete(asking.dir).map(Some))?;
    }
    let since = Instant::now();
    let filled = patiently(|| {
        let filled = asking.logs.with_index(asking.dir, None, &mut |_| {})?;
        Ok(filled.is_done.then_some(filled))
    })?;
    let size = std::fs::metadata(Index::file(asking.dir)).map_or(0, |file| file.len());
    let done = Done { records: filled.records, seconds: since.elapsed().as_secs_f64(), bytes: size };
    if asking.print.json {
        json_line(out, &done)?;
        return Ok(0);
    }
    for note in asking.logs.notes() {
        writeln!(out, "note: {}", safe(note))?;
    }
    let rate = done.records as f64 / done.seconds.max(0.001);
    writeln!(out, "{} records taken in, {:.1} s, {rate:.0} a second; the index has {} KiB", done.records, done.seconds, done.bytes / 1024)?;
    Ok(0)
}
