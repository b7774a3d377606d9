//! The MCP server behind everything: Streamable HTTP in both eras, answers rendered before they are asked for.
//!
//! Owns the wire forms of what a server says. It keeps a legacy client to its session header and a modern one to headers that
//! equal the body, so a gateway that sends less is found out. One thread, no HTTP library: what it costs is taken
//! from the same two cores that the gateway runs on.

use std::{borrow::Cow, io::Write, rc::Rc};

use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    Era, Result,
    tools::{self, ECHO_LARGE, ECHO_STREAM},
    wire::{Frame, frame},
};

/// What an upstream serves.
#[derive(Clone, Debug, clap::Args)]
pub struct Upstream {
    /// How many tools it has.
    #[arg(long, default_value_t = tools::USUAL)]
    pub tools: usize,
    /// The newest era it speaks.
    #[arg(long, value_enum, default_value = "2026")]
    pub newest: Era,
}

/// Serves until the process ends; prints where.
pub fn serve(upstream: &Upstream) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = Rc::new(Served::new(upstream));
    tokio::task::LocalSet::new().block_on(&runtime, async move {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("listening on http://{}/mcp", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            let served = served.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = connection(stream, &served).await {
                    eprintln!("upstream: {error}");
                }
            });
        }
    })
}

async fn connection(mut stream: TcpStream, served: &Served) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut output) = (Vec::with_capacity(16 * 1024), Vec::new());
    loop {
        let used = frame(&input)?.map(|request| served.answer(&request, &mut output).map(|()| request.used));
        if let Some(used) = used {
            input.drain(..used?);
            stream.write_all(&output).await?;
            output.clear();
        } else if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}

/// Answers made once, at start.
struct Served {
    newest: Era,
    padding: String,
    legacy_pages: Vec<String>,
    modern_pages: Vec<String>,
}

/// The members of a request that routing needs.
#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
    #[serde(borrow, default)]
    params: Params<'a>,
}

#[derive(Deserialize, Default)]
struct Params<'a> {
    name: Option<&'a str>,
    cursor: Option<&'a str>,
    #[serde(borrow)]
    arguments: Option<Arguments<'a>>,
}

#[derive(Deserialize)]
struct Arguments<'a> {
    #[serde(borrow)]
    text: &'a RawValue,
}

impl Served {
    fn new(upstream: &Upstream) -> Served {
        let pages = |era| (0..upstream.tools.div_ceil(PAGE)).map(|page| list(page, upstream.tools, era)).collect();
        Served {
            newest: upstream.newest,
            padding: "sixteen bytes of ".repeat(16 * 1024 / 17),
            legacy_pages: pages(Era::Legacy),
            modern_pages: pages(Era::Modern),
        }
    }

    fn answer(&self, asked: &Frame<'_>, output: &mut Vec<u8>) -> Result<()> {
        if asked.line().starts_with(b"POST ") {
            self.post(asked, output)
        } else {
            let status = if asked.line().starts_with(b"DELETE ") { "200 OK" } else { "405 Method Not Allowed" };
            reply(output, status, "", "")
        }
    }

    fn post(&self, asked: &Frame<'_>, output: &mut Vec<u8>) -> Result<()> {
        let request: Request<'_> = serde_json::from_slice(&asked.body)?;
        let Some(id) = request.id else { return reply(output, "202 Accepted", "", "") };
        let era = if asked.field("mcp-method").is_some() { Era::Modern } else { Era::Legacy };
        let error = |code, text| format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{text}"}}}}"#);
        if let Some(fault) = fault(era, asked, &request) {
            return reply(output, "400 Bad Request", JSON, &error(-32020, fault));
        }
        let Some(result) = self.result(era, &request) else {
            return reply(output, "404 Not Found", JSON, &error(-32601, "no such method"));
        };
        let message = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#);
        match (request.method, request.params.name) {
            ("tools/call", Some(ECHO_STREAM)) => stream(output, &message),
            ("initialize", _) => reply(output, "200 OK", SESSION, &message),
            _ => reply(output, "200 OK", JSON, &message),
        }
    }

    fn result(&self, era: Era, request: &Request<'_>) -> Option<Cow<'_, str>> {
        let result = match request.method {
            "server/discover" if self.newest == Era::Modern => json!({
                "supportedVersions": [Era::Modern.version()], "capabilities": { "tools": {} }, "serverInfo": info(),
                "resultType": "complete", "ttlMs": 60_000, "cacheScope": "public"
            }),
            "initialize" => json!({ "protocolVersion": Era::Legacy.version(), "capabilities": { "tools": {} }, "serverInfo": info() }),
            "ping" => json!({}),
            "tools/list" => {
                let page = request.params.cursor.map_or(Some(0), |cursor| cursor.parse::<usize>().ok())?;
                let pages = if era == Era::Modern { &self.modern_pages } else { &self.legacy_pages };
                return Some(pages.get(page)?.into());
            }
            "tools/call" => return self.echo(era, &request.params).map(Cow::Owned),
            _ => return None,
        };
        Some(result.to_string().into())
    }

    fn echo(&self, era: Era, params: &Params<'_>) -> Option<String> {
        let text = params.arguments.as_ref()?.text.get();
        let padding = if params.name == Some(ECHO_LARGE) { self.padding.as_str() } else { "" };
        let kind = if era == Era::Modern { r#","resultType":"complete""# } else { "" };
        let open = &text[..text.len() - 1];
        Some(format!(r#"{{"content":[{{"type":"text","text":{open}{padding}"}}],"isError":false{kind}}}"#))
    }
}

/// What is wrong with the headers of a request, if anything is.
fn fault(era: Era, asked: &Frame<'_>, request: &Request<'_>) -> Option<&'static str> {
    let sent = |field, value: &str| asked.field(field) == Some(value.as_bytes());
    let named = || request.params.name.is_none_or(|name| sent("mcp-name", name));
    match era {
        Era::Modern if !sent("mcp-protocol-version", Era::Modern.version()) => Some("wrong mcp-protocol-version"),
        Era::Modern if !sent("mcp-method", request.method) => Some("mcp-method differs from the body"),
        Era::Modern if !named() => Some("mcp-name differs from the body"),
        Era::Legacy if !matches!(request.method, "initialize" | "ping") && !sent("mcp-session-id", "bench") => Some("no session"),
        _ => None,
    }
}

fn list(page: usize, total: usize, era: Era) -> String {
    let indexes = page * PAGE..total.min((page + 1) * PAGE);
    let mut result = json!({ "tools": indexes.map(tools::definition).collect::<Vec<_>>() });
    if (page + 1) * PAGE < total {
        result["nextCursor"] = (page + 1).to_string().into();
    }
    if era == Era::Modern {
        result["resultType"] = "complete".into();
        result["ttlMs"] = 60_000.into();
        result["cacheScope"] = "public".into();
    }
    result.to_string()
}

fn info() -> serde_json::Value {
    json!({ "name": "bench-upstream", "version": "1" })
}

/// Writes a whole answer; into memory, so it cannot fail.
fn reply(output: &mut Vec<u8>, status: &str, fields: &str, body: &str) -> Result<()> {
    Ok(write!(output, "HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}", body.len())?)
}

fn stream(output: &mut Vec<u8>, message: &str) -> Result<()> {
    let event = format!("event: message\ndata: {message}\n\n");
    Ok(write!(output, "HTTP/1.1 200 OK\r\n{STREAM}\r\n{:x}\r\n{event}\r\n0\r\n\r\n", event.len())?)
}

/// Tools a page: the usual list is one page, a list of thousands stays within a gateway's bound on one answer.
const PAGE: usize = 250;
const JSON: &str = "content-type: application/json\r\n";
const SESSION: &str = "content-type: application/json\r\nmcp-session-id: bench\r\n";
const STREAM: &str = "content-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n";
