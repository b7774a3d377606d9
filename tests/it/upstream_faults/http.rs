//! Servers on Streamable HTTP that fail, of both eras, with answers in JSON or in events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::Way;
use super::row::{definitions, questions, result};
use crate::mcp_checklist::upstreams::http_server::{self, Answer, Asked, End, Server};

/// A server that fails so until it is `well`.
pub async fn server(fault: &'static str, way: Way, well: Arc<AtomicBool>) -> Server {
    let sessions = std::sync::Mutex::new(0);
    let (is_legacy, events) = match way {
        Way::Modern { events } => (false, events),
        Way::Legacy { events } => (true, events),
        Way::OldSse | Way::Pipes { .. } => unreachable!("not on Streamable HTTP"),
    };
    let answer = move |asked: &Asked| {
        if asked.method() == "tools/list" {
            return Answer::json(200, &asked.result(&json!({ "tools": definitions() })));
        }
        let usual = if is_legacy { http_server::legacy(asked, &sessions) } else { http_server::modern(asked) };
        usual.unwrap_or_else(|| {
            let is_fine = asked.body["params"]["name"] == "echo" || well.load(Ordering::Relaxed);
            let shape = Shape { asked, events };
            if is_fine { shape.whole(&[good(asked)]) } else { shape.fails(fault) }
        })
    };
    // A connection that is kept is taken for good for a moment after its server has gone.
    let keeps = fault != "refuses";
    Server::resetting(move |asked| if keeps { answer(asked) } else { answer(asked).with("connection", "close") }).await
}

fn good(asked: &Asked) -> Value {
    asked.result(&result(&asked.body["params"]["arguments"]["n"]))
}

/// A request, and how it is answered.
struct Shape<'a> {
    asked: &'a Asked,
    events: bool,
}

impl Shape<'_> {
    fn headers(&self) -> Vec<(&'static str, String)> {
        let kind = if self.events { "text/event-stream" } else { "application/json" };
        vec![("content-type", kind.to_owned())]
    }

    fn framed(&self, text: &str) -> String {
        if self.events { format!("data: {text}\n\n") } else { text.to_owned() }
    }

    fn answer(&self, chunks: Vec<String>, end: End) -> Answer {
        Answer::Http { status: 200, headers: self.headers(), chunks, end }
    }

    fn whole(&self, messages: &[Value]) -> Answer {
        self.answer(messages.iter().map(|message| self.framed(&message.to_string())).collect(), End::Whole)
    }

    fn text(&self, text: &str) -> Answer {
        self.answer(vec![self.framed(text)], End::Whole)
    }

    fn fails(&self, fault: &str) -> Answer {
        let (asked, id) = (self.asked, &self.asked.body["id"]);
        let good = good(asked);
        let text = good.to_string();
        let note = |method: &str, params: Value| json!({ "jsonrpc": "2.0", "method": method, "params": params });
        let progress =
            note("notifications/progress", json!({ "progressToken": asked.body["params"]["_meta"]["progressToken"], "progress": 1 }));
        match fault {
            "hangs" => Answer::Silence,
            "answers never" if self.events => self.answer(vec![": hello\n\n".to_owned()], End::Open),
            "answers never" => self.answer(vec!["{\"jsonrpc\":".to_owned()], End::Open),
            "resets" => Answer::Nothing,
            "resets midway" => self.answer(vec![self.framed(&text)[..30].to_owned()], End::Broken),
            "drips" => self.answer(self.framed(&text).chars().map(String::from).collect(), End::Slow),
            "wrong id" => {
                let mut other = good;
                other["id"] = (id.as_u64().unwrap() + 1_000_000).into();
                self.whole(&[other])
            }
            "twice" => self.whole(&[good.clone(), good]),
            "huge" => self.answer((0..50).map(|_| "x".repeat(1_000_000)).collect(), End::Whole),
            "no json" => self.text("nonsense"),
            "doubled inside" => self.text(&text.replace("\"content\"", "\"a\":1,\"a\":2,\"content\"")),
            "doubled" => self.text(&text.replacen('{', "{\"a\":{\"b\":1,\"b\":2},", 1)),
            "cut off" => self.text(&text[..text.len() - 9]),
            "without result" => self.text(&format!(r#"{{"jsonrpc":"2.0","id":{id}}}"#)),
            "deep" => self.text(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{}{}}}"#, "[".repeat(1000), "]".repeat(1000))),
            "floods" => {
                let log = note("notifications/message", json!({ "level": "info", "data": "x" }));
                let mut all = vec![log; 2_000];
                all.push(good);
                self.whole(&all)
            }
            "progress after" => self.whole(&[good, progress.clone(), progress]),
            "asks" => {
                let question = json!({ "jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": { "messages": [], "maxTokens": 1 } });
                self.whole(&[question, good])
            }
            "never ends" if self.events => self.answer(vec![self.framed(&progress.to_string())], End::Endless),
            "never ends" => self.answer(vec!["{\"jsonrpc\":\"2.0\",".to_owned(), " ".to_owned()], End::Endless),
            "redirects" => Answer::status(307).with("location", "/elsewhere"),
            "fails" => Answer::status(500),
            "too many" => Answer::status(429).with("retry-after", "1"),
            "wrong type" => {
                Answer::Http { status: 200, headers: vec![("content-type", "text/html".to_owned())], chunks: vec![text], end: End::Whole }
            }
            "huge head" => self.whole(&[good]).with("x-filler", &"x".repeat(300_000)),
            "state unasked" => self.whole(&[asked.result(&json!({ "resultType": "input_required", "requestState": "mine" }))]),
            "state in a result" => {
                let mut more = good;
                more["result"]["requestState"] = "mine".into();
                self.whole(&[more])
            }
            "questions unasked" => self.whole(&[asked.result(&questions())]),
            "off schema" => self.whole(&[asked.result(&json!({ "content": [], "structuredContent": { "n": 5 } }))]),
            "no object" => self.whole(&[asked.result(&json!([]))]),
            "error" => self.whole(&[asked.error(-32603, &Value::Null)]),
            "tool error" => {
                self.whole(&[asked.result(&json!({ "content": [{ "type": "text", "text": "it did not work" }], "isError": true }))])
            }
            // What begins before the call does not show in its answer.
            _ => self.whole(&[good]),
        }
    }
}
