//! The form of a record, and what is in one: the published schema, the canonical form, and each field that answers who, what and why.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use doorward::audit::find::read_all;
use doorward::audit::record::{DECISIONS, EFFECTS, OUTCOMES, Record};
use doorward::audit::redact::ValueKey;
use doorward::audit::simulated::SimulatedDisk;
use doorward::audit::trail::Audit;
use doorward::audit::values::{self, ValueKeys};
use doorward::audit::{Kind, Log, Options};
use doorward::clock::{Clock, Moment};
use doorward::config::DurabilityByTier;
use proptest::prelude::*;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Ask, Does, Site, Upstream, lines, until};

fn line(record: &Record<'_>, now: Moment, seq: u64) -> String {
    let entry = record.encode("main", now);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    format!("{}{seq}{},\"chain\":\"{}\"}}", text(entry.head()), text(entry.tail()), "0".repeat(64))
}

fn text() -> impl Strategy<Value = Option<Cow<'static, str>>> {
    proptest::option::of(any::<String>().prop_map(Cow::Owned))
}

fn word<const N: usize>(words: [&'static str; N]) -> impl Strategy<Value = Option<Cow<'static, str>>> {
    proptest::option::of((0..N).prop_map(move |at| Cow::Borrowed(words[at])))
}

/// Any JSON that a view of arguments can be.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![any::<String>().prop_map(Value::from), Just(Value::Null), any::<bool>().prop_map(Value::from)];
    let tree = leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(any::<String>(), inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    });
    proptest::collection::hash_map(any::<String>(), tree, 0..4).prop_map(|map| {
        let mut out = String::new();
        lines::canonical(&map.into_iter().collect(), &mut out);
        out
    })
}

fn record() -> impl Strategy<Value = Record<'static>> {
    let texts = (text(), text(), text(), text(), text(), text(), text(), text());
    let words = (word(DECISIONS), word(OUTCOMES), word(EFFECTS));
    let lists = proptest::collection::vec(any::<String>().prop_map(Cow::Owned), 0..3);
    let numbers = proptest::collection::vec(proptest::option::of(any::<u64>()), 4);
    (texts, words, (lists.clone(), lists), numbers, json_text()).prop_map(|(texts, words, lists, numbers, args)| Record {
        agent: texts.0,
        client: texts.1,
        target: texts.2,
        note: texts.3,
        method: texts.4,
        run: texts.5,
        waiver: texts.6,
        action: texts.7,
        decision: words.0,
        outcome: words.1,
        effect: words.2,
        rule_ids: lists.0,
        targets: lists.1,
        duration_us: numbers[0],
        result_bytes: numbers[1],
        count: numbers[2],
        queue_us: numbers[3],
        args: Some(args.into()),
        ..Record::new(Kind::Approval)
    })
}

proptest! {
    #[test]
    fn any_record_is_a_canonical_line_that_the_schema_accepts(record in record(), unix in 0..i64::MAX / 2, mono in 0..1_u64 << 53, seq in 1..1_u64 << 53) {
        let now = Moment { unix_nanos: unix, boot_micros: mono, boot_id: None };
        let read = lines::sound(&line(&record, now, seq));
        prop_assert_eq!(read["seq"].as_u64(), Some(seq));
    }
}

#[tokio::test]
async fn the_schema_is_printed_and_is_the_one_that_records_are_held_against() {
    let site = Site::empty();
    let done = site.run(&["schema", "audit"]).await;
    let printed: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(printed, doorward::audit::schema::line());
    assert_eq!(printed["properties"]["v"]["const"], 1);
}

#[test]
#[should_panic(expected = "the schema refuses")]
fn a_field_that_the_schema_does_not_have_is_found() {
    let now = Moment { unix_nanos: 0, boot_micros: 0, boot_id: None };
    let line = line(&Record::new(Kind::Approval), now, 1);
    lines::sound(&line.replacen("{\"kind\"", "{\"else\":1,\"kind\"", 1));
}

#[test]
#[should_panic(expected = "not canonical")]
fn a_line_with_its_fields_in_another_order_is_found() {
    let now = Moment { unix_nanos: 0, boot_micros: 0, boot_id: None };
    let line = line(&Record::new(Kind::Approval), now, 1);
    lines::sound(&line.replacen("{\"kind\":\"approval\",\"mono_us\":0", "{\"mono_us\":0,\"kind\":\"approval\"", 1));
}

/// An upstream whose `save` has labels and says by which argument calls are told apart.
async fn site(upstream: &Upstream) -> Site {
    let tools = "tools:\n  save: { tier: reversible, labels: [private, outward], idempotency: \"key:/order\", fields: { /order: keyed } }\n  \
                 echo: { tier: read }\n  typed: { tier: read }\n";
    Site::of(upstream).manifest("up", &format!("transport: {{ http: {{ url: \"{}\" }} }}\n{tools}", upstream.url()))
}

#[tokio::test]
async fn an_intent_says_what_the_call_is_part_of_and_what_it_touches() {
    let upstream = Upstream::start().await;
    let site = site(&upstream).await;
    let gateway = site.serve().await;
    let meta = json!({ "traceparent": "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01", "dev.doorward/run": "nightly" });
    let ask = |order: u64| Ask::modern("tools/call", json!({ "name": "up__save", "arguments": { "order": order }, "_meta": meta }));
    for order in [41, 41, 42] {
        assert_eq!(gateway.client().send(&ask(order)).await.code(), "ok");
    }

    let intents = site.of_kind("intent");
    let intent = &intents[0];
    assert_eq!((&intent["trace_id"], &intent["span_id"]), (&json!("0af7651916cd43dd8448eb211c80319c"), &json!("00f067aa0ba902b7")));
    assert_eq!((&intent["run"], &intent["labels"]), (&json!("nightly"), &json!(["private", "outward"])));
    // The second is a repeat of the first, and answered without a call.
    let records: Vec<_> = site.records().into_iter().filter(|record| record["kind"] == "intent" || record["kind"] == "replay").collect();
    let keys: Vec<_> = records.iter().map(|record| record["idempotency_key"].as_str().unwrap()).collect();
    assert!(keys[0] == keys[1] && keys[1] != keys[2], "{keys:?}");
    assert_eq!(keys[0], intent["args"]["order"], "the same value has the same hash wherever it stands");
}

#[tokio::test]
async fn an_outcome_tells_how_long_its_call_waited_and_whether_the_result_kept_its_promise() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let sound = json!({ "content": [], "structuredContent": { "count": 3 } });
    upstream.does("typed", Does::Result(sound));
    let gateway = site.serve().await;
    assert_eq!(gateway.client().call("up__typed", json!({})).await.code(), "ok");
    upstream.does("typed", Does::Result(json!({ "content": [], "structuredContent": { "count": "many" } })));
    assert_eq!(gateway.client().call("up__typed", json!({})).await.code(), "result_invalid");
    assert_eq!(gateway.client().call("up__echo", json!({})).await.code(), "ok");
    site.ends(3).await;

    let outcomes = site.of_kind("outcome");
    let kept: Vec<_> = outcomes.iter().map(|outcome| outcome.get("schema_ok").and_then(Value::as_bool)).collect();
    assert_eq!(kept, [Some(true), Some(false), None]);
    for outcome in &outcomes {
        let time = |field: &str| outcome[field].as_u64().unwrap_or_else(|| panic!("no {field}: {outcome}"));
        assert!(time("queue_us") + time("upstream_us") <= time("duration_us"), "{outcome}");
    }
}

#[tokio::test]
async fn a_refusal_tells_a_rule_that_denies_from_none_that_allows() {
    let upstream = Upstream::start().await;
    let rows = "p, R1, agent:demo, up__*, read, -, allow\np, D1, role:any, up__typed, any, -, deny\n";
    let site = Site::of(&upstream).policy(rows);
    let gateway = site.serve().await;
    for tool in ["save", "typed", "nothing"] {
        gateway.client().call(&format!("up__{tool}"), json!({})).await;
    }

    let told = |refusal: &Value| (refusal["reason"].clone(), refusal.get("rule_ids").cloned(), refusal.get("near_rules").cloned());
    let refusals: Vec<_> = site.of_kind("refusal").iter().map(told).collect();
    assert_eq!(refusals[0], (json!("default_deny"), None, Some(json!(["R1"]))));
    assert_eq!(refusals[1], (json!("denied_by_rule"), Some(json!(["D1"])), None));
    assert_eq!(refusals[2], (json!("unknown_name"), None, None));
}

#[tokio::test]
async fn a_message_that_is_not_understood_is_on_record_by_its_hash_and_size() {
    let site = Site::empty();
    let gateway = site.serve().await;
    for _ in 0..2 {
        gateway.client().send(&Ask::post("{\"sk-live-1\":")).await;
    }
    let refusals = site.of_kind("refusal");
    assert_eq!(refusals[0]["message_bytes"], 13);
    assert_eq!(refusals[0]["message_hash"], refusals[1]["message_hash"]);
    assert!(!refusals[0].to_string().contains("sk-live"));
}

#[tokio::test]
async fn a_refusal_by_a_schema_names_what_is_wrong_and_no_value() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let answer = gateway.client().call("up__echo", json!({ "text": ["sk-live-1"], "amount": -1 })).await;
    assert_eq!(answer.code(), "invalid_arguments");
    let refusal = site.recorded("refusal", "code", "invalid_arguments").await;
    let mut details: Vec<_> = refusal["details"].as_array().unwrap().iter().map(|detail| detail.as_str().unwrap()).collect();
    details.sort_unstable();
    assert_eq!(details, ["minimum /amount", "type /text"]);
    assert!(!refusal.to_string().contains("sk-live"), "{refusal}");
}

#[tokio::test]
async fn each_record_has_its_time_since_the_machine_started_and_each_start_says_which_start_that_was() {
    let site = Site::empty();
    let gateway = site.serve().await;
    gateway.client().call("nothing", json!({})).await;
    gateway.stop().await;
    let records = site.records();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(records[0]["boot_id"], boot.trim());
    assert!(records.windows(2).all(|pair| pair[0]["mono_us"].as_u64() <= pair[1]["mono_us"].as_u64()), "{records:#?}");
    assert!(records[0]["mono_us"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_reload_says_what_changed_from_which_version_to_which() {
    let upstream = Upstream::start().await;
    let site = Site::of(&upstream);
    let gateway = site.serve().await;
    let reloaded = async |number: usize| {
        gateway.signal(Signal::HUP);
        until("the reload", async || site.of_kind("policy_change").into_iter().filter(|record| record["actor"] == "SIGHUP").nth(number))
            .await
    };
    let same = reloaded(0).await;
    assert!(same["before"] == same["after"] && same["before"].as_str().unwrap().starts_with("sha256:"), "{same}");
    assert!(site.of_kind("catalog_change").is_empty() && site.of_kind("config_change").is_empty());

    let edit = |file: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(site.path(file)).unwrap();
        assert!(text.contains(from), "{text}");
        site.write(file, &text.replacen(from, to, 1));
    };
    edit("doorward.yaml", "listen: {", "listen: { max_body_bytes: 4096,");
    reloaded(1).await;
    let config = &site.of_kind("config_change")[0];
    assert_eq!((&config["actor"], &config["subject"]), (&json!("SIGHUP"), &json!("doorward.yaml")));
    assert_eq!(config["note"], "in force only after a restart: listen.max_body_bytes");
    assert_ne!(config["before"], config["after"]);

    edit("tool-manifests/up.yaml", "save: { tier: reversible }", "save: { tier: irreversible }");
    let changed = site.recorded("catalog_change", "action", "reload").await;
    assert_eq!(changed["subject"], "up: manifest");
    let starts = site.of_kind("lifecycle");
    let note = starts.iter().find_map(|record| record["note"].as_str().filter(|note| note.contains("catalog"))).unwrap();
    let (before, was) = (changed["before"].as_str().unwrap(), config["before"].as_str().unwrap());
    assert!(note.contains(&format!("catalog {before}")) && note.contains(&format!("config {was}")), "{note}");
    let policy = async || site.of_kind("policy_change").into_iter().find(|record| record["before"] != record["after"]);
    let policy = until("the policy's own record", policy).await;
    assert_eq!(policy["before"], same["after"], "a tier is part of the policy's version");
}

#[tokio::test]
async fn a_wall_clock_that_is_set_is_on_record_and_one_that_runs_is_not() {
    let clock = Clock::fixed(1_795_255_200_000_000_000);
    let disk = SimulatedDisk::new();
    let options = Options { clock: clock.clone(), has_thread: false, reserve_bytes: 0, ..Options::default() };
    let log = Log::open(options, Arc::new(disk.clone())).unwrap().0;
    let audit = Audit::new(log.clone(), ValueKey::new(&[7; 32]), DurabilityByTier::default(), clock.clone());
    let look = || {
        audit.store_counted();
        log.tick();
        let records = read_all(&disk).unwrap();
        records
            .iter()
            .filter(|stored| stored.record.action.as_deref() == Some("clock_step"))
            .map(|stored| stored.record.note.clone().unwrap())
            .collect::<Vec<_>>()
    };
    for _ in 0..100 {
        clock.pass(Duration::from_secs(3_600));
        assert!(look().is_empty());
    }
    clock.set(clock.unix_nanos() + 400_000_000);
    assert!(look().is_empty(), "below the bound");
    clock.set(clock.unix_nanos() + 400_000_000);
    assert_eq!(look(), ["the wall clock was set forward by 0.800 s"], "one that creeps is told too");
    clock.set(clock.unix_nanos() - 86_400_000_000_000);
    assert_eq!(look()[1..], ["the wall clock was set back by 86400.000 s"]);
    assert_eq!(look().len(), 2);
}

/// A log on a simulated disk with what the path uses on top of it.
fn audit(disk: &SimulatedDisk, keys: impl Into<ValueKeys>, clock: &Clock) -> Audit {
    let options = Options { clock: clock.clone(), has_thread: false, reserve_bytes: 0, space_check_ms: 0, ..Options::default() };
    let log = Log::open(options, Arc::new(disk.clone())).unwrap().0;
    Audit::new(log, keys, DurabilityByTier::default(), clock.clone())
}

/// What many a server's late answers leave: a flood of 40 of one sort.
fn flood(audit: &Audit) {
    for _ in 0..40 {
        audit.note_upstream("late answers", &Record { upstream: Some("up".into()), ..Record::new(Kind::Late) });
    }
}

#[test]
fn the_last_record_before_a_count_says_that_more_may_come() {
    let (disk, clock) = (SimulatedDisk::new(), Clock::fixed(1_795_255_200_000_000_000));
    let audit = audit(&disk, ValueKey::new(&[7; 32]), &clock);
    flood(&audit);
    audit.log().tick();
    // As a kill would leave it.
    let said: Vec<_> =
        read_all(&disk).unwrap().into_iter().skip(1).map(|stored| stored.record.action.unwrap_or_default().into_owned()).collect();
    assert_eq!(said, ["", "", "", "", "counted_from_here"]);
}

#[test]
fn a_count_that_cannot_be_stored_is_stored_later() {
    let (disk, clock) = (SimulatedDisk::new(), Clock::fixed(1_795_255_200_000_000_000));
    let audit = audit(&disk, ValueKey::new(&[7; 32]), &clock);
    for _ in 0..3 {
        flood(&audit);
        audit.log().tick();
        // A failed sync closes the gate; while it is closed a count is not taken.
        disk.faults(|faults| faults.sync = Some(std::io::ErrorKind::Other));
        audit.log().rotate();
        audit.log().tick();
        assert!(!audit.log().is_open());
        audit.store_all_counted();
        disk.faults(|faults| faults.sync = None);
        audit.log().tick();
        assert!(audit.log().is_open());
    }
    audit.store_all_counted();
    audit.log().tick();
    let records = read_all(&disk).unwrap();
    let counted: u64 = records.iter().filter(|stored| stored.record.kind == Kind::Coalesced).filter_map(|stored| stored.record.count).sum();
    let single = records.iter().filter(|stored| stored.record.kind == Kind::Late).count() as u64;
    assert_eq!(single + counted, 120, "{single} recorded and {counted} counted");
}

#[test]
fn the_key_of_values_turns_with_the_month_and_its_turn_is_on_record() {
    let (disk, clock, folder) = (SimulatedDisk::new(), Clock::fixed(1_795_255_200_000_000_000), tempfile::tempdir().unwrap());
    let keys = ValueKeys::open(folder.path(), clock.unix_nanos()).unwrap();
    let november = keys.current().hash(b"1");
    let audit = audit(&disk, keys, &clock);
    let turns = || {
        audit.store_counted();
        audit.log().tick();
        read_all(&disk).unwrap().into_iter().filter(|stored| stored.record.action.as_deref() == Some("value_key")).collect::<Vec<_>>()
    };
    assert!(turns().is_empty());
    clock.pass(Duration::from_secs(30 * 86_400));
    let turned = &turns()[0].record;
    assert!(november.starts_with(&format!("hmac:{}:", turned.before.as_ref().unwrap())));
    assert_eq!(turned.subject.as_deref(), Some("values-2026-12.key"));
    assert_eq!(turns().len(), 1);
    let found = values::all(folder.path()).unwrap().iter().any(|key| key.hash(b"1") == november);
    assert!(found, "what was hashed in November is still found");
}
