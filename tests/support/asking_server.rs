//! A legacy tool server on pipes that asks while it works. Everything it gets is written to the file that its argument names,
//! one line each after the number of its process. With `shifty` as a
//! second one, a process that is not the first describes its tools otherwise; with `turns` it begins to with its first call, and says so.

#![allow(clippy::unwrap_used, clippy::panic, reason = "it is part of a test")]

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{BufRead, Write};

use serde_json::{Value, json};

fn main() {
    let journal = std::env::args().nth(1).unwrap();
    let is_second = std::fs::read_to_string(&journal).is_ok_and(|text| text.contains("tools/list"));
    let is = |word: &str| is_second && std::env::args().nth(2).is_some_and(|mode| mode == word);
    let (shifty, turns) = (is("shifty"), is("turns"));
    let mut server = Server { journal, shifty, turns, calls: HashMap::new(), next: 1, asks: false, visited: false, looks: 0 };
    for line in std::io::stdin().lock().lines() {
        server.message(&serde_json::from_str(&line.unwrap()).unwrap());
    }
}

/// A call that waits for answers.
struct Waiting {
    call: Value,
    missing: usize,
    answers: Vec<Value>,
    /// Whether it ends with an error whose number says of others that nothing was done.
    refuses: bool,
    /// Questions that come when the first are answered.
    then: Vec<(String, Value)>,
}

struct Server {
    journal: String,
    /// By the call's id.
    calls: HashMap<String, Waiting>,
    next: u64,
    /// Whether the client can be asked anything.
    asks: bool,
    /// Describes `ask` otherwise than the process before it did.
    shifty: bool,
    /// Will be shifty from its first call on.
    turns: bool,
    /// Whether `pages` was called before.
    visited: bool,
    /// How often the task was looked at.
    looks: u32,
}

fn form(message: &str, fields: &Value) -> (String, Value) {
    let schema = json!({ "type": "object", "properties": fields });
    ("elicitation/create".to_owned(), json!({ "message": message, "requestedSchema": schema }))
}

fn branch() -> (String, Value) {
    form("Which branch?", &json!({ "branch": { "type": "string" } }))
}

impl Server {
    fn message(&mut self, message: &Value) {
        let mut journal = OpenOptions::new().create(true).append(true).open(&self.journal).unwrap();
        // In one write: several of these servers share the file.
        journal.write_all(format!("{} {message}\n", std::process::id()).as_bytes()).unwrap();
        let id = &message["id"];
        match message["method"].as_str() {
            Some("initialize") => {
                self.asks = message["params"]["capabilities"] != json!({});
                let info = json!({ "name": "asking", "version": "1" });
                result(id, &json!({ "protocolVersion": "2025-11-25", "capabilities": { "tools": {} }, "serverInfo": info }));
            }
            Some("tools/list") => result(id, &json!({ "tools": tools(self.asks, self.shifty) })),
            Some("tools/call") => self.call(id, &message["params"]),
            Some(method @ ("tasks/get" | "tasks/result" | "tasks/cancel")) => self.task(id, method, &message["params"]["taskId"]),
            Some("notifications/cancelled") => drop(self.calls.remove(&message["params"]["requestId"].to_string())),
            Some(method) if method.starts_with("notifications/") => {}
            Some(_) => say(&json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": "no" } })),
            None => self.answered(message),
        }
    }

    fn call(&mut self, id: &Value, params: &Value) {
        if std::mem::take(&mut self.turns) {
            self.shifty = true;
            say(&json!({ "jsonrpc": "2.0", "method": "notifications/tools/list_changed" }));
        }
        let roots = ("roots/list".to_owned(), json!({}));
        let mut url = json!({ "mode": "url", "message": "Log in", "url": "https://a.example/login", "elicitationId": "e1" });
        let (now, then) = match params["name"].as_str().unwrap() {
            "ask" | "stays" => (vec![branch()], Vec::new()),
            "twice" => (vec![branch()], vec![form("Sure?", &json!({ "sure": { "type": "boolean" } }))]),
            "both" => (vec![branch(), form("Who?", &json!({ "name": { "type": "string" } }))], Vec::new()),
            "secret" => (vec![form("Log in", &json!({ "password": { "type": "string" } }))], Vec::new()),
            "pages" if std::mem::replace(&mut self.visited, true) => return result(id, &text(&json!("visited"))),
            "pages" => {
                let link = params["arguments"].get("link").unwrap_or(&url["url"]).clone();
                url["url"] = link;
                let data = json!({ "elicitations": [url] });
                return say(&json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32042, "message": "log in first", "data": data } }));
            }
            "slow" if params["task"].is_object() => {
                let named = ["never", "failing"].into_iter().find(|name| params["arguments"][name] == true);
                return result(id, &json!({ "task": task(named.unwrap_or("soon"), "working") }));
            }
            "slow" => return say(&json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": "only as a task" } })),
            "roots" => (vec![roots], Vec::new()),
            "url" => (vec![("elicitation/create".to_owned(), url)], Vec::new()),
            _ if params["arguments"]["refuse"] == true => return refuse(id),
            _ => return result(id, &text(&params["arguments"])),
        };
        self.calls.insert(
            id.to_string(),
            Waiting {
                call: id.clone(),
                missing: usize::from(params["name"] == "stays"),
                answers: Vec::new(),
                refuses: params["arguments"]["refuse"] == true,
                then,
            },
        );
        self.ask(id, now, &params["_meta"]["progressToken"]);
    }

    fn task(&mut self, id: &Value, method: &str, name: &Value) {
        self.looks += 1;
        let over = name != "never" && self.looks > 2;
        match method {
            // A number that says of a call that nothing was done.
            "tasks/result" if name == "failing" => {
                say(&json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32602, "message": "no such task" } }));
            }
            "tasks/result" if over => result(id, &text(&json!("done as a task"))),
            "tasks/cancel" => result(id, &task("never", "cancelled")),
            _ => result(id, &task(name.as_str().unwrap(), if over { "completed" } else { "working" })),
        }
    }

    fn ask(&mut self, call: &Value, questions: Vec<(String, Value)>, token: &Value) {
        if !token.is_null() {
            let params = json!({ "progressToken": token, "progress": self.next });
            say(&json!({ "jsonrpc": "2.0", "method": "notifications/progress", "params": params }));
        }
        let mut lines = String::new();
        for (method, params) in questions {
            // The question's id says which call it belongs to; only this server can read that.
            let id = format!("{}:{call}", self.next);
            self.next += 1;
            self.calls.get_mut(&call.to_string()).unwrap().missing += 1;
            lines += &(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }).to_string() + "\n");
        }
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
    }

    fn answered(&mut self, message: &Value) {
        let call = message["id"].as_str().unwrap().split_once(':').unwrap().1.to_owned();
        let Some(waiting) = self.calls.get_mut(&call) else { return };
        waiting.answers.push(message.get("result").unwrap_or(&message["error"]["code"]).clone());
        waiting.missing -= 1;
        if waiting.missing > 0 {
            return;
        }
        let (id, then) = (waiting.call.clone(), std::mem::take(&mut waiting.then));
        if then.is_empty() {
            let waiting = self.calls.remove(&call).unwrap();
            if waiting.refuses {
                return refuse(&id);
            }
            return result(&id, &text(&json!(waiting.answers)));
        }
        self.ask(&id, then, &id);
    }
}

/// `stays` goes on when its question is answered. `interactive` is there only for clients that can be asked.
fn tools(asks: bool, shifty: bool) -> Vec<Value> {
    let tool = |name: &str| json!({ "name": name, "inputSchema": { "type": "object" } });
    let always = ["ask", "pages", "stays", "twice", "both", "secret", "roots", "url", "echo"];
    let mut slow = tool("slow");
    let shift = |mut tool: Value| {
        if shifty {
            tool["description"] = "now it does something else".into();
        }
        tool
    };
    slow["execution"] = json!({ "taskSupport": "required" });
    always.into_iter().chain(asks.then_some("interactive")).map(tool).map(shift).chain([slow]).collect()
}

fn task(id: &str, status: &str) -> Value {
    let time = "2026-11-21T00:00:00Z";
    json!({ "taskId": id, "status": status, "createdAt": time, "lastUpdatedAt": time, "ttl": null, "pollInterval": 50 })
}

fn text(value: &Value) -> Value {
    json!({ "content": [{ "type": "text", "text": value.to_string() }] })
}

fn result(id: &Value, result: &Value) {
    say(&json!({ "jsonrpc": "2.0", "id": id, "result": result }));
}

fn refuse(id: &Value) {
    say(&json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32602, "message": "no" } }));
}

fn say(message: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all((message.to_string() + "\n").as_bytes()).and_then(|()| out.flush());
}
