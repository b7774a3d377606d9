//! `audit tail`: the newest records, and new ones as they come.

use std::io::Write;
use std::time::Duration;

use super::{Asking, Error};
use crate::audit::follow::Follow;

/// Prints the newest records; goes on when asked to follow.
pub(super) fn run(asking: &Asking<'_>, count: usize, follow: bool, out: &mut dyn Write) -> Result<u8, Error> {
    let unreadable = |source| asking.unreadable(source);
    // The place is taken before the tail is read: a record may show twice, but none is left out.
    let new = follow.then(|| Follow::from_end(asking.dir)).transpose().map_err(unreadable)?;
    let newest = asking.logs.tail(count).map_err(unreadable)?;
    if newest.records.is_empty() && newest.unreadable == 0 && count > 0 && !asking.print.json {
        writeln!(out, "no record yet in `{}`", asking.dir.display())?;
    } else {
        asking.print.records(out, &newest, true)?;
    }
    new.map_or(Ok(0), |mut new| {
        loop {
            out.flush()?;
            std::thread::sleep(FOLLOW_PAUSE);
            asking.print.records(out, &new.more().map_err(unreadable)?, false)?;
        }
    })
}

const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
