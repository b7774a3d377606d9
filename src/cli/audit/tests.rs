//! Tests of what the questions print.

use clap::{CommandFactory, Parser};

use super::*;
use crate::audit::disk::Disk;
use crate::audit::follow::Follow;
use crate::audit::record::Kind;
use crate::audit::{Durability, Log, Options, Record};
use crate::clock::Clock;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
    #[arg(long, global = true)]
    json: bool,
}

fn ask(dir: &Path, words: &[&str]) -> (u8, String) {
    let line = Line::try_parse_from([&["audit"], words].concat()).unwrap();
    let mut out = Vec::new();
    let home = Home { audit: dir.to_owned(), keys: dir.join("keys"), context: None };
    let exit = run(&line.args, &home, line.json, &mut out).unwrap();
    (exit, String::from_utf8(out).unwrap())
}

/// A log with a refusal whose agent chose a hostile target, and a call that ended.
async fn log(dir: &Path) -> Log {
    let clock = Clock::fixed(1_795_255_200_000_000_000);
    let options = Options { clock, reserve_bytes: 0, ..Options::default() };
    let (log, _) = Log::open(options, std::sync::Arc::new(Disk::open(dir, &dir.join("keys"), "main").unwrap())).unwrap();
    let refusal = Record {
        agent: Some("demo".into()),
        target: Some("demo__delete\u{1b}[2J\n".into()),
        decision: Some("deny".into()),
        code: Some("policy_denied".into()),
        rule_ids: vec!["D1".into(), "D2".into()],
        call_id: Some("c1".into()),
        ..Record::new(Kind::Refusal)
    };
    log.append(log.encode(&refusal), Durability::Write).await.unwrap();
    let intent =
        Record { agent: Some("other".into()), target: Some("demo__read".into()), call_id: Some("c2".into()), ..Record::new(Kind::Intent) };
    let intent_seq = Some(log.append(log.encode(&intent), Durability::Write).await.unwrap().seq);
    let outcome = Record { call_id: Some("c2".into()), intent_seq, outcome: Some("ok".into()), ..Record::new(Kind::Outcome) };
    log.append(log.encode(&outcome), Durability::Write).await.unwrap();
    log
}

#[tokio::test]
async fn a_refusal_is_told_with_time_agent_target_decision_code_rules_and_call() {
    let dir = tempfile::tempdir().unwrap();
    let _log = log(dir.path()).await;
    let (exit, text) = ask(dir.path(), &["tail"]);
    let row = text.lines().find(|row| row.contains("refused")).unwrap();
    assert_eq!(exit, 0);
    for part in ["2026-11-2", "demo ", "demo__delete", " deny ", "code=policy_denied", "rules=D1,D2", "call=c1", "record=main:2"] {
        assert!(row.contains(part), "{part} in {row}");
    }
}

#[tokio::test]
async fn a_hostile_name_cannot_steer_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let _log = log(dir.path()).await;
    for words in [&["tail"][..], &["show", "c1"], &["find"], &["unresolved"], &["verify"]] {
        let (_, text) = ask(dir.path(), words);
        assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{words:?}");
    }
    assert!(ask(dir.path(), &["tail"]).1.contains("demo__delete\\u{1b}[2J\\u{a}"));
}

#[tokio::test]
async fn find_keeps_what_every_condition_admits() {
    let dir = tempfile::tempdir().unwrap();
    let _log = log(dir.path()).await;
    let found = |words: &[&str]| ask(dir.path(), &[&["find", "--json"], words].concat()).1.lines().count();
    assert_eq!(found(&[]), 4);
    assert_eq!(found(&["--agent", "demo"]), 1);
    assert_eq!(found(&["--tool", "demo__*"]), 2);
    assert_eq!(found(&["--tool", "demo__read"]), 1);
    assert_eq!(found(&["--kind", "refusal", "--decision", "deny", "--code", "policy_denied"]), 1);
    assert_eq!(found(&["--kind", "refusal", "--agent", "other"]), 0);
    assert_eq!(found(&["--since", "2026-11-21T10:00:00Z"]), 4);
    assert_eq!(found(&["--until", "2026-11-21T10:00:00Z"]), 0);
    assert_eq!(found(&["--limit", "2"]), 2);
}

#[tokio::test]
async fn show_tells_a_whole_call_by_id_or_by_record() {
    let dir = tempfile::tempdir().unwrap();
    let _log = log(dir.path()).await;
    let by_id = ask(dir.path(), &["show", "c2", "--json"]);
    assert_eq!((by_id.0, by_id.1.lines().count()), (0, 2));
    assert_eq!(ask(dir.path(), &["show", "4", "--json"]), by_id);
    assert_eq!(ask(dir.path(), &["show", "main:3", "--json"]), by_id);
    let home = Home { audit: dir.path().to_owned(), keys: dir.path().join("keys"), context: None };
    let nobody = Line::try_parse_from(["audit", "show", "nobody"]).unwrap();
    assert!(matches!(run(&nobody.args, &home, false, &mut Vec::new()), Err(Error::Nothing(_))));
}

#[tokio::test]
async fn verify_exits_with_3_when_a_record_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    log(dir.path()).await.close("done").await.unwrap();
    assert_eq!(ask(dir.path(), &["verify"]).0, 0);
    let path = dir.path().join("main/segments/00000000000000000001.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("\"deny\"", "\"allow\"", 1)).unwrap();
    let (exit, told) = ask(dir.path(), &["verify"]);
    assert_eq!(exit, 3);
    assert!(told.contains("main record 2 (00000000000000000001.jsonl:2): the record was changed"), "{told}");
    assert!(ask(dir.path(), &["verify", "--json"]).1.contains("\"sound\":false"));
}

#[tokio::test]
async fn a_running_call_is_told_apart_from_one_that_nobody_will_end() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path()).await;
    let intent = Record { call_id: Some("c3".into()), ..Record::new(Kind::Intent) };
    log.append(log.encode(&intent), Durability::Write).await.unwrap();
    assert!(ask(dir.path(), &["unresolved"]).1.starts_with("running "));
    log.close("done").await.unwrap();
    assert!(ask(dir.path(), &["unresolved"]).1.starts_with("abandoned "));
    let (_log, opened) = Log::open(
        Options { reserve_bytes: 0, ..Options::default() },
        std::sync::Arc::new(Disk::open(dir.path(), &dir.path().join("keys"), "main").unwrap()),
    )
    .unwrap();
    assert_eq!(opened.unresolved.len(), 1);
    let told = ask(dir.path(), &["unresolved"]).1;
    assert!(told.starts_with("unresolved ") && told.contains("call=c3"), "{told}");
}

#[tokio::test]
async fn following_goes_on_across_rotation_and_new_origins() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path()).await;
    let mut new = Follow::from_end(dir.path()).unwrap();
    assert!(new.more().unwrap().records.is_empty());
    log.append(log.encode(&Record::new(Kind::Person)), Durability::Sync).await.unwrap();
    log.rotate();
    log.append(log.encode(&Record::new(Kind::Late)), Durability::Sync).await.unwrap();
    let options = Options { origin: "local-1".into(), reserve_bytes: 0, ..Options::default() };
    let _other = Log::open(options, std::sync::Arc::new(Disk::open(dir.path(), &dir.path().join("keys"), "local-1").unwrap())).unwrap();
    log.close("done").await.unwrap();
    let kinds: Vec<_> =
        new.more().unwrap().records.iter().map(|stored| stored.record.kind).filter(|kind| *kind != Kind::Lifecycle).collect();
    assert_eq!(kinds, [Kind::Person, Kind::Late]);
    assert!(new.more().unwrap().records.is_empty());
}

#[test]
fn every_verb_shows_an_example() {
    for verb in Line::command().get_subcommands() {
        assert!(verb.get_after_help().is_some_and(|help| help.to_string().contains("doorward audit ")), "{}", verb.get_name());
    }
}

#[tokio::test]
async fn a_run_a_trace_a_session_and_a_call_have_a_timeline() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path()).await;
    let of_call = |kind| Record {
        call_id: Some("c3".into()),
        run: Some("r1".into()),
        trace_id: Some("t1".into()),
        session: Some("s1".into()),
        target: Some("demo\u{1b}[2J".into()),
        ..Record::new(kind)
    };
    let intent_seq = Some(log.append(log.encode(&of_call(Kind::Intent)), Durability::Write).await.unwrap().seq);
    let outcome = Record { intent_seq, call_id: Some("c3".into()), outcome: Some("ok".into()), ..Record::new(Kind::Outcome) };
    log.append(log.encode(&outcome), Durability::Write).await.unwrap();
    for (id, of) in [("r1", "run"), ("t1", "trace"), ("s1", "session"), ("c3", "call")] {
        let (_, text) = ask(dir.path(), &["timeline", id]);
        assert!(text.starts_with(&format!("{of} {id}  1 calls, 0 refused")), "{text}");
        assert!(text.contains("ended ok") && !text.contains('\u{1b}'), "its end, which does not name the {of}: {text}");
        let json: serde_json::Value = serde_json::from_str(&ask(dir.path(), &["timeline", id, "--json"]).1).unwrap();
        assert_eq!((&json["of"], json["traces"][0]["calls"][0]["records"].as_array().unwrap().len()), (&of.into(), 2));
    }
    let nobody = Line::try_parse_from(["audit", "timeline", "nobody"]).unwrap();
    assert!(matches!(run(&nobody.args, &Home::beside(dir.path()), false, &mut Vec::new()), Err(Error::Nothing(_))));
}

#[tokio::test]
async fn a_timeline_tells_who_approved_what_was_asked_and_what_may_have_happened() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path()).await;
    let of = |call: &'static str, kind| Record { call_id: Some(call.into()), run: Some("r2".into()), ..Record::new(kind) };
    let approval = Record { actor: Some("alice\u{1b}[2J".into()), action: Some("approve".into()), ..of("c4", Kind::Approval) };
    let asked = Record { action: Some("asked".into()), note: Some("asks q1 elicitation/create".into()), ..of("c4", Kind::Round) };
    let answered = Record { action: Some("answered".into()), answers: vec!["q1 accept hmac:1:2".into()], ..of("c4", Kind::Round) };
    let intent = Record { tier: Some("irreversible".into()), cost: Some(5), target: Some("up__pay".into()), ..of("c4", Kind::Intent) };
    for record in [approval, intent, asked, answered] {
        log.append(log.encode(&record), Durability::Write).await.unwrap();
    }
    let lost = Record { outcome: Some("unresolved".into()), effect: Some("unknown".into()), ..of("c5", Kind::Outcome) };
    for record in [of("c5", Kind::Intent), lost] {
        log.append(log.encode(&record), Durability::Write).await.unwrap();
    }
    let text = ask(dir.path(), &["timeline", "r2"]).1;
    assert!(text.starts_with("run r2  2 calls, 0 refused, 2 of which nobody knows whether they happened"), "{text}");
    for part in [
        "approval approve: by alice\\u{1b}[2J [main:",
        "NO END IS RECORDED: it may have happened",
        "forwarded: irreversible, cost 5 [main:",
        "round asked [main:",
        "\"asks q1 elicitation/create\"",
        "round answered: answers q1·accept·hmac:1:2 [main:",
        "UNRESOLVED (effect unknown): it may have happened",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn sums_count_what_was_called_what_was_refused_and_how_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path()).await;
    let flood = Record { agent: Some("demo".into()), code: Some("rate_limited".into()), count: Some(40), ..Record::new(Kind::Coalesced) };
    log.append(log.encode(&flood), Durability::Write).await.unwrap();
    let json: serde_json::Value = serde_json::from_str(&ask(dir.path(), &["stats", "--json"]).1).unwrap();
    assert_eq!((&json["total"]["calls"], &json["total"]["ok"], &json["total"]["refused"]), (&1.into(), &1.into(), &41.into()));
    assert_eq!(json["refusals"], serde_json::json!({ "policy_denied": 1, "rate_limited": 40 }));
    assert_eq!((&json["agents"][0]["name"], &json["agents"][0]["refused"]), (&"demo".into(), &41.into()));
    let text = ask(dir.path(), &["stats"]).1;
    assert!(text.contains("1 calls: 1 ok") && text.contains("█"), "{text}");
    assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
    let other: serde_json::Value = serde_json::from_str(&ask(dir.path(), &["stats", "--agent", "other", "--json"]).1).unwrap();
    assert_eq!((&other["total"]["calls"], &other["total"]["refused"]), (&1.into(), &0.into()));
}

#[test]
fn a_key_to_check_with_is_not_taken_for_the_folder_of_value_keys() {
    let key = crate::audit::note::Signer::generate("doorward/main").unwrap().key().to_string();
    for words in [vec!["audit", "verify", "--key", &key], vec!["audit", "verify", "--key", &key, "--keys", "var/keys"]] {
        let line = Line::try_parse_from(words).unwrap();
        let Verb::Verify(asked) = &line.args.verb else { panic!("another verb") };
        assert_eq!(asked.log_keys[0].to_string(), key);
    }
}
