//! A watched folder: every way in which editors and configuration systems change a file is seen, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use doorward::policy::watch::{Changed, Watch, Watched};

fn watch(folder: &Path) -> Watch {
    let quick =
        Watched { debounce: Duration::from_millis(10), look_every: Duration::from_secs(600), ..Watched::folders(vec![folder.to_owned()]) };
    Watch::start(quick).unwrap()
}

async fn next(watch: &mut Watch) -> Option<Changed> {
    tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.expect("the change is seen")
}

/// A folder `p` with a policy in it, inside a temporary one.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("p");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("policy.csv"), "1").unwrap();
    (outer, folder)
}

#[tokio::test]
async fn a_written_and_a_renamed_file_are_seen() {
    let (_outer, folder) = folder();
    let mut watch = watch(&folder);
    fs::write(folder.join("policy.csv"), "2").unwrap();
    assert_eq!(next(&mut watch).await, Some(Changed::Content));
    fs::write(folder.join("next.tmp"), "3").unwrap();
    fs::rename(folder.join("next.tmp"), folder.join("policy.csv")).unwrap();
    assert_eq!(next(&mut watch).await, Some(Changed::Content));
    fs::write(folder.join("limits.yaml"), "limits: []").unwrap();
    assert_eq!(next(&mut watch).await, Some(Changed::Content));
}

#[tokio::test]
async fn a_swapped_symlink_is_seen_again_and_again() {
    let (_outer, folder) = folder();
    fs::remove_file(folder.join("policy.csv")).unwrap();
    for version in ["1", "2", "3"] {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("policy.csv"), version).unwrap();
    }
    let point = |version: &str| {
        std::os::unix::fs::symlink(version, folder.join("next")).unwrap();
        fs::rename(folder.join("next"), folder.join("data")).unwrap();
    };
    point("1");
    std::os::unix::fs::symlink("data/policy.csv", folder.join("policy.csv")).unwrap();
    let mut watch = watch(&folder);
    for version in ["2", "3"] {
        point(version);
        assert_eq!(next(&mut watch).await, Some(Changed::Content));
    }
}

#[tokio::test]
async fn a_replaced_folder_is_followed() {
    let (outer, folder) = folder();
    let mut watch = watch(&folder);
    fs::create_dir(outer.path().join("q")).unwrap();
    fs::write(outer.path().join("q/policy.csv"), "2").unwrap();
    fs::rename(&folder, outer.path().join("old")).unwrap();
    fs::rename(outer.path().join("q"), &folder).unwrap();
    assert_eq!(next(&mut watch).await, Some(Changed::Content));
    // The debounced look may have fallen between the two renames, so the change can be told twice; the next one is another's.
    fs::write(folder.join("policy.csv"), "3").unwrap();
    assert_eq!(next(&mut watch).await, Some(Changed::Content));
}

#[tokio::test]
async fn the_same_content_and_other_files_are_no_change() {
    let (_outer, folder) = folder();
    let mut watch = watch(&folder);
    fs::write(folder.join("policy.csv"), "1").unwrap();
    fs::write(folder.join("notes.txt"), "x").unwrap();
    watch.trigger();
    assert_eq!(next(&mut watch).await, Some(Changed::Asked));
    watch.asker().trigger();
    assert_eq!(next(&mut watch).await, Some(Changed::Asked));
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_a_fault() {
    assert!(Watch::start(Watched::folders(vec!["/nowhere/at/all".into()])).is_err());
}
