//! The readers of foreign bytes, over the kept inputs of `fuzz/corpus` and over changed ones: whatever the bytes are, what `fuzz/src` says holds.
//!
//! `DOORWARD_FUZZ` sets how many changed inputs each gets, `DOORWARD_SEED` from where. The long campaigns are those of `cargo fuzz`:
//!
//! ```text
//! cargo install cargo-fuzz
//! RUSTC_BOOTSTRAP=1 cargo fuzz run -s none json -- -max_total_time=600        for `json`, and so on for each folder of `fuzz/corpus`
//! RUSTC_BOOTSTRAP=1 cargo fuzz cmin -s none json                               keeps the smallest inputs that reach as much
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use doorward::audit::simulated::Random;

use crate::audit_evidence::fuzz::mutate;

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use targets::{Check, TARGETS};

/// Longest input that is made.
const MOST_BYTES: usize = 16 << 10;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn folder(path: &str) -> PathBuf {
    crate::support::site::shipped("fuzz").join(path)
}

/// What is in the files of a folder, by their names.
fn kept(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder(&format!("corpus/{target}"))).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn holds(check: Check, input: &[u8], what: &str) {
    let checked = catch_unwind(AssertUnwindSafe(|| check(input)));
    assert!(checked.is_ok(), "{what}: {:?}", String::from_utf8_lossy(input));
}

/// One kept input, or the beginning of one and the end of another, with some changes.
fn made(kept: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let pick = |random: &mut Random| &kept[random.below(kept.len() as u64) as usize];
    let mut input = pick(random).clone();
    if random.below(4) == 0 {
        let other = pick(random);
        input.truncate(random.below(input.len() as u64 + 1) as usize);
        input.extend_from_slice(&other[random.below(other.len() as u64 + 1) as usize..]);
    }
    mutate(&mut input, random);
    input.truncate(MOST_BYTES);
    input
}

fn run(target: &str, rounds: u64) {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let (kept, first) = (kept(target), number("DOORWARD_SEED", 0));
    assert!(kept.len() >= 3, "{target} has no corpus");
    kept.iter().for_each(|input| holds(*check, input, target));
    for seed in first..first + number("DOORWARD_FUZZ", rounds) {
        holds(*check, &made(&kept, &mut Random(seed)), &format!("{target}, seed {seed}"));
    }
}

/// A test for each target, with so many rounds of it that all of them take about as long.
macro_rules! tests {
    ($($target:ident: $rounds:literal),* $(,)?) => {
        $(
            #[test]
            fn $target() {
                run(stringify!($target), $rounds);
            }
        )*

        #[test]
        fn every_target_has_a_test_a_corpus_and_a_program() {
            let tested = [$(stringify!($target)),*];
            assert_eq!(TARGETS.map(|(name, _)| name), tested);
            for name in tested {
                assert!(folder(&format!("fuzz_targets/{name}.rs")).exists(), "{name}");
            }
            let mut folders: Vec<_> = std::fs::read_dir(folder("corpus")).unwrap().map(|folder| folder.unwrap().file_name()).collect();
            folders.sort();
            assert_eq!(folders, tested);
        }
    };
}

tests! {
    headers: 4_000,
    json: 6_000,
    jsonrpc: 8_000,
    manifest: 1_000,
    policy: 1_000,
    seal: 3_000,
    segments: 1_000,
    sse: 4_000,
}
