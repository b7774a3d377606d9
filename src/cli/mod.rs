//! The command line: verbs, what they print, and their exit codes.
//!
//! Exit codes: 0 done, 2 usage or configuration, 3 refused, 4 try later, 5 the tool or its server failed, 1 anything else.

mod agent;
mod approvals;
mod arguments;
mod audit;
mod call;
mod check;
mod descriptors;
mod errors;
mod exposed;
mod freeze;
mod local;
mod person;
mod policy;
mod replays;
mod running;
mod schema;
mod serve;
mod status;
mod stdio;
mod table;
mod tools;
mod wrap;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, Fault};
use crate::error::Error;
use crate::sandbox;

/// How long tasks may take to end once a verb is done.
const LAST_TASKS: std::time::Duration = std::time::Duration::from_millis(200);

/// A gateway between agents and MCP tool servers: every call is validated against its reviewed schema, authorized, limited and
/// recorded before anything is done.
#[derive(Debug, Parser)]
#[command(
    name = "doorward",
    version,
    after_help = "Without a verb it serves. Examples:\n  doorward\n  doorward call demo__list_notes --as demo\n  doorward audit tail\n  doorward wrap fs -- npx -y @modelcontextprotocol/server-filesystem .\n\nExit codes: 0 done, 2 usage or configuration, 3 refused, 4 try later, 5 the tool or its server failed, 1 anything else."
)]
pub struct Cli {
    /// The configuration file; what it names is relative to its folder.
    #[arg(long, global = true, env = "DOORWARD_CONFIG", default_value = "doorward.yaml")]
    config: PathBuf,
    /// Print JSON for programs instead of tables for people.
    #[arg(long, global = true)]
    json: bool,
    /// What the log on standard error shows: error, warn, info, debug or trace, or a filter such as `doorward=debug`.
    /// Default: info for `serve`, warn and what servers write to standard error for `stdio`, `wrap` and `tools`, else error.
    #[arg(long, global = true, env = "DOORWARD_LOG")]
    log: Option<String>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the gateway (the default).
    Serve(serve::Args),
    /// Be an MCP server on standard input and output, for clients that start a command.
    Stdio(stdio::Args),
    /// Put the whole gateway in front of one server, with no files to write.
    Wrap(Box<wrap::Args>),
    /// Load everything, print each tool's resolved chain, and exit non-zero on any fault.
    Check(check::Args),
    /// Make one call through the whole gateway.
    Call(call::Args),
    /// Review what tool servers say of their tools.
    #[command(subcommand)]
    Tools(tools::Verb),
    /// Ask the audit log.
    Audit(audit::Args),
    /// Ask what the policy decides and why, and whether it decides its cases as asked.
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Say yes or no to calls that wait for a person.
    #[command(subcommand)]
    Approvals(approvals::Verb),
    /// Make, list and revoke the API keys of agents.
    #[command(subcommand)]
    Agent(agent::Verb),
    /// Stop agents, tools, runs or values for a while, whatever the policy says.
    #[command(subcommand)]
    Freeze(freeze::Verb),
    /// Show how the running gateway stands: tool servers and their sandboxes, breakers, queues, retries, the audit log.
    Status(status::Args),
    /// Look at calls with a key whose end nobody knows, and let them be made again.
    #[command(subcommand)]
    Replays(replays::Verb),
    /// Print every error code and what it means.
    Errors(errors::Args),
    /// Print the JSON Schema of a file that people write.
    Schema(schema::Args),
    /// Be the built-in tool server: a folder of notes, on standard input and output.
    DemoServer(serve::DemoArgs),
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// Files that the operator has to mend: exit code 2.
    Faults(Vec<Fault>),
    /// A refusal or failure of the gateway: its own exit code.
    Refused(Error),
    /// The command cannot be carried out as it was given: exit code 2.
    Usage(String),
    /// A tool server failed: exit code 5.
    Upstream(String),
    /// What is sealed stays so: exit code 3.
    Sealed(String),
    /// Anything else: exit code 1.
    Other(String),
}

impl Failure {
    /// Anything else.
    pub fn other(error: impl std::fmt::Display) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Faults(vec![fault])
    }
}

impl From<Vec<Fault>> for Failure {
    fn from(faults: Vec<Fault>) -> Self {
        Self::Faults(faults)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

/// What every verb knows.
#[derive(Clone, Debug)]
pub struct Context {
    /// The configuration file.
    pub file: PathBuf,
    /// Whether programs read the output.
    pub json: bool,
}

impl Context {
    /// The configuration. A file that was not asked for and is not there means all defaults.
    pub fn config(&self) -> Result<Config, Failure> {
        if !self.file.exists() {
            let help = "run in the folder that holds `doorward.yaml`, or name it with --config; `doorward wrap` needs no file";
            return Err(Fault::file(&self.file, "there is no such file").help(help).into());
        }
        Ok(Config::load(&self.file)?)
    }
}

/// What `doorward demo-server` runs, with its folder of notes and its outbox.
pub type Demo = fn(&Path, &Path) -> std::io::Result<()>;

/// Reads the arguments, does what they ask, and says how it went.
pub fn main(demo: Demo) -> ExitCode {
    // Before anything else: this process is about to become a tool server, and its environment is that server's.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|verb| verb == sandbox::VERB) {
        return sandbox::enter(words);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    end_quietly_when_nobody_reads();
    let context = Context { file: cli.config, json: cli.json };
    let verb = cli.verb.unwrap_or(Verb::Serve(serve::Args::default()));
    let usual = match verb {
        Verb::Serve(_) => "info",
        // Who wraps a server sees what he saw without us: its standard error, and whether it runs.
        Verb::Stdio(_) | Verb::Wrap(_) | Verb::Tools(_) => "warn,doorward::upstream::words=info",
        _ => "error",
    };
    log_to_stderr(cli.log.as_deref().unwrap_or(usual));
    match run(&context, verb, demo) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => ExitCode::from(report(&context, &failure)),
    }
}

fn run(context: &Context, verb: Verb, demo: Demo) -> Result<u8, Failure> {
    match verb {
        Verb::Serve(args) => block_on(serve::run(context, &args)),
        Verb::Stdio(args) => block_on(stdio::run(context, &args)),
        Verb::Wrap(args) => block_on(wrap::run(context, &args)),
        Verb::Check(args) => block_on(interruptible(check::run(context, &args))),
        Verb::Call(args) => block_on(interruptible(call::run(context, &args))),
        Verb::Tools(verb) => block_on(interruptible(tools::run(context, &verb))),
        Verb::Audit(args) => {
            // The log can be read without a configuration, when its folder is named.
            let mut home = match (&args.dir, context.config()) {
                // A root key is made where it is kept, and what was handed over is checked where it came to.
                (None, Err(_)) if args.verb.is_without_a_log() => audit::Home::beside(Path::new("audit")),
                (None, Err(failure)) => return Err(failure),
                (Some(dir), _) if dir.with_file_name("keys").is_dir() => audit::Home::beside(dir),
                (Some(dir), Err(_)) => audit::Home::beside(dir),
                (_, Ok(config)) => audit::Home {
                    audit: AsRef::<Path>::as_ref(&config.audit.dir).to_owned(),
                    keys: AsRef::<Path>::as_ref(&config.state).join("keys"),
                    context: None,
                },
            };
            home.context = Some(context.clone());
            audit::run(&args, &home, context.json, &mut std::io::stdout().lock()).or_else(|error| match error {
                audit::Error::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(EXIT_UNHEARD),
                error @ (audit::Error::Time(_)
                | audit::Error::NoLog(_)
                | audit::Error::Files(_)
                | audit::Error::TooMany(_)
                | audit::Error::Usage(_)) => Err(Failure::Usage(error.to_string())),
                audit::Error::Sealed(why) => Err(Failure::Sealed(why)),
                error => Err(Failure::other(error)),
            })
        }
        Verb::Policy(verb) => policy::run(context, &verb),
        Verb::Approvals(verb) => block_on(approvals::run(context, &verb)),
        Verb::Agent(verb) => block_on(agent::run(context, &verb)),
        Verb::Freeze(verb) => block_on(freeze::run(context, &verb)),
        Verb::Status(args) => block_on(status::run(context, &args)),
        Verb::Replays(verb) => block_on(replays::run(context, &verb)),
        Verb::Errors(args) => errors::run(context, &args),
        Verb::Schema(args) => schema::run(&args),
        Verb::DemoServer(args) => Ok(demo(&args.folder, &args.outbox).map(|()| 0)?),
    }
}

fn block_on<T>(verb: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::other)?;
    let ended = runtime.block_on(verb);
    // Tasks end here, and with them the servers that they started. A read of standard input that nobody answers must not
    // keep the process, so this does not wait for threads.
    runtime.shutdown_timeout(LAST_TASKS);
    ended
}

/// Nobody has heard the answer.
const EXIT_UNHEARD: u8 = 1;

/// A verb that ends with its servers when it is told to end.
async fn interruptible(verb: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    tokio::select! {
        ended = verb => ended,
        () = local::terminated() => Err(Failure::Other("told to end before it was done".to_owned())),
    }
}

/// `doorward … | head` ends when `head` does, without a word; where the output is lost in another way, that is said. Neither
/// exits 0: the code that the answer would have had is not known here, and a script must not read a lost refusal as done.
fn end_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        match panic.payload_as_str().and_then(|text| text.strip_prefix("failed printing to stdout: ")) {
            Some(reason) => {
                if !reason.starts_with("Broken pipe") {
                    eprintln!("doorward: the answer cannot be written: {reason}");
                }
                std::process::exit(i32::from(EXIT_UNHEARD));
            }
            None => usual(panic),
        }
    }));
}

fn log_to_stderr(filter: &str) {
    // The watcher of folders would tell of each line that it writes, where the log lies in one of them.
    let filter = format!("{filter},notify=warn");
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let _ = log.with_ansi(std::io::stderr().is_terminal()).try_init();
}

fn report(context: &Context, failure: &Failure) -> u8 {
    let (code, lines) = match failure {
        Failure::Faults(faults) => (2, faults.iter().map(ToString::to_string).collect::<Vec<_>>()),
        Failure::Usage(message) => (2, vec![message.clone()]),
        Failure::Refused(error) => (error.facts().exit, vec![format!("{}: {error}\n  help: {}", error.facts().code, error.suggestion())]),
        Failure::Upstream(message) => (5, vec![message.clone()]),
        Failure::Sealed(message) => (3, vec![message.clone()]),
        Failure::Other(message) => (1, vec![message.clone()]),
    };
    for line in &lines {
        eprintln!("doorward: {line}");
    }
    if context.json {
        println!("{}", serde_json::json!({ "error": lines, "exit": code }));
    }
    code
}
