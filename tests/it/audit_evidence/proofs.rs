//! One record proved by itself, and what is no proof.

use doorward::audit::disk::Disk;
use doorward::audit::note::VerifyingKey;
use doorward::audit::proof::{ProofError, ProveError, check, prove};
use doorward::audit::trust::Notes;
use proptest::prelude::*;

use super::maker::{Files, Maker, sealed, segment, signer};
use super::sound::folder;

fn proof_of(files: &Files, seq: u64) -> Result<String, ProveError> {
    let dir = folder(files);
    prove(&Disk::existing(dir.path(), "main"), &Notes::of(&Disk::existing(dir.path(), "main")).unwrap(), seq)
}

/// The key of the segment that a record of [`sealed`] is in.
fn key_for(seq: u64) -> VerifyingKey {
    let first = [46, 31, 17, 1].into_iter().find(|first| *first <= seq).unwrap();
    signer("doorward/main", &format!("owner {first}")).key().clone()
}

#[test]
fn every_signed_record_is_proved_and_holds_with_its_segments_key_alone() {
    let made = sealed("owner").made;
    for seq in 1..=55 {
        let proof = proof_of(&made, seq).unwrap();
        let proved = check(&proof, &key_for(seq)).unwrap_or_else(|wrong| panic!("{seq}: {wrong}\n{proof}"));
        assert_eq!((proved.seq, proved.checkpoint.name.as_str()), (seq, "doorward/main"));
        assert!(proved.record.contains(&format!("\"seq\":{seq},")), "{}", proved.record);
    }
    for seq in 56..=60 {
        assert!(matches!(proof_of(&made, seq), Err(ProveError::Unsigned(_))));
    }
    assert!(matches!(proof_of(&made, 0), Err(ProveError::Nothing(0))));
}

#[test]
fn a_proof_needs_the_records_segment_alone() {
    let mut made = sealed("owner").made;
    for first in [1, 17, 46] {
        made.files.remove(&segment(first)).unwrap();
    }
    assert!(check(&proof_of(&made, 40).unwrap(), &key_for(40)).is_ok());
}

#[test]
fn a_log_of_an_older_version_is_proved_by_the_first_seal_after_it() {
    let mut made = Maker::without_keys("main");
    made.records(7).begin_without_seal();
    made.records(7).start_to_sign("owner");
    made.records(4).rotate();
    let key = signer("doorward/main", "owner 17").key().clone();
    for seq in 1..=21 {
        assert_eq!(check(&proof_of(&made.made, seq).unwrap(), &key).unwrap().seq, seq);
    }
}

#[test]
fn a_changed_record_gets_no_proof_and_a_changed_proof_does_not_hold() {
    let made = sealed("owner").made;
    let mut changed = made.clone();
    let text = String::from_utf8(changed.files[&segment(17)].clone()).unwrap().replacen("demo__write", "demo__read0", 1);
    changed.files.insert(segment(17), text.into_bytes());
    assert!(matches!(proof_of(&changed, 20), Err(ProveError::Unsound(20))));

    let proof = proof_of(&made, 20).unwrap();
    let told = |from: &str, to: &str| check(&proof.replacen(from, to, 1), &key_for(20)).unwrap_err();
    assert_eq!(told("demo__write", "demo__wrote"), ProofError::Record);
    assert_eq!(told("\"seq\":20", "\"seq\":21"), ProofError::Record);
    assert_eq!(told("\"seq\":20", "\"seq\":31"), ProofError::Place);
    assert_eq!(told("\"origin\":\"main\"", "\"origin\":\"mine\""), ProofError::Place);
    assert_eq!(told("doorward_proof\":1", "doorward_proof\":2"), ProofError::Form);
    assert_eq!(told("\"record\":{", "\"record\": {"), ProofError::Form);
    assert!(matches!(told("\\n30\\n", "\\n31\\n"), ProofError::Checkpoint(_)));
    assert!(matches!(check(&proof, &key_for(1)), Err(ProofError::Checkpoint(_))));
}

#[test]
fn a_proof_among_ten_million_records_with_a_usual_record_is_two_kibibytes() {
    // Of a demo gateway's own log: an intent has 800 bytes, an outcome 450. Paths there have 20 hashes on average, and never more than 24.
    let proof = proof_of(&sealed("owner").made, 20).unwrap();
    let (path, rest) = proof.split_once("\"path\":\"").unwrap().1.split_once('"').unwrap();
    let record = rest.split_once(",\"record\":").unwrap().1.len();
    // Numbers there have up to eight digits instead of two: the size and the segment.
    let without_either = proof.len() - path.len() - record + 12;
    for (hashes, record) in [(20, 800), (24, 450), (24, 0)] {
        let whole = without_either + (hashes * 32_usize).div_ceil(3) * 4 + record;
        println!("{hashes} hashes and a record of {record} bytes: {whole} bytes");
        assert!(whole <= 2048, "{whole}");
    }
}

proptest! {
    #[test]
    fn no_changed_byte_of_a_proof_holds_and_none_makes_the_reader_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let proof = PROOF.with(Clone::clone);
        let mut bytes = proof.into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        prop_assert!(String::from_utf8(bytes).map_or(true, |changed| check(&changed, &key_for(20)).is_err()));
    }

    #[test]
    fn nothing_makes_the_reader_of_proofs_panic(text in "\\PC{0,80}") {
        prop_assert!(check(&text, &key_for(20)).is_err());
    }
}

thread_local! {
    static PROOF: String = proof_of(&sealed("owner").made, 20).unwrap();
}
