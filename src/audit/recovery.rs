//! What a start does with what an earlier life left.
//!
//! It reads the segments that can hold an open intent, keeps the longest prefix of the last one whose chain holds, moves the rest to
//! `NAME.torn` (kept, never deleted), begins a new segment, and records there: the start, each torn end, and an `unresolved` outcome for each
//! intent without an end. How far back it reads is bounded by the first record of the last segment, whose `open_from` names the smallest
//! `seq` without an end at that time; none means that nothing before the segment was open. Older segments are `verify`'s business.
//!
//! Torn or damaged? A crash leaves a short line, or NUL bytes where sectors were lost; no record holds a NUL. A break that is followed, without
//! any NUL, by a whole line in the form of a record is no crash: the start refuses, unless damage is accepted. Then lines after the break count as
//! they stand, the break stays where it is for `verify` to name, and a record says that it was accepted. So it is with what the notes and keys
//! speak of and the segments do not hold (`evidence`). After accepted damage a new tree begins.
//!
//! Owns: the scan, torn ends, unresolved intents. Leaves to others: judging whole logs (`verify`).

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::chain::{Chain, Line, leaf};
use super::encode::push_hex;
use super::evidence::{Base, Evidence, Fault, Standing, Unfinished};
use super::log::{OpenError, Opened, Options, Torn};
use super::notary::{End, Notary, Sealing, next_key};
use super::note::VerifyingKey;
use super::payload::removal::remove_orphans;
use super::record::{Kind, Record, Stored};
use super::repair::{begin_segment, started};
use super::storage::{Storage, append_all, segments};
use super::tree::{Hash, Tree};
use super::writer::{Core, Tail};

/// Takes the origin and makes the writer's core of what is on the disk.
pub(super) fn open(options: Options, storage: Arc<dyn Storage>) -> Result<(Core, Opened), OpenError> {
    let origin = options.origin.clone();
    let failed = |source| OpenError::Io { origin: origin.clone(), source };
    let guard = storage.lock().map_err(failed)?.ok_or_else(|| OpenError::InUse { origin: origin.clone() })?;
    let found = Search::new(&*storage, &options).run()?;
    let opened =
        Opened { torn: found.torn, damage: found.damage, unresolved: found.open.values().filter_map(|line| Stored::parse(line)).collect() };
    let mut tail = Tail::new(Arc::new(Nowhere), found.next_seq, found.chain, opened.unresolved.iter().map(|intent| intent.seq).collect());
    let start = Start { options: &options, storage: &*storage, opened: &opened, covered: found.covered };
    let (notary, vouched) = match start.begin(&mut tail, found.standing, found.first, found.end) {
        Ok(begun) => begun,
        Err(source) => {
            // Nothing in it was acknowledged: a start that failed leaves no trace, however often it is tried.
            if !tail.name.is_empty() {
                drop(storage.remove(&tail.name));
            }
            return Err(failed(source));
        }
    };
    if let Err(error) = remove_orphans(&*storage, !opened.torn.is_empty() || !opened.damage.is_empty()) {
        // No record names them, so nobody looks for them either.
        tracing::warn!(origin, %error, "payloads that the last run left without a record stay where they are");
    }
    Ok((Core::new(options, storage, guard, tail, notary, vouched.or(found.newest)), opened))
}

struct Start<'a> {
    options: &'a Options,
    storage: &'a dyn Storage,
    opened: &'a Opened,
    /// How many leaves of the tree a checkpoint covers.
    covered: u64,
}

impl Start<'_> {
    /// Begins the new segment under its key, durably; what comes of the key before it, and the checkpoint where one was made.
    fn begin(&self, tail: &mut Tail, standing: Standing, first: u64, end: Option<End>) -> io::Result<(Notary, Option<String>)> {
        let (options, storage) = (self.options, self.storage);
        let next = || next_key(storage, &options.key_name());
        let covered = self.covered;
        let tree = end.as_ref().map_or_else(Tree::new, |end| end.tree.clone());
        Ok(match standing {
            Standing::Sealed(signer) => {
                begin(options, storage, tail, self.opened, signer.key())?;
                (Notary::new(signer, first, tree, covered), None)
            }
            Standing::Writing(signer) => {
                let next = next()?;
                let mut notary = Notary::new(signer, first, tree, covered);
                let sealing = match end {
                    Some(End { segment, chain, .. }) => notary.seal(segment, chain, next.key(), options.clock.unix_seconds())?,
                    None => Sealing::of_nothing(),
                };
                begin(options, storage, tail, self.opened, next.key())?;
                notary.succeed(sealing, next);
                (notary, None)
            }
            Standing::New(old) => {
                let next = next()?;
                begin(options, storage, tail, self.opened, next.key())?;
                let mut notary = Notary::new(next, first, tree, 0);
                notary.take(&mut tail.leaves);
                notary.fold();
                // In this order a present key without a record or a checkpoint is no crash.
                let vouched = notary.vouch(storage, tail.first_seq, options.clock.unix_seconds())?;
                tail.due_from = tail.next_seq + 1;
                match old {
                    Some(old) => Sealing::without_note(&old).complete(storage)?,
                    None => {
                        storage.erase_key()?;
                        storage.promote_key()?;
                    }
                }
                (notary, vouched)
            }
        })
    }
}

/// The new segment with all that the start has to say, durable.
fn begin(options: &Options, storage: &dyn Storage, tail: &mut Tail, opened: &Opened, key: &VerifyingKey) -> io::Result<()> {
    begin_segment(options, storage, tail, &started("start"), key)?;
    let mut lines = Vec::new();
    let mut say = |record: Record<'_>| {
        let entry = record.encode(&options.origin, options.clock.now());
        let (chain, leaf) = tail.chain.seal(&entry, tail.next_seq, &mut lines);
        tail.chain = chain;
        tail.leaves.push(leaf);
        tail.next_seq += 1;
    };
    for torn in &opened.torn {
        let found = Record { bytes: Some(torn.bytes), sha256: Some(torn.sha256.as_str().into()), ..Record::new(Kind::Recovery) };
        say(Record { action: Some("torn_tail".into()), subject: Some(torn.file.as_str().into()), ..found });
    }
    for place in &opened.damage {
        say(Record { action: Some("accepted_damage".into()), note: Some(place.as_str().into()), ..Record::new(Kind::Recovery) });
    }
    for intent in &opened.unresolved {
        say(intent.end("unresolved", "unknown", Some("outcome_unknown")));
    }
    append_all(&*tail.file, &lines)?;
    tail.file.sync()?;
    tail.len += lines.len() as u64;
    tail.open.clear();
    Ok(())
}

/// Follows the chain over lines. It knows neither place nor chain at first where a log's beginning is not there.
pub(super) struct Scan(Option<(u64, Chain)>);

impl Scan {
    pub(super) fn new(next: Option<(u64, Chain)>) -> Self {
        Self(next)
    }

    pub(super) fn next_seq(&self) -> Option<u64> {
        self.0.map(|(seq, _)| seq)
    }

    pub(super) fn chain(&self) -> Option<Chain> {
        self.0.map(|(_, chain)| chain)
    }

    /// Goes past a line, given without its line feed, if it is the next of the chain.
    fn step<'a>(&mut self, text: &'a [u8]) -> Option<(Line<'a>, Hash)> {
        let line = Line::split(text)?;
        let leaf = leaf(line.open_body);
        if let Some((seq, chain)) = self.0
            && (line.seq != seq || chain.link(leaf) != line.chain)
        {
            return None;
        }
        self.accept(&line);
        Some((line, leaf))
    }

    fn accept(&mut self, line: &Line<'_>) {
        self.0 = Some((line.seq + 1, line.chain));
    }

    /// Reads while the chain holds; shows each line with its leaf and returns how many bytes these lines have.
    pub(super) fn prefix(&mut self, from: &mut dyn BufRead, mut show: impl FnMut(&Line<'_>, Hash, &[u8])) -> io::Result<u64> {
        let (mut good, mut text) = (0, Vec::new());
        loop {
            text.clear();
            if from.read_until(b'\n', &mut text)? == 0 {
                return Ok(good);
            }
            let Some((line, leaf)) = text.strip_suffix(b"\n").and_then(|whole| self.step(whole)) else { return Ok(good) };
            show(&line, leaf, &text[..text.len() - 1]);
            good += text.len() as u64;
        }
    }
}

struct Search<'a> {
    storage: &'a dyn Storage,
    options: &'a Options,
    torn: Vec<Torn>,
    damage: Vec<String>,
    /// The lines of intents without an end, by `seq`.
    open: BTreeMap<u64, Vec<u8>>,
    tree: Tree,
    /// At how many leaves the root is wanted, and the root there.
    root: (Option<u64>, Option<Hash>),
    /// The last two segments with a record, of those whose leaves are in the tree.
    ends: Vec<End>,
    /// What is behind the last good line of a segment: its name, where, and the bytes.
    rests: Vec<(String, u64, Vec<u8>)>,
    /// The records that say that a segment was to go, and its name.
    removals: Vec<(u64, String)>,
    /// The record that is leaf 0 of the tree: what is damaged before it was accepted.
    first: u64,
}

struct Found {
    next_seq: u64,
    chain: Chain,
    torn: Vec<Torn>,
    damage: Vec<String>,
    open: BTreeMap<u64, Vec<u8>>,
    standing: Standing,
    /// The record that is leaf 0, and the tree so far.
    first: u64,
    end: Option<End>,
    /// The newest checkpoint, and how many leaves it covers.
    newest: Option<String>,
    covered: u64,
}

impl<'a> Search<'a> {
    fn new(storage: &'a dyn Storage, options: &'a Options) -> Self {
        let (torn, damage, open, ends, rests, removals) = Default::default();
        Self { storage, options, torn, damage, open, tree: Tree::new(), root: (None, None), ends, rests, removals, first: 1 }
    }

    fn run(mut self) -> Result<Found, OpenError> {
        let origin = &self.options.origin;
        let failed = |source| OpenError::Io { origin: origin.clone(), source };
        let all = segments(self.storage).map_err(failed)?;
        let (evidence, fault) = Evidence::read(self.storage, &all).map_err(failed)?;
        self.judge(fault)?;
        self.first = evidence.first;
        let base = evidence.base(self.storage, &all).map_err(failed)?;
        let (mut scan, first) = self.begin(&evidence, &base, &all).map_err(failed)?;
        for at in first..all.len() {
            self.read_segment(&mut scan, &all, at, at >= base.at)?;
        }
        self.judge(evidence.fault(self.storage, &all, &self.ends, self.root.1).map_err(failed)?)?;
        self.judge(evidence.removed_unsigned(&all, &self.removals))?;
        // Without any record the chain starts anew.
        let (next_seq, chain) = scan.0.unwrap_or((1, Chain::first(origin)));
        let (first, after, covered) = (evidence.first, evidence.next_seq(), evidence.covered().unwrap_or(0));
        let newest = evidence.newest.as_ref().map(|(text, _)| text.clone());
        let (mut standing, mut unfinished) = (Standing::New(None), Unfinished::default());
        if self.damage.is_empty() {
            match evidence.standing(self.storage, &self.ends, self.options.clock.unix_seconds()).map_err(failed)? {
                Ok(found) => (standing, unfinished) = found,
                Err(fault) => self.judge(Some(fault))?,
            }
        }
        for (name, good, rest) in std::mem::take(&mut self.rests) {
            self.set_aside(&name, good, &rest).map_err(failed)?;
        }
        unfinished.complete(self.storage).map_err(failed)?;
        let is_sound = self.damage.is_empty();
        // Behind damage no number is given again that a checkpoint speaks of, and a new tree begins.
        let next_seq = if is_sound { next_seq } else { next_seq.max(after) };
        let (first, end) = if is_sound { (first, self.ends.pop()) } else { (next_seq, None) };
        Ok(Found { next_seq, chain, torn: self.torn, damage: self.damage, open: self.open, standing, first, end, newest, covered })
    }

    /// Refuses what is damaged, or takes note of it where damage is accepted.
    fn judge(&mut self, fault: Option<Fault>) -> Result<(), OpenError> {
        let Some(Fault { place, what }) = fault else { return Ok(()) };
        if !self.options.accept_damage {
            return Err(OpenError::Damaged { origin: self.options.origin.clone(), place, what });
        }
        self.damage.push(format!("{place}: {what}"));
        Ok(())
    }

    /// Where the chain stands before the first segment that is to be read, and which that is.
    fn begin(&mut self, evidence: &Evidence, base: &Base, all: &[(u64, String)]) -> io::Result<(Scan, usize)> {
        self.root.0 = evidence.covered();
        let first = self.first_to_read(all)?.min(base.at);
        if let Some(end) = &base.end {
            self.tree = end.tree.clone();
            self.ends.push(end.clone());
            if first == base.at {
                return Ok((Scan::new(Some((all[first].0, end.chain))), first));
            }
        }
        let is_new_tree = evidence.first > 1 && all.get(first).is_some_and(|(segment, _)| *segment == evidence.first);
        let before = match first.checked_sub(1) {
            // What damage was accepted before it does not count again.
            _ if is_new_tree => None,
            Some(earlier) => self.last_line(&all[earlier].1)?,
            None => all.first().is_none_or(|(seq, _)| *seq == 1).then(|| (1, Chain::first(&self.options.origin))),
        };
        Ok((Scan::new(before), first))
    }

    /// The segment from which on there can be open intents.
    fn first_to_read(&self, all: &[(u64, String)]) -> io::Result<usize> {
        for (at, (_, name)) in all.iter().enumerate().rev() {
            let mut text = Vec::new();
            BufReader::new(self.storage.read(name, 0)?).read_until(b'\n', &mut text)?;
            let Some(line) = text.strip_suffix(b"\n").and_then(Line::split) else { continue };
            // A segment always begins with a lifecycle record; where this does not, nothing it says bounds the search.
            let from = if line.kind() == Some(Kind::Lifecycle) { line.open_from().unwrap_or(line.seq) } else { 0 };
            return Ok(at.min(all.partition_point(|(first_seq, _)| *first_seq <= from).saturating_sub(1)));
        }
        Ok(0)
    }

    /// Where the chain stands after a segment, as the segment itself says.
    fn last_line(&self, name: &str) -> io::Result<Option<(u64, Chain)>> {
        let size = self.storage.size(name)?;
        let mut text = Vec::new();
        // Only a record with very large arguments is longer than the window; then the whole segment is read.
        for window in [LAST_LINES, size] {
            text.clear();
            self.storage.read(name, size.saturating_sub(window))?.read_to_end(&mut text)?;
            let last = text.strip_suffix(b"\n").and_then(|whole| whole.rsplit(|byte| *byte == b'\n').next());
            if let Some(line) = last.and_then(Line::split) {
                return Ok(Some((line.seq + 1, line.chain)));
            }
        }
        Ok(None)
    }

    fn read_segment(&mut self, scan: &mut Scan, all: &[(u64, String)], at: usize, is_in_tree: bool) -> Result<(), OpenError> {
        let (segment, name) = (all[at].0, &all[at].1);
        let origin = self.options.origin.clone();
        let failed = |source| OpenError::Io { origin: origin.clone(), source };
        let (mut good, mut lines) = (0, 0_u64);
        loop {
            let mut from = BufReader::with_capacity(1 << 16, self.storage.read(name, good).map_err(failed)?);
            let (open, tree, root, removals) = (&mut self.open, &mut self.tree, &mut self.root, &mut self.removals);
            good += scan
                .prefix(&mut from, |line, leaf, text| {
                    lines += 1;
                    note(open, line, text);
                    removals.extend(line.pruned().map(|name| (line.seq, name.to_owned())));
                    if is_in_tree {
                        tree.push(leaf);
                        if root.0 == Some(tree.size()) {
                            root.1 = Some(tree.root());
                        }
                    }
                })
                .map_err(failed)?;
            drop(from);
            if let Some(chain) = scan.chain().filter(|_| is_in_tree && lines > 0) {
                self.ends.retain(|end| end.segment != segment);
                self.ends.drain(..self.ends.len().saturating_sub(1));
                self.ends.push(End { segment, tree: self.tree.clone(), chain });
            }
            let mut rest = Vec::new();
            self.storage.read(name, good).map_err(failed)?.read_to_end(&mut rest).map_err(failed)?;
            if rest.is_empty() && lines > 0 {
                // A kill leaves the last lines in the page cache: before anything follows them they must be durable.
                return self.storage.sync(name).map_err(failed);
            }
            if rest.is_empty() {
                // Made, but nothing got into it: it is no evidence of anything.
                return self.storage.remove(name).map_err(failed);
            }
            if is_torn(&rest) && !self.has_records_after(all, at).map_err(failed)? {
                self.rests.push((name.clone(), good, rest));
                return Ok(());
            }
            if segment >= self.first {
                let what = "the chain breaks here, and records follow".to_owned();
                self.judge(Some(Fault { place: format!("{name}:{}", lines + 1), what }))?;
            }
            good += self.skip_damage(scan, &rest, &mut lines);
            if good == self.storage.size(name).map_err(failed)? {
                return Ok(());
            }
        }
    }

    /// Goes past the first line in the form of a record, whatever its chain; how many bytes that is.
    fn skip_damage(&mut self, scan: &mut Scan, rest: &[u8], lines: &mut u64) -> u64 {
        let mut skipped = 0;
        for text in rest.split_inclusive(|byte| *byte == b'\n') {
            skipped += text.len() as u64;
            *lines += 1;
            if let Some(line) = text.strip_suffix(b"\n").and_then(Line::split) {
                scan.accept(&line);
                note(&mut self.open, &line, &text[..text.len() - 1]);
                break;
            }
        }
        skipped
    }

    fn has_records_after(&self, all: &[(u64, String)], at: usize) -> io::Result<bool> {
        for (_, name) in &all[at + 1..] {
            let mut text = Vec::new();
            BufReader::new(self.storage.read(name, 0)?).read_until(b'\n', &mut text)?;
            if text.strip_suffix(b"\n").and_then(Line::split).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves what is behind `good` bytes into a file of its own, durably, before it is cut off.
    fn set_aside(&mut self, name: &str, good: u64, rest: &[u8]) -> io::Result<()> {
        let file = free_name(self.storage, name)?;
        let copy = self.storage.create(&file)?;
        if let Err(error) = append_all(&*copy, rest).and_then(|()| copy.sync()) {
            drop(self.storage.remove(&file));
            return Err(error);
        }
        let mut sha256 = Vec::new();
        push_hex(&mut sha256, digest(&SHA256, rest).as_ref());
        self.torn.push(Torn { file, bytes: rest.len() as u64, sha256: String::from_utf8_lossy(&sha256).into_owned() });
        if good == 0 { self.storage.remove(name) } else { self.storage.truncate(name, good) }
    }
}

/// Keeps track of which intents have no end.
fn note(open: &mut BTreeMap<u64, Vec<u8>>, line: &Line<'_>, text: &[u8]) {
    match line.kind() {
        Some(Kind::Intent) => drop(open.insert(line.seq, text.to_vec())),
        Some(Kind::Outcome) => drop(line.intent_seq().and_then(|intent| open.remove(&intent))),
        _ => {}
    }
}

/// Whether a crash can have left this after the last good line.
fn is_torn(rest: &[u8]) -> bool {
    let is_record = |text: &[u8]| text.strip_suffix(b"\n").and_then(Line::split).is_some();
    rest.contains(&0) || !rest.split_inclusive(|byte| *byte == b'\n').any(is_record)
}

/// Gives a file that holds no record of the chain another name.
pub(super) fn set_aside_whole(storage: &dyn Storage, name: &str) -> io::Result<()> {
    storage.rename(name, &free_name(storage, name)?)
}

fn free_name(storage: &dyn Storage, name: &str) -> io::Result<String> {
    let taken = storage.list()?;
    let names = (1_u64..).map(|number| if number == 1 { format!("{name}.torn") } else { format!("{name}.torn-{number}") });
    // The names do not end, the files do.
    Ok(names.into_iter().find(|candidate| !taken.contains(candidate)).unwrap_or_default())
}

/// Stands in a tail until its first segment is made.
struct Nowhere;

impl super::storage::SegmentFile for Nowhere {
    fn append(&self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn truncate(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn size_at(&self, _name: &str) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

/// The end of a copy's name that repair was making; it is no segment.
pub(super) const COPY: &str = ".copy";
const LAST_LINES: u64 = 1 << 16;
