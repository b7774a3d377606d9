//! The lines of segments with their leaves, read ahead by a thread of its own: hashing them is most of what a check of a log does.
//!
//! Owns: that thread, and its bound. Leaves to others: what the lines must be (`verify`).
//!
//! INVARIANT: no more than a few batches are in memory, however long the log is.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope};

use super::chain::{Chain, Line, leaf};
use super::storage::Storage;
use super::tree::Hash;

/// Some lines of one segment, in order.
pub(super) struct Batch {
    text: Vec<u8>,
    lines: Vec<Place>,
}

/// One line as it was read.
pub(super) enum Seen<'a> {
    /// A record and its leaf, the chain not yet checked.
    Record(Line<'a>, Hash),
    /// A whole line that is none.
    Other,
    /// What stands at the end without a line feed.
    Torn,
}

enum Place {
    Record { body: Range<usize>, chain: Chain, seq: u64, leaf: Hash },
    Other,
    Torn,
}

impl Batch {
    /// The lines.
    pub(super) fn lines(&self) -> impl Iterator<Item = Seen<'_>> {
        self.lines.iter().map(|place| match place {
            Place::Record { body, chain, seq, leaf } => {
                let open_body = self.text.get(body.clone()).unwrap_or_default();
                Seen::Record(Line { open_body, chain: *chain, seq: *seq }, *leaf)
            }
            Place::Other => Seen::Other,
            Place::Torn => Seen::Torn,
        })
    }

    /// The next lines; `None` at the segment's end.
    fn read(from: &mut dyn BufRead, expected: usize) -> io::Result<Option<Self>> {
        let mut batch = Self { text: Vec::with_capacity(expected), lines: Vec::new() };
        while batch.text.len() < BATCH_BYTES {
            let start = batch.text.len();
            if from.take(MAX_LINE_BYTES).read_until(b'\n', &mut batch.text)? == 0 {
                break;
            }
            let place = match batch.text.get(start..).and_then(|line| line.strip_suffix(b"\n")) {
                Some(line) => Line::split(line).map_or(Place::Other, |line| Place::Record {
                    body: start..start + line.open_body.len(),
                    chain: line.chain,
                    seq: line.seq,
                    leaf: leaf(line.open_body),
                }),
                None => Place::Torn,
            };
            batch.lines.push(place);
        }
        Ok(Some(batch).filter(|batch| !batch.lines.is_empty()))
    }
}

/// The segments' lines as the thread reads them.
pub(super) struct Ahead(Receiver<io::Result<Option<Batch>>>);

impl Ahead {
    /// Begins to read these segments, in order.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        storage: &'env dyn Storage,
        segments: &'env [(u64, String)],
    ) -> io::Result<Self> {
        let (batches, read) = sync_channel(BATCHES);
        Builder::new().name("audit-read".to_owned()).spawn_scoped(scope, move || {
            for (_, name) in segments {
                if let Err(error) = segment(storage, name, &batches) {
                    // Whoever reads has stopped where this does not get through.
                    drop(batches.send(Err(error)));
                    return;
                }
            }
        })?;
        Ok(Self(read))
    }

    /// The next lines of the segment; `None` at its end, after which those of the next segment come.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn next(&self) -> io::Result<Option<Batch>> {
        self.0.recv().unwrap_or(Ok(None))
    }
}

fn segment(storage: &dyn Storage, name: &str, out: &SyncSender<io::Result<Option<Batch>>>) -> io::Result<()> {
    let mut from = BufReader::with_capacity(BLOCK, storage.read(name, 0)?);
    let unheard = |_| io::Error::from(io::ErrorKind::BrokenPipe);
    // Of a short segment not all the room of a batch is taken.
    let mut expected = 0;
    while let Some(batch) = Batch::read(&mut from, expected)? {
        expected = batch.text.len() + (batch.text.len() >> 3);
        out.send(Ok(Some(batch))).map_err(unheard)?;
    }
    out.send(Ok(None)).map_err(unheard)
}

const BLOCK: usize = 1 << 18;
const BATCH_BYTES: usize = 1 << 18;
const BATCHES: usize = 8;
/// Longest line that is read, in bytes: far more than any record has.
const MAX_LINE_BYTES: u64 = 64 << 20;
