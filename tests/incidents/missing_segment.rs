//! A part of the log was taken away: which records are gone, and what can the rest still say?

use serde_json::json;

use super::{ask, lines};
use crate::support::{Site, Upstream};

#[tokio::test]
async fn the_records_that_are_gone_are_named_and_the_rest_is_still_asked() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    for round in 0..3 {
        let gateway = site.serve().await;
        gateway.client().call("up__save", json!({ "text": round.to_string() })).await;
        site.ends(round + 1).await;
        gateway.stop().await;
    }
    let mut segments: Vec<_> = std::fs::read_dir(site.path("var/audit/main/segments")).unwrap().map(|file| file.unwrap().path()).collect();
    segments.sort();
    let first = |path: &std::path::Path| path.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
    let (gone, next) = (first(&segments[1]), first(&segments[2]));
    std::fs::remove_file(&segments[1]).unwrap();

    let verdict = ask(&site, "doorward audit verify --gaps", &[], false).await;
    let checked = site.run(&["audit", "verify"]).await;
    let rest = lines(&site, "doorward audit find --since 1d --oldest --limit 1000", &[]).await;

    for told in [verdict, checked] {
        assert_eq!(told.code, 3, "{told:?}");
        assert!(told.out.contains(&format!("{gone} to {}", next - 1)) && told.out.contains("missing"), "{}", told.out);
    }
    assert_eq!(rest.iter().filter(|record| record["target"] == "up__save" && record["kind"] == "intent").count(), 2, "{rest:?}");
}
