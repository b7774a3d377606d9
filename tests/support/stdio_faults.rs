//! What `FAULT` has the tools `act` and `look` do, until there is a file `well` in the folder `KEPT`. Each process writes its number
//! to `KEPT/started`, and each call the `n` of its arguments to `KEPT/calls`, before anything else is done about it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio, exit};
use std::time::Duration;

use serde_json::{Value, json};

use super::{park, progress, result, say, unreadable, write};

/// So many processes are the most that `multiplies` starts: a bomb that somebody else has to survive too.
const MOST: u32 = 60;

pub struct Fault {
    word: String,
    kept: PathBuf,
}

impl Fault {
    pub fn of_environment() -> Option<Self> {
        let kept = PathBuf::from(std::env::var_os("KEPT")?);
        let fault = Self { word: std::env::var("FAULT").ok()?, kept };
        if std::env::args().nth(1).is_some_and(|mode| mode == "heir") {
            let _ = std::io::stdin().lines().count();
            exit(0);
        }
        fault.note("started", &std::process::id().to_string());
        if fault.word == "refuses" && fault.kept.join("away").exists() {
            exit(7);
        }
        Some(fault)
    }

    fn note(&self, file: &str, line: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.kept.join(file)).expect("a folder to keep things in");
        file.write_all(format!("{line}\n").as_bytes()).expect("a note");
    }

    fn is_well(&self) -> bool {
        self.kept.join("well").exists()
    }

    pub fn call(&self, id: &Value, params: &Value) {
        let n = &params["arguments"]["n"];
        self.note("calls", n.as_str().unwrap_or_default());
        if self.is_well() {
            return answer(id, n);
        }
        match self.word.as_str() {
            "answers never" => {}
            "drips" => drip(id, n),
            "wrong id" => answer(&json!(900_001), n),
            "twice" => (0..2).for_each(|_| answer(id, n)),
            "huge" => say(&json!({"jsonrpc": "2.0", "id": id, "result": {"text": "x".repeat(50_000_000)}})),
            "no json" => write(b"nonsense"),
            word @ ("doubled" | "cut off" | "without result" | "deep" | "bad text") => unreadable(id, word),
            "leaves zombies" => {
                (0..3).for_each(|_| drop(Command::new("/bin/true").stdin(Stdio::null()).stdout(Stdio::null()).spawn()));
                answer(id, n);
            }
            "floods" => {
                (0..2_000).for_each(|_| {
                    say(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}))
                });
                answer(id, n);
            }
            "progress after" => {
                answer(id, n);
                (1..4).for_each(|done| progress(&params["_meta"]["progressToken"], done));
            }
            "asks" => {
                say(&json!({"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}));
                answer(id, n);
            }
            "doubled inside" => {
                let line = json!({"jsonrpc": "2.0", "id": id, "result": answered(n)}).to_string();
                write(line.replace("\"content\"", "\"a\":1,\"a\":2,\"content\"").as_bytes());
            }
            "state unasked" => result(id, &json!({"resultType": "input_required", "requestState": "mine"})),
            "state in a result" => {
                let mut more = answered(n);
                more["requestState"] = "mine".into();
                result(id, &more);
            }
            "questions unasked" => {
                let asked = json!({"mode": "form", "message": "sure?", "requestedSchema": {"type": "object", "properties": {}}});
                let questions = json!({"q": {"method": "elicitation/create", "params": asked}});
                result(id, &json!({"resultType": "input_required", "inputRequests": questions, "requestState": "mine"}));
            }
            "off schema" => result(id, &json!({"content": [], "structuredContent": {"n": 5}})),
            "no object" => result(id, &json!([])),
            "error" => say(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32603, "message": "it broke"}})),
            "tool error" => result(id, &json!({"content": [{"type": "text", "text": "it did not work"}], "isError": true})),
            "banners" => {
                println!("Welcome!\n\n{{\"half\":\n[1,2]\n\u{1b}[2J");
                answer(id, n);
            }
            word => self.process_fails(word, id, params),
        }
    }

    /// What a process does that is of no use any more, or is its answer all the same.
    fn process_fails(&self, word: &str, id: &Value, params: &Value) {
        let n = &params["arguments"]["n"];
        match word {
            "resets midway" => {
                let mut out = std::io::stdout().lock();
                let _ = out.write_all(b"{\"jsonrpc\":\"2.0\",").and_then(|()| out.flush());
                exit(5);
            }
            "exits" => exit(5),
            "exits after" => {
                answer(id, n);
                exit(0);
            }
            "leaves an heir" => {
                let mut heir = Command::new(std::env::current_exe().expect("a path"));
                drop(heir.arg("heir").stdin(Stdio::inherit()).stdout(Stdio::inherit()).process_group(0).spawn().expect("a child"));
                exit(0);
            }
            "multiplies" => {
                let one = || {
                    Command::new(std::env::current_exe().expect("a path")).arg("heir").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()
                };
                (0..MOST).for_each(|_| std::mem::forget(one()));
            }
            "babbles" => (0..20_000).for_each(|_| write(b"{\"not\": \"mcp\"}")),
            "goes deaf" => park(),
            "never ends" => self.never_end(params["_meta"]["progressToken"].clone()),
            // What begins before the call does not show in its answer.
            _ => answer(id, n),
        }
    }

    fn never_end(&self, token: Value) {
        let well = self.kept.join("well");
        std::thread::spawn(move || {
            for done in (1..).take_while(|_| !well.exists()) {
                progress(&token, done);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
    }
}

fn answer(id: &Value, n: &Value) {
    result(id, &answered(n));
}

fn answered(n: &Value) -> Value {
    json!({"content": [{"type": "text", "text": "done"}], "structuredContent": {"n": n}})
}

/// The answer, a byte at a time.
fn drip(id: &Value, n: &Value) {
    let line = json!({"jsonrpc": "2.0", "id": id, "result": answered(n)}).to_string() + "\n";
    let mut out = std::io::stdout().lock();
    for byte in line.as_bytes() {
        let _ = out.write_all(&[*byte]).and_then(|()| out.flush());
        std::thread::sleep(Duration::from_millis(5));
    }
}
