//! `doorward tools`: what servers say of their tools, and what people have reviewed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Context, Failure, person, table};
use crate::catalog::lock::{self, Change, Definition, Lock, changes};
use crate::catalog::manifest::{Manifest, load_folder};
use crate::catalog::{Listing, claimed_tier, tier::Tier};
use crate::config::Config;
use crate::gateway::heard;
use crate::listen::admin::{self, Command};
use crate::sandbox::{self, Ground};
use crate::upstream::{Event, Spec, Upstream};

/// How long a server may take to list its tools; `npx` may have to install it first.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a server that ends, or cannot be reached, is tried. Not once only: a legacy server may end over the first question.
const ATTEMPTS: u32 = 3;

/// The verbs of `doorward tools`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the tools with tier and standing, as files and servers say now, and the prompts and resources beside them.
    #[command(after_help = "Example:\n  doorward tools list")]
    List {
        /// Only this upstream.
        upstream: Option<String>,
    },
    /// Write the locks of upstreams that have none: take their definitions as reviewed.
    #[command(after_help = "Example:\n  doorward tools pin github\n\nReview the lock file before you commit it.")]
    Pin {
        /// Only this upstream.
        upstream: Option<String>,
        /// Replace a lock that exists.
        #[arg(long)]
        again: bool,
    },
    /// Show how live definitions differ from the reviewed ones, field by field. Exit code 3 when they do.
    #[command(after_help = "Example:\n  doorward tools diff github")]
    Diff {
        /// Only this upstream.
        upstream: Option<String>,
    },
    /// Accept the live definition of one tool, or of all of an upstream's.
    #[command(after_help = "Example:\n  doorward tools approve github create_issue")]
    Approve {
        /// The upstream.
        upstream: String,
        /// The tool, by the server's own name; all that differ when left out.
        tool: Option<String>,
    },
}

/// What one server lists now.
struct Found {
    manifest: Manifest,
    reviewed: Lock,
    live: BTreeMap<String, Definition>,
    /// Prompts, resources and templates: what it is, and the server's own name.
    offered: Vec<String>,
}

/// Carries the verb out.
pub async fn run(context: &Context, verb: &Verb) -> Result<u8, Failure> {
    let config = context.config()?;
    let wanted = match verb {
        Verb::List { upstream } | Verb::Pin { upstream, .. } | Verb::Diff { upstream } => upstream.as_deref(),
        Verb::Approve { upstream, .. } => Some(upstream.as_str()),
    };
    let found = ask_servers(&config, wanted).await?;
    match verb {
        Verb::List { .. } => list(context, &found),
        Verb::Diff { .. } => diff(context, &found),
        Verb::Pin { again, .. } => pin(context, &config, found, *again).await,
        Verb::Approve { tool, .. } => approve(context, &config, found, tool.as_deref()).await,
    }
}

async fn ask_servers(config: &Config, wanted: Option<&str>) -> Result<Vec<Found>, Failure> {
    let folder: &Path = config.manifests.as_ref();
    let manifests = load_folder(folder)?;
    let ground = Arc::new(Ground::of(config));
    let faults = sandbox::refuse(folder, manifests.iter(), &ground);
    if !faults.is_empty() {
        return Err(faults.into());
    }
    let named: Vec<String> = manifests.iter().map(|manifest| manifest.upstream.clone()).collect();
    let mut found = Vec::new();
    for manifest in manifests.into_iter().filter(|manifest| wanted.is_none_or(|wanted| wanted == manifest.upstream)) {
        let listing = listing(&manifest, &ground).await?;
        let (offered, live) = (offered(&listing), listing.tools.into_iter().collect());
        let reviewed = Lock::load(&lock::file(folder, &manifest.upstream))?.unwrap_or_default();
        found.push(Found { manifest, reviewed, live, offered });
    }
    if found.is_empty() {
        let wanted = table::safe(wanted.unwrap_or("any upstream"));
        return Err(Failure::Usage(format!("{} names no `{wanted}`; there is {}", folder.display(), named.join(", "))));
    }
    Ok(found)
}

/// The definitions of tools that a server lists now.
pub(super) async fn definitions(manifest: &Manifest, ground: &Arc<Ground>) -> Result<BTreeMap<String, Definition>, Failure> {
    Ok(listing(manifest, ground).await?.tools.into_iter().collect())
}

/// Everything that a server lists now.
pub(super) async fn listing(manifest: &Manifest, ground: &Arc<Ground>) -> Result<Listing, Failure> {
    let id = &manifest.upstream;
    let (events, mut received) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let mut spec = Spec::new(id, &manifest.transport, Arc::clone(ground)).map_err(|error| Failure::Usage(format!("{id}: {error}")))?;
    // Some servers list more to whoever can be asked: what is pinned is what the gateway will be shown.
    spec.may_ask = manifest.may_ask();
    let upstream = Upstream::start(spec, events, &stop);
    let listed = tokio::time::timeout(LISTING_TIMEOUT, async {
        let (mut last, mut attempts) = ("it did not answer in time".to_owned(), 0);
        while let Some(report) = received.recv().await {
            match report.event {
                Event::Listed { listing, compared } => {
                    // Nobody compares here; unanswered, it would be told as a fault of the server.
                    let _nobody_waits = compared.send(());
                    return Ok(heard(*listing));
                }
                Event::Lost { reason } => (last, attempts) = (reason, attempts + 1),
                _ => {}
            }
            if attempts == ATTEMPTS || last.contains("credential") {
                break;
            }
        }
        Err(last)
    });
    let listed = tokio::select! {
        biased;
        listed = listed => listed
            .unwrap_or_else(|_| Err(format!("it did not list its tools within {} s: {}", LISTING_TIMEOUT.as_secs(), upstream.state()))),
        reason = unreachable(&upstream) => Err(reason),
    };
    upstream.stop().await;
    let listing = listed.map_err(|reason| Failure::Upstream(format!("{id}: {reason}")))?;
    listing.unreadable.iter().for_each(|reason| eprintln!("doorward: {id}: a tool is left out: {reason}"));
    Ok(listing)
}

/// Why the server will not list anything. Ends only when waiting for it makes no sense: one that is merely slow may be
/// installing itself.
async fn unreachable(upstream: &Upstream) -> String {
    loop {
        match upstream.ready(LISTING_TIMEOUT).await.err().and_then(|error| error.detail().map(str::to_owned)) {
            Some(reason) if !reason.contains("in time") => return reason,
            _ => tokio::time::sleep(Duration::from_millis(250)).await,
        }
    }
}

fn standing(found: &Found, name: &str) -> &'static str {
    match (found.manifest.tools.contains_key(name), found.reviewed.tools.get(name), found.live.get(name)) {
        (_, Some(reviewed), Some(live)) if reviewed.hash != live.hash => "withheld: drifted",
        (_, None, Some(_)) => "withheld: not pinned",
        (_, _, None) => "withheld: gone",
        (false, ..) => "withheld: not in the manifest",
        (true, Some(_), Some(_)) => "reviewed",
    }
}

fn offered(listing: &Listing) -> Vec<String> {
    let sorts = [("prompt", &listing.prompts), ("resource", &listing.resources), ("template", &listing.templates)];
    sorts.iter().flat_map(|(sort, items)| items.iter().map(move |item| format!("{sort} {}", item.own))).collect()
}

fn list(context: &Context, found: &[Found]) -> Result<u8, Failure> {
    let mut rows = Vec::new();
    for found in found {
        let mut names: Vec<&String> = found.live.keys().chain(found.reviewed.tools.keys()).chain(found.manifest.tools.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let declared = found.manifest.tools.get(name).map_or("-", |entry| entry.tier.as_str());
            let node = found.live.get(name).and_then(Definition::node);
            let claimed = node.map_or("-", |node| claimed_tier(&node).as_str());
            rows.push(vec![found.manifest.upstream.clone(), name.clone(), declared.into(), claimed.into(), standing(found, name).into()]);
        }
        let read = Tier::Read.as_str();
        let other = |name: &String| {
            vec![found.manifest.upstream.clone(), name.clone(), read.into(), "-".into(), "not pinned: a rule decides".into()]
        };
        rows.extend(found.offered.iter().map(other));
    }
    if context.json {
        let key = ["upstream", "tool", "tier", "claimed_tier", "standing"];
        let json: Vec<_> = rows.iter().map(|row| key.iter().copied().zip(row).collect::<BTreeMap<_, _>>()).collect();
        println!("{}", serde_json::to_string(&json).map_err(Failure::other)?);
    } else {
        print!("{}", table::render(&["UPSTREAM", "TOOL", "TIER", "CLAIMED", "STANDING"], &rows));
    }
    Ok(0)
}

/// What differs: per tool, what was added, removed or changed.
fn differences(found: &Found) -> Vec<(String, Vec<Change>)> {
    let whole = |reviewed: Option<&Definition>, live: Option<&Definition>| Change {
        pointer: String::new(),
        reviewed: reviewed.map(|definition| String::from_utf8_lossy(&definition.text).into_owned()),
        live: live.map(|definition| String::from_utf8_lossy(&definition.text).into_owned()),
    };
    let mut names: Vec<&String> = found.live.keys().chain(found.reviewed.tools.keys()).collect();
    names.sort();
    names.dedup();
    let differing = names.into_iter().filter_map(|name| match (found.reviewed.tools.get(name), found.live.get(name)) {
        (Some(was), Some(is)) if was.hash == is.hash => None,
        (Some(was), Some(is)) => Some((name.clone(), changes(&was.node()?, &is.node()?))),
        (was, is) => Some((name.clone(), vec![whole(was, is)])),
    });
    differing.collect()
}

fn diff(context: &Context, found: &[Found]) -> Result<u8, Failure> {
    let all: Vec<_> = found
        .iter()
        .flat_map(|found| differences(found).into_iter().map(|(tool, changes)| (&found.manifest.upstream, tool, changes)))
        .collect();
    if context.json {
        let json: Vec<_> = all
            .iter()
            .map(|(upstream, tool, changes)| serde_json::json!({ "upstream": upstream, "tool": tool, "changes": changes }))
            .collect();
        println!("{}", serde_json::Value::Array(json));
    } else {
        for (upstream, tool, changes) in &all {
            println!("{upstream} {}", table::safe(tool));
            for change in changes {
                let place = if change.pointer.is_empty() { "(the whole definition)" } else { &change.pointer };
                println!("  {}", table::safe(place));
                change.reviewed.iter().for_each(|text| println!("    - {}", table::safe(text)));
                change.live.iter().for_each(|text| println!("    + {}", table::safe(text)));
            }
        }
        if all.is_empty() {
            println!("every live definition is the reviewed one");
        }
    }
    Ok(if all.is_empty() { 0 } else { 3 })
}

async fn pin(context: &Context, config: &Config, found: Vec<Found>, again: bool) -> Result<u8, Failure> {
    let (mut answer, mut text) = (Vec::new(), Vec::new());
    for found in found {
        let upstream = &found.manifest.upstream;
        let file = lock::file(config.manifests.as_ref(), upstream);
        let shown = file.display();
        if file.exists() && !again {
            let what = format!("{shown} exists; see `doorward tools diff {upstream}`, then `tools approve` or `tools pin --again`");
            answer.push(serde_json::json!({ "upstream": upstream, "file": file, "pinned": null, "note": what }));
            text.push(what);
            continue;
        }
        let missing: Vec<_> = found.live.keys().filter(|name| !found.manifest.tools.contains_key(*name)).cloned().collect();
        let pinned = found.live.len();
        person::record(config, "tools_pin", &format!("{upstream} {pinned} tools")).await.map_err(person::undone)?;
        Lock { tools: found.live.clone(), waiver: None }.save(&file, upstream)?;
        answer.push(serde_json::json!({ "upstream": upstream, "file": file, "pinned": pinned, "not_in_manifest": missing }));
        text.push(format!("pinned {pinned} tools of {upstream} in {shown}; review the file before you commit it"));
        if !missing.is_empty() {
            let lines = suggested(&found, &missing);
            text.push(format!("not in the manifest, so not callable; add what agents may use:\n{lines}"));
        }
    }
    done(context, config, answer, &text).await
}

/// Has a running gateway read the locks, and says what was done.
async fn done(context: &Context, config: &Config, answer: Vec<serde_json::Value>, text: &[String]) -> Result<u8, Failure> {
    let told = admin::ask(config.state.as_ref(), &Command::Reload).await;
    if context.json {
        println!("{}", serde_json::Value::Array(answer));
    } else {
        text.iter().for_each(|line| println!("{line}"));
    }
    if let Err(error) = &told {
        eprintln!("doorward: the running gateway was not told: {error}");
    }
    Ok(u8::from(told.is_err()))
}

/// Manifest lines for tools that have none, with the tier that their annotations claim.
fn suggested(found: &Found, names: &[String]) -> String {
    let line = |name: &String| {
        let tier = found.live.get(name).and_then(Definition::node).map_or(Tier::Irreversible, |node| claimed_tier(&node));
        format!("  {}: {{ tier: {tier} }}   # what the server claims", table::safe(name))
    };
    names.iter().map(line).collect::<Vec<_>>().join("\n")
}

async fn approve(context: &Context, config: &Config, found: Vec<Found>, tool: Option<&str>) -> Result<u8, Failure> {
    let (mut answer, mut text) = (Vec::new(), Vec::new());
    for mut found in found {
        let mut differing = differences(&found);
        differing.retain(|(name, _)| tool.is_none_or(|tool| tool == name));
        if let Some(tool) = tool.filter(|_| differing.is_empty()) {
            return Err(Failure::Usage(format!("the definition of `{}` does not differ from the reviewed one", table::safe(tool))));
        }
        let upstream = found.manifest.upstream.clone();
        if differing.is_empty() {
            text.push(format!("nothing to approve: every live definition of {upstream} is the reviewed one"));
            continue;
        }
        for (name, _) in &differing {
            match found.live.get(name) {
                Some(live) => drop(found.reviewed.tools.insert(name.clone(), live.clone())),
                None => drop(found.reviewed.tools.remove(name)),
            }
            person::record(config, "tools_approve", &format!("{upstream}__{name}")).await.map_err(person::undone)?;
            answer.push(serde_json::json!({ "upstream": upstream, "tool": name }));
            text.push(format!("approved {upstream} {}", table::safe(name)));
        }
        found.reviewed.save(&lock::file(config.manifests.as_ref(), &upstream), &upstream)?;
    }
    done(context, config, answer, &text).await
}
