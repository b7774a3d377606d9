//! `doorward call`: one call through the whole gateway.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Context, Failure, local, table};
use crate::config::{Config, check_name};
use crate::error::{Code, Effect, Error};
use crate::gateway::Folders;
use crate::identity::Principal;
use crate::listen::admin::{self, Command};
use crate::mcp::json::{self, Limits, ParseError};
use crate::mcp::jsonrpc::Id;
use crate::mcp::respond;
use crate::mcp::revision::Revision;

/// Bytes of the pipe to a gateway in this process.
const PIPE_BYTES: usize = 64 << 10;
/// Agents that a refusal names.
const MAX_NAMED: usize = 12;

/// Arguments of `doorward call`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  doorward call demo__list_notes --as demo\n  doorward call demo__write_note name=todo text='buy milk' --as demo\n  doorward call demo__search_notes query=milk limit:=3 --as demo\n\n`key=text` is a string; `key:=JSON` is any JSON value. With a running gateway the call goes through it, else through the same path in this process."
)]
pub struct Args {
    /// The tool's public name, UPSTREAM__TOOL.
    tool: String,
    /// The arguments: `key=text` or `key:=JSON`.
    arguments: Vec<String>,
    /// The agent to call as.
    #[arg(long = "as", value_name = "AGENT")]
    agent: String,
    /// The call's key, 1 to 255 bytes: sent again with the same key and arguments it does not act again, and prints the stored result.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// All arguments as one JSON object, in place of the single ones.
    #[arg(long, value_name = "JSON", conflicts_with = "arguments")]
    arguments_json: Option<String>,
}

/// Calls and prints what came back.
pub async fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    check_name(&args.agent).map_err(Failure::Usage)?;
    let message = request(args)?;
    let config = context.config()?;
    check_agent(&config, &args.agent)?;
    let command = Command::Mcp { agent: args.agent.clone(), stdio: false };
    let answer = match admin::connect(config.state.as_ref(), &command).await? {
        Some(socket) => local::ask_one(socket, &message).await,
        None => {
            let (running, mut events) = local::start(&config).await?;
            let (here, there) = tokio::io::duplex(PIPE_BYTES);
            let (reader, writer) = tokio::io::split(there);
            let principal = Principal::local(&args.agent, "admin");
            let answer = tokio::select! {
                answer = local::ask_one(here, &message) => answer,
                () = local::serve(&running, &mut events, principal, "admin", reader, writer) => {
                    Err(std::io::Error::other("the gateway ended without an answer"))
                }
            };
            running.stop("the call has ended").await;
            answer
        }
    };
    show(context, &answer.or_else(|error| unanswered(&error))?)
}

/// Refuses a name that no agent has: such a call would only be told that there is no such tool. Where it cannot be read who there is, the gateway
/// answers.
fn check_agent(config: &Config, name: &str) -> Result<(), Failure> {
    let Some(mut known) = Folders::of(config).known() else { return Ok(()) };
    if known.iter().any(|agent| agent == name) {
        return Ok(());
    }
    known.sort_unstable();
    known.dedup();
    let more = known.len().saturating_sub(MAX_NAMED);
    known.truncate(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more (`doorward agent list`)") } else { String::new() };
    Err(Failure::Usage(format!(
        "there is no agent `{name}`; there {} {}{more}\n  help: call as one of them, or make it with `doorward agent add {name}` and give it a \
         role in policy.csv: g, agent:{name}, role:ROLE",
        if known.len() == 1 { "is" } else { "are" },
        known.iter().map(|agent| format!("`{agent}`")).collect::<Vec<_>>().join(", "),
    )))
}

/// The call was handed over and nobody answered: the gateway may have forwarded it before it ended.
fn unanswered(why: &std::io::Error) -> Result<Value, Failure> {
    let error = Error::new(Code::OutcomeUnknown, format!("there is no answer: {why}"))
        .after_effect(Effect::Unknown, false)
        .suggest("look for the call with `doorward audit unresolved`, and check whether it took effect before sending it again");
    serde_json::from_slice(&respond::error(Some(&Id::number(1)), &error, "unknown")).map_err(Failure::other)
}

fn request(args: &Args) -> Result<String, Failure> {
    // Kept as text, so that the tool gets what was written, digits and all.
    let arguments = match &args.arguments_json {
        Some(text) => match checked(text) {
            Ok(true) => text.clone(),
            Ok(false) => return Err(Failure::Usage("--arguments-json is not a JSON object".to_owned())),
            Err(fault) => return Err(Failure::Usage(format!("--arguments-json: {fault}"))),
        },
        None => together(&args.arguments)?,
    };
    let mut meta = json!({
        "io.modelcontextprotocol/protocolVersion": Revision::NEWEST.as_str(),
        "io.modelcontextprotocol/clientInfo": { "name": "doorward call", "version": env!("CARGO_PKG_VERSION") },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    if let Some(key) = &args.idempotency_key {
        meta["dev.doorward/idempotencyKey"] = key.as_str().into();
    }
    // A message is one line; in a sound text no string holds a line break.
    let (name, arguments) = (Value::String(args.tool.clone()), arguments.replace(['\n', '\r'], " "));
    Ok(format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":{name},"arguments":{arguments},"_meta":{meta}}}}}"#))
}

/// Whether a text that the gateway would take as JSON is an object.
fn checked(text: &str) -> Result<bool, ParseError> {
    json::parse(text.as_bytes(), Limits::default()).map(|node| node.is_object())
}

/// The arguments as one JSON object.
pub(super) fn together(arguments: &[String]) -> Result<String, Failure> {
    let (mut members, mut names) = (Vec::new(), HashSet::new());
    for argument in arguments {
        let (name, value) = single(argument)?;
        if !names.insert(name) {
            return Err(Failure::Usage(format!("`{}` is given twice", table::safe(name))));
        }
        members.push(format!("{}:{value}", Value::from(name)));
    }
    Ok(format!("{{{}}}", members.join(",")))
}

/// The name, and the value as JSON text.
fn single(argument: &str) -> Result<(&str, String), Failure> {
    let Some((key, value)) = argument.split_once('=') else {
        return Err(Failure::Usage(format!("`{}` is neither `key=text` nor `key:=JSON`", table::safe(argument))));
    };
    let Some(key) = key.strip_suffix(':') else { return Ok((key, Value::from(value).to_string())) };
    checked(value).map_err(|fault| Failure::Usage(format!("`{}`: {fault} of the value", table::safe(argument))))?;
    Ok((key, value.to_owned()))
}

fn show(context: &Context, answer: &Value) -> Result<u8, Failure> {
    let result = answer.get("result");
    let body = result.and_then(|result| result.pointer("/_meta/dev.doorward~1error")).or_else(|| answer.pointer("/error/data"));
    let failed = result.and_then(|result| result.get("isError")).and_then(Value::as_bool).unwrap_or(false);
    let exit = match body {
        Some(body) => exit_of(body),
        None if answer.get("error").is_some() => 1,
        None if failed => 5,
        None => 0,
    };
    if context.json {
        println!("{}", result.or_else(|| answer.get("error")).unwrap_or(answer));
        return Ok(exit);
    }
    match body {
        Some(body) => tell(body),
        None => tell_content(result.or_else(|| answer.get("error")).unwrap_or(answer), failed),
    }
    Ok(exit)
}

fn exit_of(body: &Value) -> u8 {
    let code = body.get("code").and_then(Value::as_str).unwrap_or_default();
    Code::ALL.iter().map(|known| known.facts()).find(|facts| facts.code == code).map_or(1, |facts| facts.exit)
}

fn tell(body: &Value) {
    let text = |key: &str| table::safe(body.get(key).and_then(Value::as_str).unwrap_or("-"));
    eprintln!("{}: {}", text("code"), text("message"));
    for detail in body.get("details").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| table::safe(detail.get(key).and_then(Value::as_str).unwrap_or_default());
        eprintln!("  {} expected {}, got {} ({})", text("pointer"), text("expected"), text("got"), text("keyword"));
    }
    let rules: Vec<_> = body.get("rules").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if !rules.is_empty() {
        eprintln!("  rules       {}", table::safe(&rules.join(", ")));
    }
    eprintln!("  effect      {}", text("effect"));
    if let Some(wait) = body.get("retry_after_ms").and_then(Value::as_u64) {
        eprintln!("  again in    {}", told(Duration::from_millis(wait)));
    }
    eprintln!("  next        {}", text("suggestion"));
    eprintln!("  invocation  {}", text("invocation"));
}

/// A wait as people say it: never shorter than it is.
fn told(wait: Duration) -> String {
    match wait.as_millis() {
        ..1_000 => format!("{} ms", wait.as_millis()),
        1_000..120_000 => format!("{} s", wait.as_millis().div_ceil(1_000)),
        120_000..7_200_000 => format!("{} min", wait.as_millis().div_ceil(60_000)),
        long => format!("{} h", long.div_ceil(3_600_000)),
    }
}

/// What the agent is warned of, that will be refused before long.
fn tell_warning(warning: &Value) {
    let (text, number) = (|key: &str| table::safe(warning[key].as_str().unwrap_or("-")), |key: &str| warning[key].as_u64().unwrap_or(0));
    let what = match warning.get("loop") {
        Some(_) => format!("loop rule {}: {} {} times", text("loop"), text("what"), number("times")),
        None => format!("budget {}: {} of {} {}", text("budget"), number("used"), number("of"), text("figure")),
    };
    eprintln!("doorward: {what}; {}", text("suggestion"));
}

fn tell_content(result: &Value, failed: bool) {
    if let Some(call) = result.pointer("/_meta/dev.doorward~1replayed/invocation").and_then(Value::as_str) {
        eprintln!("doorward: not called again; this is the result of invocation {}", table::safe(call));
    }
    let warnings = result.pointer("/_meta/dev.doorward~1warnings").and_then(Value::as_array);
    warnings.into_iter().flatten().for_each(tell_warning);
    let mut out = String::new();
    for block in result.get("content").and_then(Value::as_array).into_iter().flatten() {
        match block.get("text").and_then(Value::as_str) {
            Some(text) => out.extend(text.lines().map(|line| table::safe(line) + "\n")),
            None => out.push_str(&(table::safe(&block.to_string()) + "\n")),
        }
    }
    if failed {
        eprint!("the tool says that it failed:\n{out}");
    } else {
        print!("{out}");
    }
}
