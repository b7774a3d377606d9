//! `doorward errors`: the table of codes.

use super::{Context, Failure, table};
use crate::error::{Code, Retry};

/// Arguments of `doorward errors`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  doorward errors policy_denied")]
pub struct Args {
    /// Only this code, with what an agent is told to do.
    code: Option<String>,
}

/// Prints the table.
pub fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let chosen: Vec<Code> =
        Code::ALL.iter().copied().filter(|code| args.code.as_deref().is_none_or(|name| name == code.facts().code)).collect();
    if let (Some(name), true) = (&args.code, chosen.is_empty()) {
        let names = Code::ALL.iter().map(|code| code.facts().code);
        let near = names.max_by(|one, other| strsim::jaro_winkler(one, name).total_cmp(&strsim::jaro_winkler(other, name)));
        return Err(Failure::Usage(format!(
            "there is no error code `{}`; did you mean `{}`?",
            table::safe(name),
            near.unwrap_or_default()
        )));
    }
    if context.json {
        let list: Vec<_> = chosen.iter().map(|code| json(*code)).collect();
        println!("{}", serde_json::Value::Array(list));
    } else if let (Some(_), [code]) = (&args.code, chosen.as_slice()) {
        let facts = code.facts();
        let (category, retry) = (facts.category.as_str(), retry(facts.retry));
        println!("{}\n  category    {category}\n  JSON-RPC    {}\n  HTTP        {}", facts.code, facts.jsonrpc, facts.http);
        code.other_statuses().iter().for_each(|(status, when)| println!("              {status}: {when}"));
        println!("  exit code   {}\n  retry       {retry}", facts.exit);
        println!("  suggestion  {}\n  page        docs/errors.md#{}", facts.suggestion, facts.code);
    } else {
        let rows: Vec<Vec<String>> = chosen
            .iter()
            .map(|code| {
                let facts = code.facts();
                vec![
                    facts.code.to_owned(),
                    facts.category.as_str().to_owned(),
                    facts.jsonrpc.to_string(),
                    statuses(*code),
                    facts.exit.to_string(),
                    retry(facts.retry).to_owned(),
                    format!("docs/errors.md#{}", facts.code),
                ]
            })
            .collect();
        print!("{}", table::render(&["CODE", "CATEGORY", "JSON-RPC", "HTTP", "EXIT", "RETRY", "PAGE"], &rows));
    }
    Ok(0)
}

fn retry(retry: Retry) -> &'static str {
    match retry {
        Retry::Never => "no",
        Retry::Safe => "yes",
        Retry::IfIdempotent => "if idempotent",
    }
}

/// The usual status, then the others.
fn statuses(code: Code) -> String {
    let others = code.other_statuses().iter().map(|(status, _)| *status);
    std::iter::once(code.facts().http).chain(others).map(|status| status.to_string()).collect::<Vec<_>>().join(" ")
}

fn json(code: Code) -> serde_json::Value {
    let facts = code.facts();
    let others: Vec<_> = code.other_statuses().iter().map(|(status, when)| serde_json::json!({ "http": status, "when": when })).collect();
    serde_json::json!({
        "code": facts.code, "category": facts.category.as_str(), "jsonrpc": facts.jsonrpc, "http": facts.http, "http_also": others, "exit": facts.exit,
        "retry": retry(facts.retry), "suggestion": facts.suggestion, "docs": format!("docs/errors.md#{}", facts.code),
    })
}
