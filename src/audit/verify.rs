//! The check of a log against its chain, and against what vouches for it: seals, checkpoints, anchors and keys.
//!
//! The chain finds a changed byte, and a line that was dropped, repeated, moved or put in, and a segment that is missing, and names the record. A
//! signed root finds all of that too where somebody made the chain anew, and a tail that was cut off: it names the records of which one is wrong. What
//! came after the newest anchor can be made anew by whoever holds the disk and the key: [`Report::unseen`] says what could not be seen. A log that is
//! being written may be checked; its last, unfinished line is left alone. Memory does not grow with the log.
//!
//! Owns: the judgement. Leaves to others: the format (`chain`, `tree`, `checkpoint`), who signed what (`trust`), and what a start makes of damage
//! (`recovery`).

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::ahead::{Ahead, Seen};
use super::chain::{Chain, Line};
use super::disk::{self, Disk};
use super::find::Logs;
use super::payload::erasures;
use super::report::missing;
use super::storage::{Storage, present, segment_name};
use super::tree::{Hash, Tree};
use super::trust::{Claim, Evidence, Notes, Source, Trust, declared_keys, parse_peaks, peaks_text, seal_file};

pub use super::report::{Finding, Held, Report};

/// What to check, and against what.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Only this log.
    pub origin: Option<String>,
    /// Only from the segment of this record on.
    pub from: Option<u64>,
    /// Only up to the segment of this record.
    pub to: Option<u64>,
    /// Only from the segment on that holds the last record of the newest anchor.
    pub since_anchor: bool,
    /// What the asker knows from elsewhere.
    pub trust: Trust,
}

/// Checks all origins in `dir`.
///
/// # Errors
/// A folder or file cannot be read.
pub fn verify_all(dir: &Path, asked: &Asked) -> io::Result<Vec<Report>> {
    let is_asked = |origin: &str| asked.origin.as_deref().is_none_or(|wanted| wanted == origin);
    let origins: Vec<_> = disk::origins(dir)?.into_iter().filter(|origin| is_asked(origin)).collect();
    let mut reports = Vec::new();
    for origin in &origins {
        let disk = Disk::existing(dir, origin);
        reports.push(verify_with(&disk, origin, &|| Notes::of(&disk), asked)?);
    }
    judge_missing(dir, &asked.trust, &mut reports)?;
    for anchor in &asked.trust.anchors {
        let origin = anchor.checkpoint.name.rsplit('/').next().unwrap_or_default();
        if is_asked(origin) && !origins.iter().chain(reports.iter().map(|report| &report.origin)).any(|known| known == origin) {
            let mut gone = Report { origin: origin.to_owned(), ..Report::default() };
            gone.blame(
                Some(1),
                &anchor.file,
                anchor.line,
                format!("the log is gone: this anchor says that it had {} records", anchor.checkpoint.size),
            );
            reports.push(gone);
        }
    }
    Ok(reports)
}

/// Checks the log of one origin against its chain alone.
///
/// # Errors
/// A file cannot be read.
pub fn verify(storage: &dyn Storage, origin: &str) -> io::Result<Report> {
    let mut report = Check::new(storage, origin, &Notes::default(), &Asked::default(), present(storage)?, &BTreeMap::new())?.run()?;
    report.blame_missing();
    Ok(report)
}

/// Tells which files are missing that records name, and that no erasure on record explains; it may be in another log than they.
fn judge_missing(dir: &Path, trust: &Trust, reports: &mut [Report]) -> io::Result<()> {
    if reports.iter().all(|report| report.sealed.wanting().next().is_none()) {
        return Ok(());
    }
    let erasures = erasures(&Logs::in_dir(dir)?, trust)?;
    for report in reports {
        report.sealed.explain_erased(&erasures);
        report.blame_missing();
    }
    Ok(())
}

/// Checks the log of one origin against all that vouches for it.
fn verify_with(storage: &dyn Storage, origin: &str, notes: &dyn Fn() -> io::Result<Notes>, asked: &Asked) -> io::Result<Report> {
    for _ in 0..TRIES {
        let before = present(storage)?;
        let evidence = notes()?;
        // Records are durable before anything vouches for them: what is read later covers what was read before, unless a segment came or went.
        if present(storage)? != before {
            continue;
        }
        let keys = match declared_keys(storage, &before) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            keys => keys?,
        };
        match Check::new(storage, origin, &evidence, asked, before, &keys)?.run() {
            // Retention took a segment away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A write that failed is taken back: a reader in the midst of it sees lines that never were. What is there twice is there.
            Ok(report) if report.is_live && !report.is_sound() => break,
            done => return done,
        }
    }
    let (notes, all) = (notes()?, present(storage)?);
    let keys = declared_keys(storage, &all)?;
    Check::new(storage, origin, &notes, asked, all, &keys)?.run()
}

struct Check<'a> {
    storage: &'a dyn Storage,
    notes: &'a Notes,
    report: Report,
    /// The segments to read.
    segments: Vec<(u64, String)>,
    /// Whether the last of them is the log's last.
    is_to_end: bool,
    /// The newest segment that retention removed, by the records, and by those of them that are signed.
    pruned: (u64, u64),
    /// The log's last segment but one, or its only one.
    last_but_one: u64,
    evidence: Evidence,
    /// The claims whose place was passed.
    judged: usize,
    /// The `seq` that comes next; unknown at the start of a log whose beginning is not there.
    next_seq: Option<u64>,
    /// The chains that the next line may follow: none when it cannot be known, two when the line before was changed in its body or its chain.
    before: Vec<Chain>,
    head: Option<(u64, Chain)>,
    /// The record that is its leaf 0, and the tree; none where records are missing or wrong, so that no root can be true.
    tree: Option<(u64, Tree)>,
    /// The last record that something signed bears out.
    borne_out: u64,
}

impl<'a> Check<'a> {
    fn new(
        storage: &'a dyn Storage,
        origin: &str,
        notes: &'a Notes,
        asked: &Asked,
        all: Vec<(u64, String)>,
        keys: &BTreeMap<u64, (String, String)>,
    ) -> io::Result<Self> {
        let mut report = Report { origin: origin.to_owned(), is_live: storage.is_locked(), ..Report::default() };
        let evidence = Evidence::of(origin, notes, &asked.trust, keys);
        let anchored = asked.trust.anchors_of(origin).filter_map(|anchor| anchor.checkpoint.last()).max();
        let from = if asked.since_anchor { asked.from.max(anchored) } else { asked.from };
        let up_to = |seq: u64| all.iter().take_while(|(first, _)| *first <= seq).count();
        let end = asked.to.map_or(all.len(), up_to);
        let begin = from.map_or(0, |seq| up_to(seq).saturating_sub(1)).min(end);
        report.trusts_keys = asked.trust.root_key.is_some() || !asked.trust.keys.is_empty();
        report.is_signed = evidence.claims.iter().any(|claim| claim.source != Source::Anchor);
        report.anchors = evidence.claims.iter().filter(|claim| claim.source == Source::Anchor).count() as u64;
        let (is_to_end, chosen) = (end == all.len(), all[begin..end].to_vec());
        let (before, next_seq, tree) = (vec![Chain::first(origin)], Some(1), Some((1, Tree::new())));
        let last_but_one = all.get(all.len().saturating_sub(2)).map_or(u64::MAX, |(first, _)| *first);
        let mut check = Self {
            storage,
            notes,
            report,
            segments: chosen,
            is_to_end,
            pruned: (0, 0),
            last_but_one,
            evidence,
            judged: 0,
            next_seq,
            before,
            head: None,
            tree,
            borne_out: 0,
        };
        check.begin(begin > 0);
        Ok(check)
    }

    /// Takes up chain and tree where the first segment to read begins: at record 1, or at the seal before it.
    fn begin(&mut self, is_part: bool) {
        let Some(first) = self.segments.first().map(|(first, _)| *first).filter(|first| *first > 1) else { return };
        if let Some(seal) = self.evidence.seal_before(first).cloned() {
            self.report.unread = Some(first - 1);
            self.report.pruned = (!is_part).then_some(first - 1);
            self.next_seq = Some(first);
            let beside = self.beside(&seal);
            self.before = beside.iter().map(|(chain, _)| *chain).collect();
            self.tree = beside.map(|(_, tree)| (seal.checkpoint.first, tree));
        } else if is_part {
            self.report.unread = Some(first - 1);
            self.next_seq = Some(first);
            self.before.clear();
            self.tree = None;
        }
        let before = |claim: &Claim| claim.checkpoint.last().is_none_or(|last| last < first);
        if self.report.unread.is_some() {
            self.borne_out = first - 1;
            self.judged = self.evidence.claims.partition_point(before);
            self.unread_claims();
        }
    }

    /// The chain and the tree that stand beside a seal, if the tree is the one that the seal signs.
    fn beside(&mut self, claim: &Claim) -> Option<(Chain, Tree)> {
        let (seal, last) = (&claim.checkpoint, claim.checkpoint.last());
        let Some(text) = self.notes.peaks.get(&seal.segment) else {
            self.missing_of_seal(seal.segment, last.unwrap_or(0), "peaks", "it is missing");
            return None;
        };
        let beside = parse_peaks(text, seal.size).filter(|(_, tree)| tree.root() == seal.root);
        if beside.is_none() {
            self.report.blame(last, &seal_file(seal.segment, "peaks"), 1, WRONG_PEAKS.to_owned());
        }
        beside
    }

    /// Claims about records that are not read can still be false in themselves, or disagree; and of segments that are gone, each has left its seal.
    fn unread_claims(&mut self) {
        let claims: Vec<_> = self.evidence.claims[..self.judged].to_vec();
        let mut next = 1;
        for claim in &claims {
            if let Some(fault) = &claim.fault {
                self.report.blame(claim.checkpoint.last(), &claim.file, claim.line, fault.clone());
            }
            if matches!(claim.source, Source::Seal(_)) {
                if self.report.pruned.is_some() && claim.checkpoint.segment != next && !self.notes.seals.contains_key(&next) {
                    self.report.blame(
                        Some(next),
                        &seal_file(next, "note"),
                        1,
                        "the seal of a segment that was removed is missing".to_owned(),
                    );
                }
                next = claim.checkpoint.last().unwrap_or(next).saturating_add(1);
                if self.report.unread >= Some(next) {
                    drop(self.beside(claim));
                }
            }
        }
        for pair in claims.windows(2) {
            let same = |of: fn(&Claim) -> u64| of(&pair[0]) == of(&pair[1]);
            if same(|claim| claim.checkpoint.size)
                && same(|claim| claim.checkpoint.first)
                && pair[0].checkpoint.root != pair[1].checkpoint.root
            {
                let what = format!("it has another root than {} for the same records", pair[0].file);
                self.report.blame(pair[1].checkpoint.last(), &pair[1].file, pair[1].line, what);
            }
        }
    }

    fn run(mut self) -> io::Result<Report> {
        self.report.torn = self.storage.list().unwrap_or_default().into_iter().filter(|name| name.contains(".torn")).collect();
        let chosen = std::mem::take(&mut self.segments);
        std::thread::scope(|scope| self.read(&chosen, &Ahead::start(scope, self.storage, &chosen)?))?;
        self.faults_up_to(u64::MAX);
        self.report.sealed.explain_pruned(self.pruned.1);
        if self.is_to_end {
            self.lost_records();
            self.gone();
        }
        if self.notes.checkpoint.is_none() && !self.notes.seals.is_empty() {
            // A log that has a seal had a checkpoint before, and it is only ever replaced.
            self.report.blame(Some(self.borne_out + 1), "checkpoint.note", 1, "it is missing".to_owned());
        }
        self.report.head = self.head.map(|(seq, chain)| (seq, chain.to_hex()));
        Ok(self.report)
    }

    fn read(&mut self, chosen: &[(u64, String)], ahead: &Ahead) -> io::Result<()> {
        for (at, (first_seq, name)) in chosen.iter().enumerate() {
            self.report.segments += 1;
            self.faults_up_to(*first_seq);
            let is_last = at + 1 == chosen.len() && self.is_to_end;
            self.segment(*first_seq, name, is_last, ahead)?;
            let end = self.head.map_or(0, |(seq, _)| seq);
            // What is signed about records that are lost says more than that a seal is.
            let is_sealed = is_last && self.judged == self.evidence.claims.len() && self.evidence.reached(*first_seq) > Some(end);
            let has_ended = at + 1 < chosen.len() || is_sealed;
            if has_ended && self.evidence.has_key(*first_seq) && !self.notes.seals.contains_key(first_seq) {
                self.missing_of_seal(*first_seq, end, "note", "the segment was ended and has no seal");
            }
        }
        Ok(())
    }

    /// A segment's seal comes after the next segment has begun, first the note and then the peaks, and all of it before it is the newest checkpoint
    /// or anything is signed under the next segment's key. So a part of the newest seal may still be to come; what is missing of any other was taken
    /// away.
    fn missing_of_seal(&mut self, segment: u64, last: u64, ending: &str, what: &str) {
        let reached = self.evidence.reached(segment);
        if segment >= self.last_but_one && reached.is_some_and(|reached| reached <= last) {
            self.report.unsealed = Some(last);
        } else {
            self.report.blame(Some(last), &seal_file(segment, ending), 1, what.to_owned());
        }
    }

    /// Segments that are missing before the first one: each was removed after a record that names it was signed, and the newest such record is
    /// still there, since the segment that it is in can only go after a newer one.
    fn gone(&mut self) {
        let (recorded, signed) = self.pruned;
        let is_missing = |last: u64| self.notes.seals.keys().copied().find(|segment| *segment > signed && *segment <= last);
        if let Some(segment) = self.report.pruned.and_then(is_missing) {
            let what = if segment > recorded { UNRECORDED } else { UNSIGNED };
            self.report.blame_first(segment, &segment_name(segment), what.to_owned());
        }
    }

    /// Tells what is wrong with keys and notes where its record stands, so that the first finding is the first wrong place.
    fn faults_up_to(&mut self, seq: u64) {
        for fault in self.evidence.faults.extract_if(.., |fault| fault.seq.is_none_or(|at| at <= seq)) {
            self.report.blame(fault.seq, &fault.file, fault.line, fault.what);
        }
    }

    /// Claims about records beyond the last one.
    fn lost_records(&mut self) {
        let claims: Vec<_> = self.evidence.claims.drain(self.judged..).collect();
        for claim in claims {
            let last = claim.checkpoint.last();
            match &claim.fault {
                Some(fault) if claim.source != Source::Anchor => self.report.blame(last, &claim.file, claim.line, fault.clone()),
                _ if last.is_none() => {}
                _ => {
                    let what = format!("it covers the records up to {}, and they end before that", last.unwrap_or_default());
                    self.report.blame(Some(self.next_seq.unwrap_or(1)), &claim.file, claim.line, what);
                }
            }
        }
    }

    fn segment(&mut self, first_seq: u64, name: &str, is_last: bool, ahead: &Ahead) -> io::Result<()> {
        let mut number = 0;
        while let Some(batch) = ahead.next()? {
            for seen in batch.lines() {
                number += 1;
                match seen {
                    Seen::Record(line, leaf) => {
                        if number == 1 && line.seq != first_seq {
                            // An earlier record may have been moved here.
                            let seq = self.next_seq.map_or(first_seq, |next| next.min(first_seq));
                            self.blame(Some(seq), name, number, "the file's name is not the number of its first record".to_owned());
                        }
                        self.line(&line, leaf, name, number);
                    }
                    Seen::Other => self.no_record(name, number),
                    // The writer has not finished it.
                    Seen::Torn if is_last && self.report.is_live => {}
                    Seen::Torn => self.blame(self.next_seq, name, number, "the last line is torn; the next start sets it aside".to_owned()),
                }
            }
        }
        Ok(())
    }

    fn no_record(&mut self, name: &str, number: u64) {
        self.report.records += 1;
        self.blame(self.next_seq, name, number, "the line is not a record".to_owned());
        self.next_seq = self.next_seq.map(|seq| seq.saturating_add(1));
        self.before.clear();
        self.tree = None;
    }

    fn line(&mut self, line: &Line<'_>, leaf: Hash, name: &str, number: u64) {
        self.report.records += 1;
        let expected = self.next_seq.unwrap_or(line.seq);
        if line.seq < expected {
            let what = format!("record {} stands here, again or too late, after record {}", line.seq, expected - 1);
            return self.blame(Some(expected), name, number, what);
        }
        let mut computed = self.before.first().map(|before| before.link(leaf));
        if line.seq > expected {
            self.blame(Some(expected), name, number, missing(expected, line.seq));
            computed = None;
            self.tree = None;
        } else if computed.is_some_and(|computed| computed != line.chain) {
            if !self.before.iter().skip(1).any(|before| before.link(leaf) == line.chain) {
                self.blame(Some(line.seq), name, number, "the record was changed, or the one before it was".to_owned());
            }
            self.tree = None;
        } else {
            computed = None;
        }
        self.before.clear();
        self.before.push(line.chain);
        self.before.extend(computed);
        self.next_seq = line.seq.checked_add(1);
        self.head = Some((line.seq, line.chain));
        if let Some(what) = self.report.sealed.look(self.storage, line, name, number) {
            self.blame(Some(line.seq), name, number, what);
        }
        if let Some(pruned) = line.pruned().and_then(|name| name.strip_suffix(".jsonl")?.parse().ok()) {
            self.pruned.0 = pruned;
            if line.seq <= self.evidence.signed_to {
                self.pruned.1 = pruned;
                self.report.removal = Some(line.seq);
            }
        }
        self.grow(line.seq, leaf, name, number);
    }

    fn blame(&mut self, seq: Option<u64>, file: &str, line: u64, what: String) {
        self.report.blame(seq, file, line, what);
    }

    /// Adds a record to the tree, and holds what covers exactly the records so far against it.
    fn grow(&mut self, seq: u64, leaf: Hash, name: &str, number: u64) {
        if self.evidence.starts.contains(&seq) && self.tree.as_ref().is_none_or(|(first, _)| *first != seq) {
            self.blame(Some(seq), name, number, "a new tree begins with this record: a start accepted damage before it".to_owned());
            self.tree = Some((seq, Tree::new()));
        }
        if let Some((_, tree)) = &mut self.tree {
            tree.push(leaf);
        }
        while let Some(claim) =
            self.evidence.claims.get(self.judged).filter(|claim| claim.checkpoint.last().is_none_or(|last| last <= seq)).cloned()
        {
            self.judged += 1;
            self.judge(seq, &claim);
        }
    }

    fn judge(&mut self, seq: u64, claim: &Claim) {
        let checkpoint = &claim.checkpoint;
        // What an anchor says was kept where nobody could change it: whoever has signed it, the records are held against it.
        if let Some(fault) = claim.fault.as_ref().filter(|_| claim.source != Source::Anchor) {
            return self.report.blame(Some(seq), &claim.file, claim.line, fault.clone());
        }
        // Where records are wrong, that was said, and no root can be true.
        let Some((first, tree)) = &self.tree else { return };
        if *first != checkpoint.first || checkpoint.last() != Some(seq) {
            if checkpoint.last() == Some(seq) {
                let what = format!("its tree begins with record {}, and the log's with record {first}", checkpoint.first);
                self.report.blame(Some(seq), &claim.file, claim.line, what);
            }
            return;
        }
        if tree.root() != checkpoint.root {
            let from = (self.borne_out + 1).max(*first).min(seq);
            let what = format!("of the records {from} to {seq} at least one is not what was signed");
            self.report.blame(Some(from), &claim.file, claim.line, what);
            self.tree = None;
            return;
        }
        let chain = self.head.map(|(_, chain)| chain);
        if let (Source::Seal(segment), Some(chain)) = (claim.source, chain) {
            match self.notes.peaks.get(&segment) {
                Some(text) if *text == peaks_text(chain, tree) => {}
                Some(_) => self.report.blame(Some(seq), &seal_file(segment, "peaks"), 1, WRONG_PEAKS.to_owned()),
                None => self.missing_of_seal(segment, seq, "peaks", "it is missing"),
            }
        }
        self.borne_out = seq;
        match &claim.fault {
            Some(fault) => self.report.blame(Some(seq), &claim.file, claim.line, fault.clone()),
            None => self.report.hold(seq, claim),
        }
    }
}

const UNRECORDED: &str = "the segment is gone, and no record says that retention removed it";
const UNSIGNED: &str = "the segment is gone, and the record of its removal is not signed: no gateway removes one before that";
const WRONG_PEAKS: &str = "it is not the chain and the tree that the seal was made of";
/// How often a log is looked at anew because it changed.
const TRIES: u32 = 5;
