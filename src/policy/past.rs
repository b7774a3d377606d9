//! A policy as it was, from the bundle that was kept of it: what an agent could have called.
//!
//! Owns: reading a bundle. Leaves to others: where bundles are kept (`audit::kept`), and when one was in force (`audit::reach`).
//!
//! Conditions on arguments are not evaluated: what some arguments would have been allowed counts as open, and its rule is told with its condition;
//! a deny with a condition takes nothing away. Lines of kinds that are not known here are passed over.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::condition::{Conditions, spelled};
use super::{Decision, Flow, Options, Pattern, Policy, RuleId, TargetFacts, TargetIndex, read, roles};
use crate::catalog::Label;
use crate::catalog::tier::Tier;

/// What a policy said of an agent and one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stood {
    /// The target's name in rows.
    pub target: String,
    /// Its tier then.
    pub tier: Tier,
    /// Whether some arguments would have been allowed.
    pub could: bool,
    /// The rules that allow or deny it, in words.
    pub why: String,
}

/// A row about a target, as its policy had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its id.
    pub rule: String,
    /// The roles through which the agent has its subject, the agent first; empty where it has not.
    pub through: Vec<Box<str>>,
    /// Its subject.
    pub subject: String,
    /// Its tier, and whether that covers the target's.
    pub tier: (String, bool),
    /// The name of its condition; `None` for always.
    pub condition: Option<String>,
    /// What it says.
    pub effect: String,
}

/// The whole policy of a bundle, its conditions included; `None` where it has another form, or what it says is refused by now. What the prompts
/// and resources of its catalogue brought is not in it: these labels stand for that.
pub fn whole(bundle: &[u8], brought: &[Label]) -> Option<Policy> {
    let (mut csv, mut targets, mut labels) = (String::new(), Vec::new(), HashMap::new());
    let (mut conditions, mut options) = ("conditions:\n".to_owned(), Options { brought: brought.to_vec(), ..Options::default() });
    for line in bundle.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let Ok(fields) = serde_json::from_slice::<Vec<String>>(line) else { continue };
        match fields.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["p" | "o" | "g", ..] => csv.push_str(&format!("{}\n", fields.join(", "))),
            ["condition", name, says] => conditions.push_str(&format!("  {name}: {}\n", spelled(says)?)),
            ["target", name, tier] => targets.push(((*name).to_owned(), Tier::parse(tier)?)),
            ["labels", name, words @ ..] => {
                let words = words.iter().map(|word| Label::parse(word).ok()).collect::<Option<Vec<_>>>()?;
                labels.insert((*name).to_owned(), words);
            }
            ["flow", word] => options.flow = Flow::read(word),
            ["limits", text] => options.limits = (*text).to_owned(),
            _ => {}
        }
    }
    options.labels = targets.iter().map(|(name, _)| labels.remove(name).unwrap_or_default()).collect();
    let (file, beside) = (Path::new("policy.csv"), Path::new("conditions.yaml"));
    let conditions = Conditions::parse(beside, &conditions).ok()?;
    let rows = read::read(file, &csv, &conditions).ok()?;
    let roles = roles::Roles::build(file, &rows).ok()?;
    let facts: Vec<_> = targets.iter().map(|(name, tier)| TargetFacts { name, tier: *tier }).collect();
    Policy::compile(rows, conditions, roles, &facts, &options).ok()
}

/// A policy that was in force.
#[derive(Debug)]
pub struct Past {
    policy: Policy,
    /// The rules and obligations, as the bundle has them.
    rows: Vec<[String; 6]>,
    /// The conditions of rules, by id.
    conditions: HashMap<String, String>,
}

impl Past {
    /// Reads a bundle, as [`Policy::bundle`] makes them; `None` where it has another form, or rows that are no rows by now.
    pub fn read(bundle: &[u8]) -> Option<Self> {
        let (mut csv, mut targets, mut limits) = (String::new(), Vec::new(), String::new());
        let (mut conditions, mut said, mut all) = (HashMap::new(), HashSet::new(), Vec::new());
        for line in bundle.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // A kind of line that is not known may hold anything.
            let Ok(fields) = serde_json::from_slice::<Vec<String>>(line) else { continue };
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            if let ["p" | "o", id, subject, target, tier, condition, effect] = *fields {
                all.push([id, subject, target, tier, condition, effect].map(str::to_owned));
            }
            match fields.as_slice() {
                ["p", id, subject, target, tier, condition, effect] => {
                    if *condition != "-" {
                        conditions.insert((*id).to_owned(), (*condition).to_owned());
                    }
                    let is_absolute = *condition == "-" || *effect == "allow";
                    // Without their conditions two rows can be the same.
                    if is_absolute && said.insert([*subject, *target, *tier, *effect].map(str::to_owned)) {
                        csv.push_str(&format!("p, {id}, {subject}, {target}, {tier}, -, {effect}\n"));
                    }
                }
                ["g", member, role] => csv.push_str(&format!("g, {member}, {role}\n")),
                ["target", name, tier] => targets.push(((*name).to_owned(), Tier::parse(tier)?)),
                ["limits", text] => limits = (*text).to_owned(),
                _ => {}
            }
        }
        let file = Path::new("policy.csv");
        let rows = read::read(file, &csv, &Conditions::default()).ok()?;
        let roles = roles::Roles::build(file, &rows).ok()?;
        let options = Options { limits, ..Options::default() };
        let facts: Vec<_> = targets.iter().map(|(name, tier)| TargetFacts { name, tier: *tier }).collect();
        Some(Self { policy: Policy::compile(rows, Conditions::default(), roles, &facts, &options).ok()?, rows: all, conditions })
    }

    /// The rows about a target, in file order.
    pub fn rows_about(&self, agent: &str, target: &str, tier: Option<Tier>) -> Vec<Said> {
        self.rows.iter().filter_map(|row| self.policy.said(row, agent, target, tier)).collect()
    }

    /// What it said of an agent and each target of its catalogue.
    pub fn of_agent(&self, agent: &str) -> Vec<Stood> {
        let class = self.policy.class(&format!("agent:{agent}"));
        let stood = |(at, (name, tier)): (u32, &(Box<str>, Tier))| {
            let (could, why) = told(&self.policy.decide(class, TargetIndex(at)), |rule| self.rule(rule));
            Stood { target: name.to_string(), tier: *tier, could, why }
        };
        (0..).zip(&self.policy.targets).map(stood).collect()
    }

    fn rule(&self, rule: &RuleId) -> String {
        match self.conditions.get(rule.as_str()) {
            Some(condition) => format!("{rule} if {condition}"),
            None => rule.to_string(),
        }
    }
}

impl Policy {
    /// [`Past::rows_about`] of a policy that is in force.
    pub fn said_about(&self, agent: &str, target: &str, tier: Option<Tier>) -> Vec<Said> {
        self.rows.rules.iter().filter_map(|rule| self.said(&rule.fields(), agent, target, tier)).collect()
    }

    fn said(
        &self,
        [rule, subject, pattern, bound, condition, effect]: &[String; 6],
        agent: &str,
        target: &str,
        tier: Option<Tier>,
    ) -> Option<Said> {
        if !Pattern::new(pattern).matches(target) {
            return None;
        }
        let covers = |tier: Tier| match Tier::parse(bound) {
            None => true,
            Some(ceiling) if effect == "allow" => tier <= ceiling,
            Some(floor) => tier >= floor,
        };
        Some(Said {
            rule: rule.clone(),
            through: self.roles.way(&format!("agent:{agent}"), subject),
            subject: subject.clone(),
            tier: (bound.clone(), tier.is_none_or(covers)),
            condition: Some(condition.clone()).filter(|condition| condition != "-"),
            effect: effect.clone(),
        })
    }
}

/// Whether a decision lets some call through, and by which rules, each told as `rule` tells it.
pub fn told(decision: &Decision<'_>, rule: impl Fn(&RuleId) -> String) -> (bool, String) {
    let all = |rules: &[RuleId]| rules.iter().map(&rule).collect::<Vec<_>>().join(" ");
    match decision {
        Decision::Permit { rules, .. } => (true, all(rules)),
        Decision::Deny { rules, .. } if rules.is_empty() => (false, "no rule allows it".to_owned()),
        Decision::Deny { rules, .. } => (false, format!("denied by {}", all(rules))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &str = "p, R1, role:reader, up__*, read, -, allow\np, R2, agent:bot, up__pay, irreversible, -, allow\n\
        p, D1, role:any, up__drop, any, -, deny\ng, agent:bot, role:reader\n";

    fn bundle() -> String {
        let facts = [("up__read", Tier::Read), ("up__pay", Tier::Irreversible), ("up__drop", Tier::Read), ("up__save", Tier::Reversible)]
            .map(|(name, tier)| TargetFacts { name, tier });
        let options = Options { upstreams: vec!["up".to_owned()], limits: "limits: []\n".to_owned(), ..Options::default() };
        let (policy, _) = Policy::parse(Path::new("policy.csv"), ROWS, &facts, &options).unwrap();
        String::from_utf8(policy.bundle(&options.limits)).unwrap()
    }

    fn of_bot(bundle: &str) -> Vec<(String, bool, String)> {
        let past = Past::read(bundle.as_bytes()).unwrap();
        past.of_agent("bot").into_iter().map(|stood| (stood.target, stood.could, stood.why)).collect()
    }

    #[test]
    fn a_bundle_decides_as_the_policy_that_it_was_made_of() {
        let open = |target: &str, why: &str| (target.to_owned(), true, why.to_owned());
        let shut = |target: &str, why: &str| (target.to_owned(), false, why.to_owned());
        let wanted =
            [shut("up__drop", "denied by D1"), open("up__pay", "R2"), open("up__read", "R1"), shut("up__save", "no rule allows it")];
        assert_eq!(of_bot(&bundle()), wanted);
        let nobody = Past::read(bundle().as_bytes()).unwrap().of_agent("nobody");
        assert!(nobody.iter().all(|stood| !stood.could), "{nobody:?}");
    }

    #[test]
    fn a_condition_opens_what_some_arguments_open_and_closes_nothing() {
        let with = bundle()
            .replace(
                r#"["p","R2","agent:bot","up__pay","irreversible","-","allow"]"#,
                r#"["p","R2","agent:bot","up__pay","irreversible","small","allow"]"#,
            )
            .replace(r#"["p","D1","role:any","up__drop","any","-","deny"]"#, r#"["p","D1","role:any","up__drop","any","at_night","deny"]"#)
            + "[\"condition\",{\"small\":1}]\n[\"o\",\"O1\",\"role:any\",\"*\",\"any\",\"-\",\"redact\"]\n";
        let told: Vec<_> = of_bot(&with).into_iter().filter(|(_, could, _)| *could).map(|(target, _, why)| (target, why)).collect();
        let open = |target: &str, why: &str| (target.to_owned(), why.to_owned());
        assert_eq!(told, [open("up__drop", "R1"), open("up__pay", "R2 if small"), open("up__read", "R1")]);
    }

    #[test]
    fn the_whole_policy_of_a_bundle_has_its_version() {
        let conditions = "conditions:\n  small: { any: [{ argument: /n, range: { max: 1.50, above: -1e3 } }, { argument: /m, in: [null, true, 5, \"5\"] }] }\n  ours: { all: [{ argument: /to, glob: [\"a,b*\", 'x\"y'] }, \
            { not: { label: private } }, { argument: /q, sql: { database: postgres, kinds: [select] } }] }\n  \
            night: { time_window: { days: [mon], from: \"22:00\", to: \"06:00\", zone: Europe/Berlin } }\n  \
            few: { count_below: { calls: 3, of: \"up__*\", within_s: 60 } }\n";
        let rows = "p, R1, role:reader, up__*, read, small, allow\np, R2, role:reader, up__*, read, ours, allow\n\
            p, R3, agent:bot, up__pay, irreversible, night, allow\no, O1, role:any, up__pay, any, few, approve:oncall*2\ng, agent:bot, role:reader\n";
        let facts = [("up__read", Tier::Read), ("up__pay", Tier::Irreversible)].map(|(name, tier)| TargetFacts { name, tier });
        let options = Options {
            upstreams: vec!["up".to_owned()],
            limits: "limits: []\n".to_owned(),
            conditions: conditions.to_owned(),
            labels: vec![vec![Label::Private], vec![]],
            flow: Flow::Off,
            ..Options::default()
        };
        let (policy, _) = Policy::parse(Path::new("policy.csv"), rows, &facts, &options).unwrap();
        let whole = whole(&policy.bundle(&options.limits), &[]).unwrap();
        assert_eq!(whole.version(), policy.version());
    }

    #[test]
    fn what_is_no_bundle_is_none() {
        for wrong in ["[\"p\",\"R1\",\"nobody\",\"up__x\",\"read\",\"-\",\"allow\"]\n", "[\"target\",\"up__x\",\"harmless\"]\n"] {
            assert!(Past::read(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
