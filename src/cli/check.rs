//! `doorward check`: loads everything as `serve` would, and prints what each tool comes to.
//!
//! INVARIANT: without `--live` no program is started and nothing is connected to: who reviews somebody's manifest must not have to run
//! the command in it to find out what it says, and the same files give the same answer.
//!
//! Exit codes: 0 all is well, 2 a fault in a file, 3 a tool is or would be withheld. A server that cannot be asked is a warning:
//! it says nothing of the files.

mod confined;
mod manifests;

use std::fmt::Write;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Context, Failure, exposed, table, tools};
use crate::approval::webhook::Signing;
use crate::audit::payload::Payloads;
use crate::catalog::tier::Tier;
use crate::catalog::{Catalog, Live, PolicyNames, Source, Standing, Target, prompt_policy_name, template_policy_name};
use crate::config::{Config, Webhook};
use crate::gateway::{Folders, Loaded, Plan};
use crate::identity::{self, People, Trusted};
use crate::limit::Limits;
use crate::policy::{Decision, Equivalence, Flow, Policy, RuleId, TOXIC_FLOW, is_guarded};
use crate::sandbox::Ground;
use crate::schema::Schemas;

/// Tools that a start lists by name.
const LISTED_AT_START: usize = 60;

/// Arguments of `doorward check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  doorward check --config doorward.yaml\n  doorward check --live")]
pub struct Args {
    /// Leave the exhaustive comparison of the decision table with Casbin out.
    #[arg(long)]
    quick: bool,
    /// Ask the servers how they define their tools now, which starts those on pipes, and authorization servers for their keys: shows
    /// drift, prompts and resources too.
    #[arg(long)]
    live: bool,
    /// Ask nobody, as is done anyway.
    #[arg(long, hide = true, conflicts_with = "live")]
    offline: bool,
}

/// Loads, compares and prints.
pub async fn run(context: &Context, args: &Args) -> Result<u8, Failure> {
    let config = context.config()?;
    let schemas = Schemas::default();
    let live = |_: &str| Arc::new(Live::default());
    let Loaded { catalog, policy, limits, warnings, .. } = Folders::of(&config).load(&live, &schemas, None, &People::of(&config))?;
    super::serve::tls(&config.listen)?;
    sealable(&config)?;
    signing(&config)?;
    if !args.quick {
        Equivalence::exhaustive(&policy).map_err(|difference| Failure::Other(difference.to_string()))?;
    }
    let trusted = identity::trusted(&config, args.live).await;
    let mut warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    for (one, entry) in trusted.iter().zip(&config.identity.jwt) {
        match &one.keys {
            Err(fault) if entry.jwks.file.is_some() => return Err(fault.clone().into()),
            Err(fault) => warnings.push(format!("{fault}; tokens of {} are refused until it can be", table::safe(&one.issuer))),
            Ok(_) => {}
        }
    }
    warnings.extend(manifests::odd(&config, &catalog).iter().map(ToString::to_string));
    warnings.extend(exposed::exposed(&config, &catalog, &Ground::of(&config).base));
    if args.live {
        warnings.extend(ask_servers(&config, &catalog).await);
    }
    let (confined, enforced) = confined::all(&catalog, &Ground::of(&config));
    warnings.extend(confined::warnings(&confined, &enforced));
    let drift = drift(&catalog);
    // Reviewed, and left out by whoever wrote the manifest: as it should be.
    let unnamed = catalog.tools().iter().filter(|tool| tool.withheld == Some(Standing::NotInManifest)).count();
    let withheld = catalog.tools().iter().filter(|tool| tool.withheld.is_some()).count() - unnamed + drift.len();
    if context.json {
        let tools: Vec<_> = rows(&catalog, &policy).map(|(tool, allows)| json(tool, &allows, &limits)).collect();
        let drift: Vec<_> = drift.iter().map(|(target, why)| serde_json::json!({ "tool": target, "withheld": why })).collect();
        let offered: Vec<_> = offered(&catalog)
            .map(|target| {
                let (rules, (_, budgets)) = (policy.rules_about_name(&target, Tier::Read), limits.counting(&target, Tier::Read));
                let limits = limits.ids_for(&target).collect::<Vec<_>>();
                serde_json::json!({ "target": target, "tier": Tier::Read.as_str(), "rules": rules, "limits": limits, "budgets": budgets })
            })
            .collect();
        let version = policy.version();
        println!(
            "{}",
            serde_json::json!({
                "policy_version": version, "issuers": trusted.iter().map(issuer_json).collect::<Vec<_>>(), "tools": tools, "offered": offered, "drift": drift, "warnings": warnings, "withheld": withheld,
                "not_in_manifest": unnamed, "live": args.live, "toxic_flow": policy.flow().told(),
                "sandbox": confined::json(&confined, &enforced)
            })
        );
    } else {
        print!("{}", issuers(&trusted));
        print!("{}", chains(&catalog, &policy, &limits));
        drift.iter().for_each(|(target, why)| println!("{}: {why}; see `doorward tools diff`", table::safe(target)));
        warnings.iter().for_each(|warning| println!("warning: {warning}"));
        print!("{}", built_in(&catalog, &policy));
        print!("{}", confined::told(&confined, &enforced));
        let left_out = if unnamed > 0 { format!(", {unnamed} that no manifest names") } else { String::new() };
        println!("{} tools, {withheld} withheld{left_out}; policy {}", catalog.tools().len(), policy.version());
        if !args.live && !catalog.sources().is_empty() {
            println!("no server was asked how it defines them now: `doorward check --live` asks, and starts those on pipes");
        }
    }
    // A withheld tool is safe, and not what its operator wants: say so to scripts.
    Ok(if withheld > 0 { 3 } else { 0 })
}

/// Whether payloads can be sealed to those who are to open them.
pub(super) fn sealable(config: &Config) -> Result<(), Failure> {
    config.openers().map(Payloads::new).transpose().map(drop).map_err(|wrong| Failure::Usage(wrong.to_string()))
}

/// Whether messages to the webhook can be signed.
pub(super) fn signing(config: &Config) -> Result<(), Failure> {
    let read = |to: &Webhook| Signing::read(&to.secret).map(drop);
    config.approvals.webhook.as_ref().map_or(Ok(()), read).map_err(|why| Failure::Usage(format!("approvals.webhook.secret: {why}")))
}

/// Asks every server at once how it defines its tools now; why some could not be asked.
async fn ask_servers(config: &Config, catalog: &Catalog) -> Vec<String> {
    let (ground, mut asking) = (Arc::new(Ground::of(config)), JoinSet::new());
    for source in catalog.sources() {
        let (manifest, live, ground) = (Arc::clone(&source.manifest), Arc::clone(&source.live), Arc::clone(&ground));
        asking.spawn(async move { tools::listing(&manifest, &ground).await.map(|listing| live.set(listing)) });
    }
    let mut warnings = Vec::new();
    while let Some(asked) = asking.join_next().await {
        if let Ok(Err(Failure::Upstream(reason) | Failure::Other(reason) | Failure::Usage(reason))) = asked {
            warnings.push(format!("{}; its tools are withheld until it lists them as reviewed", table::safe(&reason)));
        }
    }
    warnings.sort();
    warnings
}

/// The tools that would be withheld because of what their servers say today, and why.
fn drift(catalog: &Catalog) -> Vec<(String, String)> {
    let reviewed = catalog.tools().iter().filter(|tool| tool.withheld.is_none());
    let standing = reviewed.map(|tool| (tool.policy_name.to_string(), catalog.standing(tool)));
    let mut drift: Vec<_> = standing
        .filter(|(_, standing)| matches!(standing, Standing::Drifted | Standing::Gone))
        .map(|(target, standing)| (target, standing.to_string()))
        .collect();
    for source in catalog.sources() {
        let Some(live) = source.live.listing() else { continue };
        let known = |name: &String| source.lock.tools.contains_key(name) || source.manifest.tools.contains_key(name);
        let new = live.tools.keys().filter(|name| !known(name));
        drift.extend(
            new.map(|name| (format!("{}__{name}", source.manifest.upstream), "withheld: new, and nobody has reviewed it".to_owned())),
        );
    }
    drift.sort();
    drift
}

fn rows<'c>(catalog: &'c Catalog, policy: &'c Policy) -> impl Iterator<Item = (&'c Target, Vec<String>)> {
    catalog.tools().iter().map(|tool| (tool, tool.index.map(|index| policy.rules_about(index)).unwrap_or_default()))
}

/// The prompts, resources and templates that servers list, as rules name them.
fn offered(catalog: &Catalog) -> impl Iterator<Item = String> {
    catalog.sources().iter().flat_map(|source: &Source| {
        let (id, listing) = (source.manifest.upstream.as_str(), source.live.listing());
        let listing = listing.as_deref();
        let prompts = listing.iter().flat_map(|listing| &listing.prompts).map(|item| prompt_policy_name(id, &item.own));
        let resources = listing.iter().flat_map(|listing| &listing.resources);
        let resources = resources.filter_map(|item| Some(PolicyNames::resource(id, &item.own)?.name.into_string()));
        let templates = listing.iter().flat_map(|listing| &listing.templates).map(|item| template_policy_name(id, &item.own));
        prompts.chain(resources).chain(templates).collect::<Vec<_>>()
    })
}

fn chains(catalog: &Catalog, policy: &Policy, limits: &Limits) -> String {
    let list = |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(" ") };
    let by_name = |target: String| {
        let rules = list(policy.rules_about_name(&target, Tier::Read));
        let limits = list(limits_of(limits, &target, None));
        vec![target, Tier::Read.to_string(), "-".to_owned(), "-".to_owned(), rules, limits]
    };
    let line = |(tool, rules): (&Target, Vec<String>)| {
        vec![
            tool.policy_name.to_string(),
            tier(tool),
            list(tool.labels.iter().map(ToString::to_string).collect()),
            schema(tool),
            list(rules),
            list(limits_of(limits, &tool.policy_name, Some(tool.tier))),
        ]
    };
    let rows: Vec<_> = rows(catalog, policy).map(line).chain(offered(catalog).map(by_name)).collect();
    table::render(&["TARGET", "TIER", "LABELS", "SCHEMA", "RULES", "LIMITS"], &rows)
}

/// The ids of all that counts a target's calls; loops are of tools.
fn limits_of(limits: &Limits, target: &str, tool: Option<Tier>) -> Vec<String> {
    let (loops, budgets) = limits.counting(target, tool.unwrap_or(Tier::Read));
    let loops = loops.into_iter().filter(|_| tool.is_some());
    limits.ids_for(target).chain(loops).chain(budgets).map(str::to_owned).collect()
}

/// What becomes of a call that the built-in rule is about, and which calls those are.
fn built_in(catalog: &Catalog, policy: &Policy) -> String {
    let guarded = catalog.tools().iter().filter(|tool| is_guarded(tool.tier, &tool.labels)).count();
    let does = match policy.flow() {
        Flow::Off => "off: `labels.toxic_flow` of doorward.yaml says so".to_owned(),
        Flow::Ask(ask) => format!("asks for {ask}"),
        Flow::Deny => "denies; `labels.toxic_flow` of doorward.yaml names who can approve".to_owned(),
    };
    let can = match policy.can_be_toxic() {
        true => String::new(),
        false => {
            "; no manifest labels what brings private data, and what brings text of strangers, so that it never comes to bear".to_owned()
        }
    };
    format!("{TOXIC_FLOW} (a call that goes out or cannot be undone, after `private` and `untrusted`; {guarded} tools): {does}{can}\n")
}

/// Whose access tokens are taken; nothing where none are.
fn issuers(trusted: &[Trusted]) -> String {
    let list = |items: &[String]| if items.is_empty() { "-".to_owned() } else { items.join(" ") };
    let keys = |one: &Trusted| match &one.keys {
        Ok(Some(keys)) => list(keys),
        Ok(None) => "not asked".to_owned(),
        Err(_) => "none: see below".to_owned(),
    };
    let agents = |one: &Trusted| one.agents.as_deref().map_or("all".to_owned(), list);
    let line = |one: &Trusted| vec![one.issuer.clone(), one.audience.clone(), one.agent.clone(), agents(one), list(&one.scopes), keys(one)];
    let rows: Vec<_> = trusted.iter().map(line).collect();
    if rows.is_empty() {
        String::new()
    } else {
        table::render(&["TOKENS OF", "AUDIENCE", "AGENT BY", "AGENTS", "SCOPES", "KEYS"], &rows) + "\n"
    }
}

fn issuer_json(one: &Trusted) -> serde_json::Value {
    let (keys, error) = match &one.keys {
        Ok(keys) => (keys.clone(), None),
        Err(fault) => (None, Some(fault.to_string())),
    };
    serde_json::json!({
        "issuer": one.issuer, "audience": one.audience, "agent_claim": one.agent, "agents": one.agents, "scopes": one.scopes, "keys": keys, "error": error,
    })
}

fn tier(tool: &Target) -> String {
    match (tool.raised_from, tool.tier_claimed) {
        (Some(from), _) => format!("{} (raised from {from} by the server's annotations)", tool.tier),
        (None, true) => format!("{} (claimed)", tool.tier),
        (None, false) => tool.tier.to_string(),
    }
}

fn schema(tool: &Target) -> String {
    match &tool.withheld {
        None => format!("sha256:{}", crate::seal::hex(&tool.hash).get(..12).unwrap_or_default()),
        Some(Standing::NotPinned) => "withheld: not pinned; run `doorward tools pin`".to_owned(),
        Some(standing) => standing.to_string(),
    }
}

fn json(tool: &Target, rules: &[String], limits: &Limits) -> serde_json::Value {
    let (loops, budgets) = limits.counting(&tool.policy_name, tool.tier);
    serde_json::json!({
        "tool": tool.policy_name, "name": tool.name, "upstream": tool.upstream_id, "tier": tool.tier.as_str(), "tier_claimed": tool.tier_claimed,
        "labels": tool.labels, "record_payload": tool.record_payload, "scope": tool.scope, "definition": format!("sha256:{}", crate::seal::hex(&tool.hash)),
        "withheld": tool.withheld.as_ref().map(ToString::to_string), "rules": rules, "limits": limits.ids_for(&tool.policy_name).collect::<Vec<_>>(), "loops": loops, "budgets": budgets,
        "timeout_ms": tool.timeout_ms, "max_timeout_ms": tool.max_timeout_ms, "first_byte_timeout_ms": tool.first_byte_timeout_ms,
        "queue_timeout_ms": tool.queue_timeout_ms, "retries": tool.retries, "max_result_bytes": tool.max_result_bytes, "compensation": tool.compensation,
        "idempotency": tool.idempotency, "idempotency_window_s": tool.idempotency_window_s,
    })
}

fn refusal(policy: &Policy, principal: &str, tool: &Target) -> Option<String> {
    match policy.could(policy.class(principal), policy.target(&tool.policy_name)?) {
        Decision::Permit { .. } => None,
        Decision::Deny { rules } if rules.is_empty() => Some("  not allowed".to_owned()),
        Decision::Deny { rules } => Some(format!("  denied by {}", rules.iter().map(RuleId::as_str).collect::<Vec<_>>().join(", "))),
    }
}

/// What a start prints of the tools: short, and what is wrong first. With a principal, what it may not call is marked.
pub fn overview(catalog: &Catalog, policy: &Policy, principal: Option<&str>) -> String {
    let mut out = String::new();
    for source in catalog.sources() {
        let id = &source.manifest.upstream;
        let of_source = || catalog.tools().iter().filter(|tool| *tool.upstream_id == **id);
        let withheld = of_source().filter(|tool| tool.withheld.is_some()).count();
        let note = if withheld > 0 { format!(", {withheld} withheld: see `doorward check`") } else { String::new() };
        let _ = writeln!(out, "upstream {id}: {} tools{note}", of_source().count());
        if catalog.tools().len() <= LISTED_AT_START {
            for tool in of_source() {
                let standing = tool.withheld.as_ref().map(|standing| format!("  {standing}"));
                let refused = || principal.and_then(|principal| refusal(policy, principal, tool));
                let _ = writeln!(out, "  {:<32} {}{}", tool.name, tier(tool), standing.or_else(refused).unwrap_or_default());
            }
        }
    }
    if catalog.sources().is_empty() {
        out.push_str("no upstreams: write a manifest, or try `doorward wrap NAME -- COMMAND`\n");
    }
    let _ = writeln!(out, "policy {}", policy.version());
    out
}
