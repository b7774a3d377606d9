//! Servers on HTTP+SSE that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::row::{definitions, questions, result};
use crate::support::old_sse::{Act, OldServer};

/// A server that fails so until it is `well`.
pub async fn server(fault: &'static str, well: Arc<AtomicBool>) -> OldServer {
    OldServer::acting(definitions().to_vec(), move |message| {
        let is_act = ["act", "look"].iter().any(|tool| message["params"]["name"] == *tool);
        (message["method"] == "tools/call" && is_act).then(|| {
            let good = reply(message, &result(&message["params"]["arguments"]["n"]));
            if well.load(Ordering::Relaxed) { vec![says(&good)] } else { fails(fault, message, &good) }
        })
    })
    .await
}

fn reply(message: &Value, result: &Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": message["id"], "result": result })
}

fn says(message: &Value) -> Act {
    text(&message.to_string())
}

fn text(text: &str) -> Act {
    Act::Says(event(text))
}

fn event(text: &str) -> String {
    format!("event: message\ndata: {text}\n\n")
}

fn fails(fault: &str, message: &Value, good: &Value) -> Vec<Act> {
    let (id, whole) = (&message["id"], good.to_string());
    let note = |method: &str, params: Value| json!({ "jsonrpc": "2.0", "method": method, "params": params });
    let token = &message["params"]["_meta"]["progressToken"];
    let progress = note("notifications/progress", json!({ "progressToken": token, "progress": 1 }));
    match fault {
        "hangs" => vec![Act::Hangs],
        "answers never" => vec![],
        "resets" => vec![Act::Closes],
        "resets midway" => vec![Act::Says(event(&whole)[..40].to_owned()), Act::Ends],
        "drips" => vec![Act::Drips(event(&whole))],
        "wrong id" => {
            let mut other = good.clone();
            other["id"] = (id.as_u64().unwrap() + 1_000_000).into();
            vec![says(&other)]
        }
        "twice" => vec![says(good), says(good)],
        "huge" => vec![Act::Says(format!("data: {}\n\n", "x".repeat(50_000_000)))],
        "no json" => vec![text("nonsense")],
        "doubled inside" => vec![text(&whole.replace("\"content\"", "\"a\":1,\"a\":2,\"content\""))],
        "doubled" => vec![text(&whole.replacen('{', "{\"a\":{\"b\":1,\"b\":2},", 1))],
        "cut off" => vec![text(&whole[..whole.len() - 9])],
        "without result" => vec![text(&format!(r#"{{"jsonrpc":"2.0","id":{id}}}"#))],
        "deep" => vec![text(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{}{}}}"#, "[".repeat(1000), "]".repeat(1000)))],
        "exits" => vec![Act::Ends],
        "exits after" => vec![says(good), Act::Ends],
        "floods" => {
            let log = event(&note("notifications/message", json!({ "level": "info", "data": "x" })).to_string());
            vec![Act::Says(log.repeat(2_000)), says(good)]
        }
        "progress after" => vec![says(good), says(&progress), says(&progress)],
        "asks" => {
            let question =
                json!({ "jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": { "messages": [], "maxTokens": 1 } });
            vec![says(&question), says(good)]
        }
        "never ends" => vec![Act::Repeats(event(&progress.to_string()))],
        "redirects" => vec![Act::Status(307)],
        "fails" => vec![Act::Status(500)],
        "too many" => vec![Act::Status(429)],
        "state unasked" => vec![says(&reply(message, &json!({ "resultType": "input_required", "requestState": "mine" })))],
        "state in a result" => {
            let mut more = good.clone();
            more["result"]["requestState"] = "mine".into();
            vec![says(&more)]
        }
        "questions unasked" => vec![says(&reply(message, &questions()))],
        "off schema" => vec![says(&reply(message, &json!({ "content": [], "structuredContent": { "n": 5 } })))],
        "no object" => vec![says(&reply(message, &json!([])))],
        "error" => vec![says(&json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32603, "message": "it broke" } }))],
        "tool error" => {
            let failed = json!({ "content": [{ "type": "text", "text": "it did not work" }], "isError": true });
            vec![says(&reply(message, &failed))]
        }
        "babbles" => vec![Act::Says("data: y\n\n".repeat(20_000))],
        // What begins before the call does not show in its answer.
        _ => vec![says(good)],
    }
}
