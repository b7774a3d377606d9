//! New segments, and the way back after the disk failed.
//!
//! Repair never believes the file it was writing: it reads it again, keeps what the chain confirms, writes that to a new file where the old one is
//! distrusted, and goes on in a new segment whose first record says why and how many records were refused meanwhile.
//!
//! Owns: rotation and repair within one life of the process. Leaves to others: what an earlier life left (`recovery`).
//!
//! INVARIANT: a segment begins only when the one before it is durable, so a crash can tear the last segment alone.

use std::io::{self, BufReader, Read};

use super::log::{AppendError, Options};
use super::notary::{Notary, Sealing, next_key};
use super::note::VerifyingKey;
use super::queue::Gate;
use super::record::{Kind, Record};
use super::recovery::{self, Scan};
use super::storage::{Storage, append_all, segment_name};
use super::tree::Hash;
use super::writer::{Core, Tail};

impl Core {
    /// Takes up work again after the gate closed; `false` when the disk is not ready for it.
    pub(super) fn repair(&self, notary: &mut Notary, why: Gate) -> bool {
        // A log that cannot be sealed cannot be written either.
        if self.finish_sealing(notary).is_err() {
            return false;
        }
        let mut tail = self.tail();
        match self.try_repair(notary, &mut tail, why) {
            Ok(()) => {
                let next_seq = tail.next_seq;
                self.publish(&tail);
                self.acknowledge(&mut tail, next_seq);
                true
            }
            Err(_not_ready) => false,
        }
    }

    fn try_repair(&self, notary: &mut Notary, tail: &mut Tail, why: Gate) -> io::Result<()> {
        if tail.is_astray {
            return self.leave_astray(notary, tail);
        }
        let (lost, leaves) = self.confirm(tail)?;
        if tail.is_distrusted {
            self.copy_confirmed(tail)?;
        } else {
            if self.storage.size(&tail.name)? > tail.len {
                self.storage.truncate(&tail.name, tail.len)?;
            }
            self.storage.sync(&tail.name)?;
        }
        let goes_on = notary.take_back(leaves);
        if tail.len == 0 {
            self.storage.remove(&tail.name)?;
        }
        let refused = self.queue().refused;
        let note = match lost {
            0 => why.as_str().to_owned(),
            lost => format!("{}; {lost} records written before were not on the disk any more", why.as_str()),
        };
        let first = Record { note: Some(note.into()), count: Some(refused), ..started("reopen") };
        let began = self.follow(notary, tail, &first, goes_on).and_then(|()| tail.file.sync());
        if let Err(error) = began {
            tail.is_distrusted = true;
            return Err(error);
        }
        tail.is_distrusted = false;
        self.open_gate();
        Ok(())
    }

    /// Begins the segment after the present one, which is sealed by and by where the tree goes on.
    fn follow(&self, notary: &mut Notary, tail: &mut Tail, first: &Record<'_>, goes_on: bool) -> io::Result<()> {
        tail.leaves.clear();
        tail.due_from = tail.next_seq;
        if tail.len == 0 {
            // The segment was never begun as far as anybody can know: its key is still good.
            begin_segment(&self.options, &*self.storage, tail, first, notary.signer().key())?;
        } else {
            let next = next_key(&*self.storage, &self.options.key_name())?;
            let sealing = match goes_on {
                true => notary.seal(tail.first_seq, tail.chain, next.key(), self.options.clock.unix_seconds())?,
                false => Sealing::of_nothing(),
            };
            begin_segment(&self.options, &*self.storage, tail, first, next.key())?;
            notary.succeed(sealing, next);
        }
        if !goes_on {
            notary.start_over(tail.first_seq);
        }
        self.follows(tail);
        Ok(())
    }

    /// What was written is not at the end of the log: somebody else has removed, replaced or changed its file, which is now `size` long.
    pub(super) fn go_astray(&self, tail: &mut Tail, size: Option<u64>) {
        tracing::error!(origin = self.options.origin, file = tail.name, "{}", Gate::Astray.as_str());
        // What stands there stays as it was before this write, and is for people to look at.
        let before = size.map_or(tail.len, |size| size.saturating_sub(tail.lines.len() as u64));
        let _as_far_as_it_goes = tail.file.truncate(before);
        tail.is_astray = true;
        self.put_back(tail, AppendError::Io(io::ErrorKind::NotFound));
        self.close_gate(Gate::Astray);
    }

    /// Refuses what was to be written, and keeps the ends for later.
    fn put_back(&self, tail: &mut Tail, why: AppendError) {
        let (kept, dropped): (Vec<_>, Vec<_>) = std::mem::take(&mut tail.sealed).into_iter().partition(|item| item.entry.kind().is_kept());
        dropped.into_iter().for_each(|item| self.refuse(tail, item, why));
        let kept = kept.into_iter().map(|item| self.refuse_but_keep(tail, item, why)).collect();
        let later = std::mem::replace(&mut self.queue().items, kept);
        self.queue().items.extend(later);
    }

    /// Goes on in a new segment behind records that are not where they were written: numbers and chain go on too, so `verify`
    /// names what is missing until somebody puts it back.
    fn leave_astray(&self, notary: &mut Notary, tail: &mut Tail) -> io::Result<()> {
        let (records, refused) = (tail.next_seq - tail.first_seq, self.queue().refused);
        let note = format!("{}; it held {records} records, from record {} on ({})", Gate::Astray.as_str(), tail.first_seq, tail.name);
        let first = Record { note: Some(note.into()), count: Some(refused), ..started("reopen") };
        // Its name is gone, the file is not: what was written to it was.
        let goes_on = !tail.is_distrusted && tail.file.sync().is_ok();
        notary.take(&mut tail.leaves);
        notary.fold();
        self.follow(notary, tail, &first, goes_on)?;
        tail.is_astray = false;
        tail.file.sync().inspect_err(|_| tail.is_distrusted = true)?;
        self.open_gate();
        Ok(())
    }

    /// Reads the segment again. What the chain confirms is the truth from here on; how many records it does not, and the leaves of those it does.
    fn confirm(&self, tail: &mut Tail) -> io::Result<(u64, Vec<Hash>)> {
        let bytes = self.storage.read(&tail.name, 0)?.take(tail.len);
        let mut scan = Scan::new(Some((tail.first_seq, tail.chain_before)));
        let mut leaves = Vec::new();
        let good = scan.prefix(&mut BufReader::new(bytes), |_, leaf, _| leaves.push(leaf))?;
        if good == tail.len && scan.chain() == Some(tail.chain) {
            return Ok((0, leaves));
        }
        let (old_next, next_seq) = (tail.next_seq, scan.next_seq().unwrap_or(tail.first_seq));
        (tail.len, tail.next_seq, tail.chain) = (good, next_seq, scan.chain().unwrap_or(tail.chain_before));
        tail.open.retain(|seq| *seq < next_seq);
        tail.is_distrusted = true;
        Ok((old_next - next_seq, leaves))
    }

    /// Puts the confirmed part into a new file in the old one's place: after a failed sync the old one's pages may be gone.
    fn copy_confirmed(&self, tail: &mut Tail) -> io::Result<()> {
        let copy = format!("{}{}", tail.name, recovery::COPY);
        // Left by an attempt that failed half way.
        if self.storage.list()?.contains(&copy) {
            self.storage.remove(&copy)?;
        }
        let file = self.storage.create(&copy)?;
        let mut from = self.storage.read(&tail.name, 0)?.take(tail.len);
        let mut block = vec![0; BLOCK];
        loop {
            match from.read(&mut block)? {
                0 => break,
                count => append_all(&*file, &block[..count])?,
            }
        }
        file.sync()?;
        self.storage.rename(&copy, &tail.name)?;
        tail.file = file;
        tail.is_distrusted = false;
        Ok(())
    }

    /// Ends the segment and begins the next, unless nobody asked and it holds its first record alone. Where that fails the present one just goes on
    /// growing.
    pub(super) fn rotate(&self, notary: &mut Notary, is_asked: bool) {
        let holds_more = |tail: &Tail| tail.next_seq > tail.first_seq + 1;
        if !(is_asked || holds_more(&self.tail())) || self.finish_sealing(notary).is_err() {
            return;
        }
        let Ok(next) = next_key(&*self.storage, &self.options.key_name()) else { return };
        let mut tail = self.tail();
        let running = tail.open.len() as u64;
        if tail.len == 0 || tail.is_distrusted || tail.is_astray || !self.has_room(&mut tail, SPACE_FOR_SEAL, running) {
            return;
        }
        // The bulk was synced outside the lock just now; callers that come meanwhile wait without blocking.
        if let Err(error) = tail.file.sync() {
            return self.sync_failed(&mut tail, &error);
        }
        let next_seq = tail.next_seq;
        self.acknowledge(&mut tail, next_seq);
        notary.take(&mut tail.leaves);
        notary.fold();
        let sealed = notary.seal(tail.first_seq, tail.chain, next.key(), self.options.clock.unix_seconds());
        // Without space the next round tries again; no record is refused for it.
        let begun = sealed.and_then(|sealing| {
            begin_segment(&self.options, &*self.storage, &mut tail, &started("rotate"), next.key())?;
            Ok(sealing)
        });
        if let Ok(sealing) = begun {
            notary.succeed(sealing, next);
            self.publish(&tail);
            self.follows(&mut tail);
        }
    }

    /// A segment has begun, and the one before it waits for its seal.
    pub(super) fn follows(&self, tail: &mut Tail) {
        let mut queue = self.queue();
        queue.wants_seal = true;
        queue.rotate_at = self.rotation_due();
        drop(queue);
        if tail.next_seq >= tail.due_from {
            self.note_uncovered(tail);
        }
    }
}

/// The first record of a segment, but for `open_from` and `log_key`.
pub(super) fn started(action: &'static str) -> Record<'static> {
    Record { action: Some(action.into()), ..Record::new(Kind::Lifecycle) }
}

/// Makes the segment that begins with the tail's next record, with `first` in it, and moves the tail there. On an error nothing has moved.
pub(super) fn begin_segment(
    options: &Options,
    storage: &dyn Storage,
    tail: &mut Tail,
    first: &Record<'_>,
    key: &VerifyingKey,
) -> io::Result<()> {
    let name = segment_name(tail.next_seq);
    let file = match storage.create(&name) {
        // No record of ours can be in it: the chain ends before its first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            recovery::set_aside_whole(storage, &name)?;
            storage.create(&name)?
        }
        made => made?,
    };
    let (seq, before) = (tail.next_seq, tail.chain);
    let record = Record { open_from: tail.open.first().copied(), log_key: Some(key.to_string().into()), ..first.clone() };
    let mut line = Vec::new();
    let (chain, leaf) = before.seal(&record.encode(&options.origin, options.clock.now()), seq, &mut line);
    if let Err(error) = append_all(&*file, &line) {
        drop(storage.remove(&name));
        return Err(error);
    }
    tail.leaves.push(leaf);
    (tail.file, tail.name) = (file, name);
    (tail.first_seq, tail.next_seq, tail.chain_before, tail.chain, tail.len) = (seq, seq + 1, before, chain, line.len() as u64);
    Ok(())
}

const BLOCK: usize = 1 << 16;
/// What must be free, besides what is kept for running calls, for a seal, its peaks, a key and a first record.
const SPACE_FOR_SEAL: u64 = 8 << 10;
