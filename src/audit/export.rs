//! Records in the forms that other systems read: one line each, with the place and the leaf by which the record can be proved.
//!
//! Owns: the mapping to NDJSON, CSV, OCSF (1.4.0, API Activity, class 6003) and CEF. Leaves to others: which records (`filter`).
//!
//! INVARIANT: one record is one line, whatever is in it; no cell of a CSV begins a formula.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::chain::{Line, leaf};
use super::encode::push_hex;
use super::record::Stored;

/// A form that records are exported in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object a line: `leaf`, `origin`, `seq`, and the record as it is stored.
    Ndjson,
    /// RFC 4180, with a head.
    Csv,
    /// OCSF 1.4.0, API Activity.
    Ocsf,
    /// ArcSight Common Event Format, version 0.
    Cef,
}

impl Form {
    /// The line before the first record, if there is one.
    pub fn head(self) -> Option<String> {
        (self == Self::Csv).then(|| format!("origin,seq,leaf,{}", COLUMNS.join(",")))
    }

    /// One record as a line, without its line feed; `None` where the stored line is none of a record.
    pub fn line(self, stored: &Stored) -> Option<String> {
        let leaf = leaf_hex(stored)?;
        Some(match self {
            Self::Ndjson => {
                let origin = serde_json::to_string(&stored.origin).ok()?;
                format!("{{\"leaf\":\"{leaf}\",\"origin\":{origin},\"record\":{},\"seq\":{}}}", stored.line, stored.seq)
            }
            Self::Csv => csv(stored, &leaf)?,
            Self::Ocsf => ocsf(stored, &leaf).to_string(),
            Self::Cef => cef(stored, &leaf),
        })
    }
}

/// The RFC 6962 leaf of a record: what an inclusion proof begins with.
pub fn leaf_hex(stored: &Stored) -> Option<String> {
    let mut digits = Vec::with_capacity(64);
    push_hex(&mut digits, &leaf(Line::split(stored.line.as_bytes())?.open_body).0);
    String::from_utf8(digits).ok()
}

const COLUMNS: [&str; 36] = [
    "time",
    "kind",
    "call_id",
    "intent_seq",
    "attempt",
    "method",
    "principal",
    "agent",
    "on_behalf_of",
    "credential_id",
    "peer",
    "session",
    "run",
    "trace_id",
    "upstream",
    "target",
    "tier",
    "labels",
    "decision",
    "reason",
    "code",
    "rule_ids",
    "policy_version",
    "limit",
    "outcome",
    "effect",
    "duration_us",
    "upstream_us",
    "cost",
    "args_hash",
    "args",
    "count",
    "actor",
    "action",
    "subject",
    "note",
];

fn members(stored: &Stored) -> Map<String, Value> {
    serde_json::from_str(&stored.line).unwrap_or_default()
}

fn csv(stored: &Stored, leaf: &str) -> Option<String> {
    let members = members(stored);
    let mut out = format!("{},{},{leaf}", cell(&stored.origin), stored.seq);
    for column in COLUMNS {
        let text = match members.get(column) {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect::<Vec<_>>().join(" ")
            }
            Some(other) => other.to_string(),
        };
        write!(out, ",{}", cell(&text)).ok()?;
    }
    Some(out)
}

/// A cell that a spreadsheet shows and does not compute: what an attacker named may begin like a formula, also behind what other readers take for the
/// end of a cell.
fn cell(text: &str) -> String {
    let (mut flat, mut begins, mut is_guarded) = (String::with_capacity(text.len()), true, false);
    for letter in text.chars() {
        if begins && matches!(letter, '=' | '+' | '-' | '@' | '＝' | '＋' | '－' | '＠') {
            flat.push('\'');
            is_guarded = true;
        }
        // A comma within quotes ends no cell for anybody.
        let ends = matches!(letter, ';' | '|' | '\t' | '\r' | '\n');
        begins = ends || begins && (letter.is_whitespace() || letter == '\u{feff}');
        match letter {
            // Line breaks within quotes are legal and yet split by many readers: one record is one line.
            '\r' => flat.push_str("\\r"),
            '\n' => flat.push_str("\\n"),
            '\t' => flat.push_str("\\t"),
            '\u{2028}' | '\u{2029}' => flat.extend(letter.escape_unicode()),
            letter if letter.is_control() => flat.extend(letter.escape_unicode()),
            letter => flat.push(letter),
        }
    }
    if flat.contains([',', '"', ' ', ';']) || is_guarded { format!("\"{}\"", flat.replace('"', "\"\"")) } else { flat }
}

/// What a record comes to for systems that know only success and failure.
fn status(stored: &Stored) -> (u8, &'static str) {
    let record = &stored.record;
    match (record.outcome.as_deref(), record.decision.as_deref()) {
        (Some("ok"), _) => (1, "Success"),
        (Some("unresolved" | "input_required"), _) => (0, "Unknown"),
        (Some(_), _) => (2, "Failure"),
        (None, Some("allow")) => (0, "Unknown"),
        (None, Some(_)) => (2, "Failure"),
        (None, None) => (0, "Unknown"),
    }
}

/// 1 informational, 2 low, 3 medium, 4 high: refusals by policy above others, and what may have happened unseen above these.
fn severity(stored: &Stored) -> u8 {
    let record = &stored.record;
    match (record.outcome.as_deref(), record.decision.as_deref(), record.effect.as_deref()) {
        (Some("unresolved"), ..) => 4,
        (Some(_), _, Some("unknown")) => 3,
        (_, Some("deny"), _) => 3,
        (Some("ok"), ..) | (None, Some("allow"), _) | (None, None, _) => 1,
        _ => 2,
    }
}

fn ocsf(stored: &Stored, leaf: &str) -> Value {
    let record = &stored.record;
    let members = members(stored);
    let text = |name: &str| members.get(name).cloned().unwrap_or(Value::Null);
    let (activity, activity_name) = match record.tier.as_deref() {
        Some("read") => (2, "Read"),
        Some("reversible") => (3, "Update"),
        _ => (99, "Other"),
    };
    let (status_id, status) = status(stored);
    let severity_id = severity(stored);
    let severity = ["Unknown", "Informational", "Low", "Medium", "High"].get(usize::from(severity_id)).copied();
    let peer = record.peer.as_deref().and_then(|peer| peer.parse::<std::net::SocketAddr>().ok());
    let endpoint = match peer {
        Some(peer) => json!({ "ip": peer.ip().to_string(), "port": peer.port() }),
        None => json!({ "name": record.transport.as_deref().unwrap_or("unknown") }),
    };
    let kept = [
        "action",
        "actor",
        "approval_id",
        "args_hash",
        "cost",
        "decision",
        "effect",
        "kind",
        "labels",
        "limit",
        "obligations",
        "openers",
        "outcome",
        "payload",
        "payload_keys",
        "policy_version",
        "reason",
        "replay_of",
        "rule_ids",
        "subject",
        "tier",
    ];
    let mut unmapped: Map<String, Value> = kept.iter().filter_map(|name| Some(((*name).to_owned(), members.get(*name)?.clone()))).collect();
    unmapped.extend([("leaf".to_owned(), json!(leaf)), ("origin".to_owned(), json!(stored.origin)), ("seq".to_owned(), json!(stored.seq))]);
    let mut event = json!({
        "activity_id": activity, "activity_name": activity_name,
        "actor": { "app_name": text("client"), "session": { "uid": text("session") }, "user": { "name": text("agent"), "uid": text("principal"), "credential_uid": text("credential_id") } },
        "api": {
            "operation": record.target.as_deref().or(record.method.as_deref()).unwrap_or(record.kind.as_str()),
            "request": { "uid": text("call_id") }, "response": { "error": text("code") }, "service": { "name": text("upstream") },
        },
        "category_name": "Application Activity", "category_uid": 6, "class_name": "API Activity", "class_uid": 6003,
        "count": text("count"), "duration": record.duration_us.map(|micros| micros / 1_000),
        "metadata": {
            "correlation_uid": record.run.as_deref().or(record.trace_id.as_deref()), "log_name": stored.origin, "original_time": stored.time,
            "product": { "name": "Doorward", "vendor_name": "Doorward", "version": env!("CARGO_PKG_VERSION") },
            "sequence": stored.seq, "uid": format!("{}:{}", stored.origin, stored.seq), "version": "1.4.0",
        },
        "severity": severity, "severity_id": severity_id, "src_endpoint": endpoint, "status": status, "status_id": status_id,
        "status_detail": text("note"), "time": stored.unix_nanos().div_euclid(1_000_000), "type_uid": 6003 * 100 + activity,
        "type_name": format!("API Activity: {activity_name}"), "unmapped": unmapped,
    });
    prune(&mut event);
    event
}

/// Takes out what is not known: OCSF has no nulls.
fn prune(value: &mut Value) {
    if let Value::Object(members) = value {
        members.values_mut().for_each(prune);
        members.retain(|_, value| !value.is_null() && !value.as_object().is_some_and(Map::is_empty));
    }
}

fn cef(stored: &Stored, leaf: &str) -> String {
    let record = &stored.record;
    let name = record.code.as_deref().or(record.outcome.as_deref()).or(record.action.as_deref()).unwrap_or(record.kind.as_str());
    let severity = [0, 2, 4, 6, 8].get(usize::from(severity(stored))).copied().unwrap_or(0);
    let version = env!("CARGO_PKG_VERSION");
    let mut out = format!("CEF:0|Doorward|Doorward|{version}|{}|{}|{severity}|", record.kind.as_str(), header(name));
    let mut say = |key: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let gap = if out.ends_with('|') { "" } else { " " };
            let _to_a_string = write!(out, "{gap}{key}={}", extension(value));
        }
    };
    let members = members(stored);
    let text = |name: &str| members.get(name).and_then(Value::as_str);
    let peer = record.peer.as_deref().and_then(|peer| peer.parse::<std::net::SocketAddr>().ok());
    say("rt", Some(&stored.unix_nanos().div_euclid(1_000_000).to_string()));
    say("externalId", Some(&format!("{}:{}", stored.origin, stored.seq)));
    say("suser", text("agent").or(text("actor")));
    say("suid", text("principal"));
    say("src", peer.map(|peer| peer.ip().to_string()).as_deref());
    say("spt", peer.map(|peer| peer.port().to_string()).as_deref());
    say("app", text("transport"));
    say("act", text("decision").or(text("action")));
    say("outcome", text("outcome"));
    say("reason", text("code"));
    say("destinationServiceName", text("upstream"));
    say("request", text("target").or(text("subject")));
    say("requestMethod", text("method"));
    say("cnt", record.count.map(|count| count.to_string()).as_deref());
    for (number, label, value) in [
        (1, "leaf", Some(leaf.to_owned())),
        (2, "call", text("call_id").map(str::to_owned)),
        (3, "run", text("run").map(str::to_owned)),
        (4, "rules", Some(record.rule_ids.join(" "))),
        (5, "policy", text("policy_version").map(str::to_owned)),
        (6, "effect", text("effect").map(str::to_owned)),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            say(&format!("cs{number}Label"), Some(label));
            say(&format!("cs{number}"), Some(&value));
        }
    }
    if let Some(micros) = record.duration_us {
        say("cn1Label", Some("duration_us"));
        say("cn1", Some(&micros.to_string()));
    }
    say("msg", text("note"));
    out
}

fn header(text: &str) -> String {
    flat(&text.replace('\\', "\\\\").replace('|', "\\|"))
}

fn extension(text: &str) -> String {
    flat(&text.replace('\\', "\\\\").replace('=', "\\="))
}

/// Line breaks as CEF writes them; other control characters have no form there.
fn flat(text: &str) -> String {
    let text = text.replace('\n', "\\n").replace('\r', "\\r");
    text.chars().map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cell_begins_a_formula() {
        assert_eq!(cell("=HYPERLINK(\"http://x\")"), "\"'=HYPERLINK(\"\"http://x\"\")\"");
        for first in ["=", "+", "-", "@", "＝"] {
            assert!(cell(&format!("{first}1")).starts_with("\"'"), "{first:?}");
            for before in ["x\t", "x;", " ", "\u{feff}", "\r", "a\n"] {
                assert!(cell(&format!("{before}{first}1")).contains(&format!("'{first}1")), "{before:?}{first:?}");
            }
        }
        assert!(!cell("a\u{1b}b\u{b}c\u{2028}d\u{85}e\tf").chars().any(|letter| letter.is_control() || letter == '\u{2028}'));
        assert_eq!((cell("plain"), cell("a,b"), cell("a\nb")), ("plain".to_owned(), "\"a,b\"".to_owned(), "a\\nb".to_owned()));
    }

    #[test]
    fn what_separates_is_escaped() {
        assert_eq!(header("a|b\\c\n"), "a\\|b\\\\c\\n");
        assert_eq!(extension("a=b\\c\r\u{1b}"), "a\\=b\\\\c\\r\u{fffd}");
    }
}
