//! Logs with seals and checkpoints, made by hand from fixed keys and a fixed clock: the same bytes every time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use doorward::audit::chain::Chain;
use doorward::audit::checkpoint::{Certificate, Checkpoint};
use doorward::audit::note::{Signer, VerifyingKey};
use doorward::audit::tree::Tree;
use doorward::audit::trust::peaks_text;
use doorward::audit::{Kind, Record};
use doorward::clock::Moment;

/// 2026-11-21T10:00:00Z.
pub const START: i64 = 1_795_255_200;

/// A key that is always the same for the same words.
pub fn signer(name: &str, words: &str) -> Signer {
    Signer::from_seed(name, digest(&SHA256, words.as_bytes()).as_ref()).unwrap()
}

/// The files of one origin by their path in its folder, and the checkpoints that went elsewhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Files {
    pub files: BTreeMap<String, Vec<u8>>,
    pub anchors: Vec<String>,
}

impl Files {
    /// Puts the files in place of what is in the folder.
    pub fn write(&self, home: &Path) {
        if home.exists() {
            fs::remove_dir_all(home).unwrap();
        }
        for folder in ["segments", "seals"] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        for (path, content) in &self.files {
            fs::write(home.join(path), content).unwrap();
        }
    }

    pub fn segments(&self) -> Vec<String> {
        self.files.keys().filter(|path| path.starts_with("segments/")).cloned().collect()
    }
}

/// Writes a log as a gateway does.
pub struct Maker {
    pub made: Files,
    origin: String,
    name: String,
    /// Whose keys: another word makes another log's.
    owner: String,
    chain: Chain,
    tree: Tree,
    next_seq: u64,
    first: u64,
    segment: u64,
    /// The key of the segment; none in a log of an older version.
    signer: Option<Signer>,
    time: i64,
}

impl Maker {
    /// A log with the first record of its first segment.
    pub fn new(origin: &str, owner: &str) -> Self {
        let mut made = Self::empty(origin, owner);
        made.signer = Some(signer(&made.name, &format!("{owner} 1")));
        made.begin("start");
        made
    }

    /// The same as an older version wrote it, without keys and notes.
    pub fn without_keys(origin: &str) -> Self {
        let mut made = Self::empty(origin, "nobody");
        made.begin("start");
        made
    }

    fn empty(origin: &str, owner: &str) -> Self {
        Self {
            made: Files::default(),
            origin: origin.to_owned(),
            name: format!("doorward/{origin}"),
            owner: owner.to_owned(),
            chain: Chain::first(origin),
            tree: Tree::new(),
            next_seq: 1,
            first: 1,
            segment: 1,
            signer: None,
            time: START,
        }
    }

    /// The key of the segment that is written.
    pub fn key(&self) -> VerifyingKey {
        self.signer.as_ref().unwrap().key().clone()
    }

    fn begin(&mut self, action: &str) {
        self.segment = self.next_seq;
        let key = self.signer.as_ref().map(|signer| signer.key().to_string().into());
        self.append(&Record { action: Some(action.into()), log_key: key, ..Record::new(Kind::Lifecycle) });
    }

    pub fn append(&mut self, record: &Record<'_>) {
        let path = segment(self.segment);
        let unix_nanos = self.time * 1_000_000_000 + self.next_seq as i64;
        let entry = record.encode(&self.origin, Moment { unix_nanos, boot_micros: self.next_seq, boot_id: None });
        let file = self.made.files.entry(path).or_default();
        let (chain, leaf) = self.chain.seal(&entry, self.next_seq, file);
        self.chain = chain;
        self.tree.push(leaf);
        self.next_seq += 1;
    }

    /// Some calls and refusals, `count` records.
    pub fn records(&mut self, count: u64) -> &mut Self {
        for _ in 0..count {
            let seq = self.next_seq;
            let call = format!("c{}", seq / 2);
            let record = match seq % 5 {
                0 => Record { code: Some("policy_denied".into()), decision: Some("deny".into()), ..Record::new(Kind::Refusal) },
                1 | 3 => Record { intent_seq: Some(seq - 1), outcome: Some("ok".into()), ..Record::new(Kind::Outcome) },
                _ => {
                    Record { args: Some(format!(r#"{{"path":"notes/{seq}","text":"ä \"quoted\""}}"#).into()), ..Record::new(Kind::Intent) }
                }
            };
            self.append(&Record { agent: Some("demo".into()), call_id: Some(call.into()), target: Some("demo__write".into()), ..record });
        }
        self
    }

    fn statement(&self, next: Option<VerifyingKey>) -> String {
        let (name, size, root) = (self.name.clone(), self.tree.size(), self.tree.root());
        let made = Checkpoint { name, size, root, first: self.first, segment: self.segment, time: self.time, next };
        self.signer.as_ref().unwrap().sign(&made.text()).unwrap()
    }

    /// A checkpoint, also sent elsewhere.
    pub fn checkpoint(&mut self) -> &mut Self {
        self.time += 10;
        let note = self.statement(None);
        self.made.files.insert("checkpoint.note".to_owned(), note.clone().into_bytes());
        self.made.anchors.push(note);
        self
    }

    /// Ends the segment and begins the next.
    pub fn rotate(&mut self) -> &mut Self {
        let next = signer(&self.name, &format!("{} {}", self.owner, self.next_seq));
        self.seal(&next);
        self.signer = Some(next);
        self.begin("rotated");
        self
    }

    /// Begins the next segment as a rotation does, whose seal of the one before is still to come.
    pub fn rotate_before_the_seal(&mut self) -> &mut Self {
        self.signer = Some(signer(&self.name, &format!("{} {}", self.owner, self.next_seq)));
        self.begin("rotated");
        self
    }

    /// Removes a segment, whatever the records say.
    pub fn remove(&mut self, first: u64) -> &mut Self {
        self.made.files.remove(&segment(first)).unwrap();
        self
    }

    /// Says that retention is to remove a segment.
    pub fn say_pruned(&mut self, first: u64) {
        let name = format!("{first:020}.jsonl");
        let record = Record { actor: Some("retention".into()), action: Some("prune".into()), ..Record::new(Kind::Lifecycle) };
        self.append(&Record { subject: Some(name.into()), ..record });
    }

    /// Ends the segment, as a stop between two steps of a rotation leaves it.
    pub fn seal(&mut self, next: &Signer) {
        self.time += 10;
        let note = self.statement(Some(next.key().clone()));
        let files = &mut self.made.files;
        files.insert(seal(self.segment, "note"), note.clone().into_bytes());
        files.insert(seal(self.segment, "peaks"), peaks_text(self.chain, &self.tree).into_bytes());
        files.insert("checkpoint.note".to_owned(), note.clone().into_bytes());
        self.made.anchors.push(note);
    }

    /// The operator vouches for the key of the segment that is written.
    pub fn certify(&mut self, root: &Signer) -> &mut Self {
        let certificate = Certificate { name: self.name.clone(), segment: self.segment, key: self.key() };
        let note = root.sign(&certificate.text()).unwrap();
        self.made.files.insert("root.note".to_owned(), note.into_bytes());
        self
    }

    /// Begins a new tree with the next segment, as a start does that accepts damage.
    pub fn begin_anew(&mut self) -> &mut Self {
        self.tree = Tree::new();
        self.first = self.next_seq;
        self.start();
        self
    }

    /// Begins a segment as an older version does.
    pub fn begin_without_seal(&mut self) {
        self.begin("rotated");
    }

    /// Takes up a log of an older version.
    pub fn start_to_sign(&mut self, owner: &str) {
        self.owner = owner.to_owned();
        self.start();
    }

    fn start(&mut self) {
        self.signer = Some(signer(&self.name, &format!("{} {}", self.owner, self.next_seq)));
        self.begin("start");
    }
}

pub fn segment(first: u64) -> String {
    format!("segments/{first:020}.jsonl")
}

pub fn seal(first: u64, ending: &str) -> String {
    format!("seals/{first:020}.{ending}")
}

/// The key that an operator keeps offline.
pub fn root_key() -> Signer {
    signer("ops", "root")
}

/// Three sealed segments and one that is written, certified, with a checkpoint and some records after it: 60 records.
pub fn sealed(owner: &str) -> Maker {
    let mut made = Maker::new("main", owner);
    made.certify(&root_key()).records(11).checkpoint().records(4).rotate().records(13).rotate().records(12).checkpoint().records(2);
    made.rotate().records(9).checkpoint().records(5);
    made
}
