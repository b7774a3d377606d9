//! Who vouches for the log while it is written: the tree of its leaves, the key of its present segment, and what is signed with it.
//!
//! A checkpoint is signed only when all that it covers is durable. A segment that has ended gets its seal, in steps of which each is durable before
//! the next: its seal, its peaks, the same as the newest checkpoint, the old private key overwritten, the next one put in its place. The segment
//! after it has begun by then, under the next key: so a disk on which no note can be stored does not stop the log, and nobody waits for the seal.
//! A crash between any two steps leaves what `evidence` tells apart. In this order a seal that is the newest checkpoint, or that something signed
//! under the next key follows, is whole: what is missing of it was taken away.
//!
//! Owns: tree, key and seal of the present life. Leaves to others: when (`writer`), what an earlier life left (`evidence`).
//!
//! INVARIANT: the tree holds the leaves of the chain, in order; leaves that turn out not to be on the disk are taken back with `before`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::chain::Chain;
use super::checkpoint::Checkpoint;
use super::note::{Signer, VerifyingKey};
use super::storage::{CHECKPOINT, Storage, peaks_name, seal_name};
use super::tree::{Hash, Tree};
use super::trust::peaks_text;
use super::writer::{Core, Tail};

/// The tree and the key.
pub(super) struct Notary {
    signer: Signer,
    /// The record that is leaf 0.
    first: u64,
    /// The tree before the present segment.
    before: Tree,
    tree: Tree,
    /// Leaves that are not known to be durable yet.
    taken: Vec<Hash>,
    /// The leaves that the newest stored checkpoint covers.
    covered: u64,
    sealing: Option<Sealing>,
    /// A checkpoint that is signed and not stored yet: the next sync takes it along.
    unstored: Option<Unstored>,
}

/// A signed checkpoint on its way to the disk. All that it covers is durable already, so it may get there at any time, or never.
pub(super) struct Unstored {
    note: String,
    size: u64,
}

impl Notary {
    /// Goes on with a tree whose next leaf is the first record of a segment that this key signs.
    /// A checkpoint covers so many leaves of it already.
    pub(super) fn new(signer: Signer, first: u64, tree: Tree, covered: u64) -> Self {
        Self { signer, first, before: tree.clone(), tree, taken: Vec::new(), covered, sealing: None, unstored: None }
    }

    /// Whether the segment before the present one still waits for a part of its seal.
    pub(super) fn is_sealing(&self) -> bool {
        self.sealing.is_some()
    }

    /// The key of the present segment.
    pub(super) fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Takes leaves over that a sync under way may make durable.
    pub(super) fn take(&mut self, leaves: &mut Vec<Hash>) {
        self.taken.append(leaves);
    }

    /// All that was taken is durable.
    pub(super) fn fold(&mut self) {
        for leaf in self.taken.drain(..) {
            self.tree.push(leaf);
        }
    }

    /// The present segment was read again and has these leaves. Where a checkpoint covers more, the tree ends, and `false` comes back.
    pub(super) fn take_back(&mut self, leaves: Vec<Hash>) -> bool {
        (self.tree, self.taken, self.unstored) = (self.before.clone(), leaves, None);
        self.fold();
        self.tree.size() >= self.covered
    }

    /// Begins a new tree, whose leaf 0 is this record.
    pub(super) fn start_over(&mut self, first: u64) {
        (self.first, self.covered) = (first, 0);
        (self.before, self.tree) = (Tree::new(), Tree::new());
        self.taken.clear();
    }

    /// The last record that the newest stored checkpoint covers; 0 where there is none.
    pub(super) fn covered_to(&self) -> u64 {
        if self.covered == 0 { 0 } else { self.first + self.covered - 1 }
    }

    /// Signs a checkpoint over the tree; none where no leaf of it is without one.
    fn signed(&self, segment: u64, time: i64) -> io::Result<Option<Unstored>> {
        if self.tree.size() <= self.covered {
            return Ok(None);
        }
        let note = sign(&self.signer, self.first, &self.tree, segment, time, None)?;
        Ok(Some(Unstored { note, size: self.tree.size() }))
    }

    /// Signs a checkpoint and stores it at once, as a start does; its text.
    pub(super) fn vouch(&mut self, storage: &dyn Storage, segment: u64, time: i64) -> io::Result<Option<String>> {
        let Some(Unstored { note, size }) = self.signed(segment, time)? else { return Ok(None) };
        storage.put_note(CHECKPOINT, note.as_bytes())?;
        self.covered = size;
        Ok(Some(note))
    }

    /// Signs a checkpoint that is to be stored.
    pub(super) fn prepare(&mut self, segment: u64, time: i64) -> io::Result<()> {
        self.unstored = self.signed(segment, time)?;
        Ok(())
    }

    /// The checkpoint that is to be stored. Where the segment is sealed or read again it is dropped: what comes of that is signed anew.
    pub(super) fn take_unstored(&mut self) -> Option<Unstored> {
        self.unstored.take()
    }

    /// The seal of the present segment, which ends with the last leaf of the tree and this chain.
    pub(super) fn seal(&self, segment: u64, chain: Chain, next: &VerifyingKey, time: i64) -> io::Result<Sealing> {
        Sealing::new(&self.signer, self.first, &End { segment, tree: self.tree.clone(), chain }, next, time)
    }

    /// The next segment has begun under its key; the seal of the one before is to be stored step by step.
    pub(super) fn succeed(&mut self, sealing: Sealing, next: Signer) {
        // What was signed before and is not stored would take the place of the seal, which covers more.
        (self.signer, self.before, self.sealing, self.unstored) = (next, self.tree.clone(), Some(sealing), None);
    }
}

/// Where the tree stood after a segment.
#[derive(Clone)]
pub(super) struct End {
    /// The segment's first record.
    pub(super) segment: u64,
    pub(super) tree: Tree,
    /// The chain after its last record.
    pub(super) chain: Chain,
}

/// The seal of a segment that has ended. Doing a step again does no harm.
pub(super) struct Sealing {
    segment: u64,
    size: u64,
    note: Option<String>,
    peaks: Option<String>,
    step: u8,
}

impl Sealing {
    /// The seal of the segment that ended so, with its own key, for the key of the next.
    pub(super) fn new(signer: &Signer, first: u64, end: &End, next: &VerifyingKey, time: i64) -> io::Result<Self> {
        let note = sign(signer, first, &end.tree, end.segment, time, Some(next.clone()))?;
        Ok(Self { note: Some(note), ..Self::without_note(end) })
    }

    /// The end of a segment for which nobody vouches: only the key follows.
    pub(super) fn of_nothing() -> Self {
        Self { segment: 0, size: 0, note: None, peaks: None, step: 0 }
    }

    /// The same where the note is stored already, or nobody can sign one.
    pub(super) fn without_note(end: &End) -> Self {
        Self { segment: end.segment, size: end.tree.size(), note: None, peaks: Some(peaks_text(end.chain, &end.tree)), step: 0 }
    }

    /// Does all steps.
    pub(super) fn complete(mut self, storage: &dyn Storage) -> io::Result<()> {
        while !self.go_on(storage)? {}
        Ok(())
    }

    /// Does the next step; whether it was the last.
    fn go_on(&mut self, storage: &dyn Storage) -> io::Result<bool> {
        match self.step {
            0 => self.note.as_ref().map_or(Ok(()), |note| storage.put_note(&seal_name(self.segment), note.as_bytes()))?,
            1 => self.peaks.as_ref().map_or(Ok(()), |peaks| storage.put_note(&peaks_name(self.segment), peaks.as_bytes()))?,
            2 => storage.erase_key()?,
            _ => storage.promote_key()?,
        }
        self.step += 1;
        Ok(self.step > LAST_STEP)
    }
}

/// A checkpoint as a signed note; a seal where it names the next key.
pub(super) fn sign(signer: &Signer, first: u64, tree: &Tree, segment: u64, time: i64, next: Option<VerifyingKey>) -> io::Result<String> {
    let name = signer.key().name().to_owned();
    let checkpoint = Checkpoint { name, size: tree.size(), root: tree.root(), first, segment, time, next };
    signer.sign(&checkpoint.text()).map_err(io::Error::other)
}

/// A new key for the next segment, stored as that.
pub(super) fn next_key(storage: &dyn Storage, name: &str) -> io::Result<Signer> {
    let next = Signer::generate(name)?;
    storage.put_next_key(next.to_private_text().map_err(io::Error::other)?.as_bytes())?;
    Ok(next)
}

impl Core {
    /// Stores a checkpoint that was signed, and shows it to those who wait for it.
    pub(super) fn store_checkpoint(&self, notary: &mut Notary, Unstored { note, size }: Unstored) {
        match self.storage.put_note(CHECKPOINT, note.as_bytes()) {
            Ok(()) => {
                notary.covered = size;
                self.show(notary, &note);
            }
            Err(error) => self.checkpoint_failed(&error),
        }
    }

    fn show(&self, notary: &Notary, note: &str) {
        self.covered.store(notary.covered_to(), Ordering::Relaxed);
        self.covered_at.store(self.options.clock.unix_nanos(), Ordering::Relaxed);
        self.newest.send_replace(Some(Arc::from(note)));
    }

    /// Does one step of the seal that is under way, if one is; whether there are more.
    pub(super) fn go_on_sealing(&self, notary: &mut Notary) -> io::Result<bool> {
        let Some(mut sealing) = notary.sealing.take() else { return Ok(false) };
        let done = sealing.go_on(&*self.storage);
        // A seal is a checkpoint too, where none that covers more came before it; not before its peaks are there too.
        let newest = sealing.note.clone().filter(|_| sealing.step == 2 && done.is_ok() && sealing.size > notary.covered);
        let size = sealing.size;
        if !matches!(done, Ok(true)) {
            notary.sealing = Some(sealing);
        }
        if let Some(note) = newest {
            self.storage.put_note(CHECKPOINT, note.as_bytes())?;
            notary.covered = size;
            self.show(notary, &note);
        }
        done.map(|done| !done)
    }

    /// Does all that is left of the seal that is under way.
    pub(super) fn finish_sealing(&self, notary: &mut Notary) -> io::Result<()> {
        while self.go_on_sealing(notary)? {}
        Ok(())
    }

    /// Seals the present segment, after which none follows in this life.
    pub(super) fn seal_for_good(&self, notary: &mut Notary, tail: &Tail) -> io::Result<()> {
        self.finish_sealing(notary)?;
        let next = next_key(&*self.storage, &self.options.key_name())?;
        let sealing = notary.seal(tail.first_seq, tail.chain, next.key(), self.options.clock.unix_seconds())?;
        notary.succeed(sealing, next);
        self.finish_sealing(notary)
    }
}

const LAST_STEP: u8 = 3;
