//! The audit log as it stands in the files.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;

use super::{Site, lines, until};

impl Site {
    /// Every whole record of every origin, in the order of the files.
    pub fn records(&self) -> Vec<Value> {
        let mut files: Vec<_> = fs::read_dir(self.path("var/audit"))
            .into_iter()
            .flatten()
            .filter_map(|origin| fs::read_dir(origin.unwrap().path().join("segments")).ok())
            .flatten()
            .map(|file| file.unwrap().path())
            .filter(|file| file.extension().is_some_and(|extension| extension == "jsonl"))
            .collect();
        files.sort();
        let whole = |file| fs::read_to_string(file).unwrap_or_default();
        let text: Vec<String> = files.iter().map(whole).collect();
        let lines = text.iter().flat_map(|text| text.split_inclusive('\n')).filter(|line| line.ends_with('\n'));
        lines.map(|line| lines::sound(line.trim_end_matches('\n'))).collect()
    }

    /// The records of one kind.
    pub fn of_kind(&self, kind: &str) -> Vec<Value> {
        self.records().into_iter().filter(|record| record["kind"] == kind).collect()
    }

    /// Waits for a record of that kind with that value under that key.
    pub async fn recorded(&self, kind: &str, key: &str, value: &str) -> Value {
        let found = async || self.of_kind(kind).into_iter().find(|record| record[key] == value);
        until(&format!("a record {kind} with {key}={value}"), found).await
    }

    /// Waits until every one of so many intents has an end; the words of the ends, by tool, in the order of the intents.
    pub async fn ends(&self, intents: usize) -> Vec<String> {
        until(&format!("{intents} intents with an end each"), async || {
            let ends = ends(&self.records());
            (ends.len() >= intents && ends.values().all(|ends| !ends.is_empty())).then(|| {
                assert_eq!(ends.len(), intents, "other intents: {ends:?}");
                assert!(ends.values().all(|ends| ends.len() == 1), "more than one end: {ends:?}");
                ends.into_values().flatten().collect()
            })
        })
        .await
    }
}

/// Every line that any test's gateway leaves is a record.
impl Drop for Site {
    fn drop(&mut self) {
        if self.is_judged && !std::thread::panicking() {
            self.records();
        }
    }
}

/// The ends of each intent, by its place.
pub fn ends(records: &[Value]) -> BTreeMap<(String, u64), Vec<String>> {
    let mut ends = BTreeMap::<_, Vec<String>>::new();
    for record in records {
        let place = |seq: &Value| (record["origin"].as_str().unwrap().to_owned(), seq.as_u64().unwrap());
        match record["kind"].as_str() {
            Some("intent") => drop(ends.entry(place(&record["seq"])).or_default()),
            Some("outcome") => {
                let word = record.get("code").or(record.get("outcome")).and_then(Value::as_str).unwrap_or("?");
                let effect = record["effect"].as_str().unwrap_or("?");
                ends.entry(place(&record["intent_seq"])).or_default().push(format!("{word} {effect}"));
            }
            _ => {}
        }
    }
    ends
}
