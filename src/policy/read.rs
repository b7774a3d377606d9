//! The strict reader of `policy.csv`: text to [`Rows`], with a place for everything that is wrong.
//!
//! Casbin's own reader skips what it does not understand; here every line is a row, a comment, blank, or a fault.
//! Leaves to others: whether names exist (`known`), role cycles (`roles`), what is merely odd (`lint`).

use std::collections::HashMap;
use std::path::Path;

use super::condition::Conditions;
use super::obligation::Obligation;
use super::rule::{ANY, Grant, Pattern, Place, Rows, Rule, RuleEffect, RuleId, TierBound, When};
use super::suggest::{did_you_mean, skeleton};
use crate::catalog::spelling;
use crate::catalog::tier::Tier;
use crate::config::{Fault, check_name};

const KINDS: [&str; 3] = ["p", "g", "o"];
const RULE: &str = "p, ID, SUBJECT, TARGET, TIER, CONDITION, EFFECT";
const OBLIGATION: &str = "o, ID, SUBJECT, TARGET, TIER, CONDITION, OBLIGATION";
const GRANT: &str = "g, MEMBER, ROLE";
const TIERS: [&str; 4] = ["read", "reversible", "irreversible", "any"];
/// Faults told at once: a file of another kind must not print ten thousand.
const MAX_FAULTS: usize = 50;

/// Reads the whole file; its rows may name these conditions.
///
/// # Errors
/// Every fault found, up to 50.
pub fn read(file: &Path, text: &str, conditions: &Conditions) -> Result<Rows, Vec<Fault>> {
    let mut reader = Reader { file, conditions, faults: Vec::new(), rows: Rows::default() };
    if text.starts_with('\u{feff}') {
        let fault = Fault::at(file, 1, 1, "the file begins with a byte order mark").help("save it as UTF-8 without a byte order mark");
        return Err(vec![fault]);
    }
    for (number, line) in (1..).zip(text.split('\n')) {
        reader.line(number, line.strip_suffix('\r').unwrap_or(line));
        if reader.faults.len() >= MAX_FAULTS {
            return Err(reader.faults);
        }
    }
    reader.same_twice();
    if reader.faults.is_empty() { Ok(reader.rows) } else { Err(reader.faults) }
}

struct Field<'a> {
    text: &'a str,
    column: u32,
}

struct Reader<'a> {
    file: &'a Path,
    conditions: &'a Conditions,
    faults: Vec<Fault>,
    rows: Rows,
}

impl Reader<'_> {
    fn line(&mut self, number: u32, line: &str) {
        let content = line.trim_start_matches(' ');
        let comment = content.starts_with('#');
        if let Err(fault) = self.characters(number, line, comment) {
            self.faults.push(fault);
        } else if !comment && !content.is_empty() {
            let fields: Vec<Field<'_>> = fields(line);
            match fields[0].text {
                "p" => self.rule(number, &fields, RULE),
                "o" => self.rule(number, &fields, OBLIGATION),
                "g" => self.grant(number, &fields),
                other => {
                    let help = did_you_mean(other, KINDS, format!("write `{RULE}`, `{OBLIGATION}` or `{GRANT}`; comments begin with `#`"));
                    self.refuse(number, &fields[0], &format!("`{other}` is not a kind of row"), &help);
                }
            }
        }
    }

    /// Refuses what a reviewer cannot see or a reader could take for something else.
    fn characters(&self, number: u32, line: &str, comment: bool) -> Result<(), Fault> {
        for (column, found) in (1..).zip(line.chars()) {
            let fault = |message: String| Fault::at(self.file, number.into(), column, message);
            if found.is_control() {
                return Err(fault(format!("there is a control character (U+{:04X})", u32::from(found))).help("use spaces between fields"));
            }
            // Bidirectional and zero-width marks make a line read otherwise than it is, comments included.
            if matches!(found, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}') {
                return Err(fault(format!("there is an invisible character (U+{:04X})", u32::from(found))).help("remove it"));
            }
            if !comment && !found.is_ascii() {
                let message = format!("`{found}` (U+{:04X}) is not ASCII and may pass for another letter", u32::from(found));
                return Err(fault(message).help("write names in ASCII; resource addresses percent-encoded"));
            }
            if !comment && matches!(found, '"' | '\'' | '`') {
                return Err(fault(format!("`{found}`: fields are not quoted")).help("write the field bare"));
            }
        }
        Ok(())
    }

    fn rule(&mut self, number: u32, fields: &[Field<'_>], form: &str) {
        let Some(at) = self.columns(number, fields, 7, form) else { return };
        let effect = if form == OBLIGATION { self.obligation(number, &fields[6]) } else { self.effect(number, &fields[6]) };
        let id = self.id(number, &fields[1]);
        let subject = self.subject(number, &fields[2], &["agent", "role"]);
        let pattern = self.pattern(number, &fields[3]);
        let bound = effect.as_ref().and_then(|effect| self.bound(number, &fields[4], effect));
        let when = self.when(number, &fields[5]);
        let (Some(id), Some(subject), Some(pattern), Some(bound), Some(when), Some(effect)) = (id, subject, pattern, bound, when, effect)
        else {
            return;
        };
        if effect.gives() && pattern.is_wildcard() && bound == TierBound::UpTo(Tier::Irreversible) {
            let help = "name each irreversible tool in a row of its own, or lower the tier";
            let does = if effect == RuleEffect::Allow { "allows" } else { "lifts the rule for" };
            self.refuse(number, &fields[3], &format!("`{pattern}` {does} every irreversible tool, also ones added later"), help);
            return;
        }
        self.rows.rules.push(Rule { id, subject, pattern, bound, when, effect, at });
    }

    fn grant(&mut self, number: u32, fields: &[Field<'_>]) {
        let Some(at) = self.columns(number, fields, 3, GRANT) else { return };
        let member = self.subject(number, &fields[1], &["agent", "role"]);
        let role = self.subject(number, &fields[2], &["role"]);
        let (Some(member), Some(role)) = (member, role) else { return };
        if &*member == ANY {
            let help = format!("write rules for `{ANY}` itself");
            self.refuse(number, &fields[1], &format!("`{ANY}` is everyone and cannot be given a role"), &help);
            return;
        }
        self.rows.grants.push(Grant { member, role, at });
    }

    fn columns(&mut self, number: u32, fields: &[Field<'_>], expected: usize, form: &str) -> Option<Place> {
        if fields.len() != expected {
            let last = fields.last()?;
            let message = format!("the row has {} columns, and `{}` takes {expected}", fields.len(), fields[0].text);
            self.refuse(number, fields.get(expected).unwrap_or(last), &message, &format!("write `{form}`"));
            return None;
        }
        let empty = fields.iter().find(|field| field.text.is_empty());
        if let Some(empty) = empty {
            self.refuse(number, empty, "the field is empty", &format!("write `{form}`"));
            return None;
        }
        let mut columns = [0; 7];
        for (column, field) in columns.iter_mut().zip(fields) {
            *column = field.column;
        }
        Some(Place { line: number, columns })
    }

    fn id(&mut self, number: u32, field: &Field<'_>) -> Option<RuleId> {
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if field.text.len() <= 64 && field.text.bytes().all(sound) && field.text.as_bytes()[0].is_ascii_alphanumeric() {
            return Some(RuleId::new(number, field.text));
        }
        let help = "write 1 to 64 letters, digits, `-`, `_` or `.`, a letter or digit first, such as `R1`";
        self.refuse(number, field, &format!("`{}` is not an id", field.text), help);
        None
    }

    fn subject(&mut self, number: u32, field: &Field<'_>, kinds: &[&str]) -> Option<Box<str>> {
        let forms = kinds.iter().map(|kind| format!("`{kind}:NAME`")).collect::<Vec<_>>().join(" or ");
        let Some((kind, name)) = field.text.split_once(':') else {
            self.refuse(number, field, &format!("`{}` does not say what it is", field.text), &format!("write {forms}"));
            return None;
        };
        if !kinds.contains(&kind) {
            let help = did_you_mean(kind, kinds.iter().copied(), format!("write {forms}"));
            self.refuse(number, field, &format!("`{kind}:` cannot stand here"), &help);
            return None;
        }
        if let Err(message) = check_name(name) {
            self.refuse(number, field, &message, &format!("write {forms}"));
            return None;
        }
        Some(field.text.into())
    }

    fn pattern(&mut self, number: u32, field: &Field<'_>) -> Option<Pattern> {
        match parse_pattern(field.text) {
            Ok(pattern) => Some(pattern),
            Err((message, help)) => {
                self.refuse(number, field, &message, help);
                None
            }
        }
    }

    /// The condition of a row: a name of `conditions.yaml`, or a dash for always.
    fn when(&mut self, number: u32, field: &Field<'_>) -> Option<Option<When>> {
        if field.text == "-" {
            return Some(None);
        }
        if let Some(id) = self.conditions.id(field.text) {
            return Some(Some(When { id, name: field.text.into() }));
        }
        let otherwise = match self.conditions.is_empty() {
            true => "write `-` for always, or define it in conditions.yaml".to_owned(),
            false => "define it in conditions.yaml, or write `-` for always".to_owned(),
        };
        let help = did_you_mean(field.text, self.conditions.all().map(|(_, condition)| &*condition.name), otherwise);
        self.refuse(number, field, &format!("there is no condition `{}`", field.text), &help);
        None
    }

    fn bound(&mut self, number: u32, field: &Field<'_>, effect: &RuleEffect) -> Option<TierBound> {
        let bound = match (field.text, Tier::parse(field.text), effect) {
            (_, Some(tier), effect) if effect.gives() => Some(TierBound::UpTo(tier)),
            (_, _, RuleEffect::Oblige(Obligation::Waive)) => None,
            (_, Some(tier), _) => Some(TierBound::From(tier)),
            ("any", None, RuleEffect::Deny | RuleEffect::Oblige(_)) => Some(TierBound::Any),
            _ => None,
        };
        if bound.is_none() {
            let (message, help) = match field.text {
                "any" => (
                    "`any` is for denies and obligations: an allow, or a row that lifts a rule, names the highest tier it reaches"
                        .to_owned(),
                    "write `read` or `reversible`".into(),
                ),
                other => (format!("`{other}` is not a tier"), did_you_mean(other, TIERS, "write `read`, `reversible` or `irreversible`")),
            };
            self.refuse(number, field, &message, &help);
        }
        bound
    }

    fn effect(&mut self, number: u32, field: &Field<'_>) -> Option<RuleEffect> {
        match field.text {
            "allow" => Some(RuleEffect::Allow),
            "deny" => Some(RuleEffect::Deny),
            other => {
                let is_obligation = Obligation::parse(other).is_ok();
                let otherwise =
                    if is_obligation { "obligations stand in `o` rows: begin the row with `o`" } else { "write `allow` or `deny`" };
                let help = did_you_mean(other, ["allow", "deny"], otherwise);
                self.refuse(number, field, &format!("`{other}` is not an effect"), &help);
                None
            }
        }
    }

    fn obligation(&mut self, number: u32, field: &Field<'_>) -> Option<RuleEffect> {
        match Obligation::parse(field.text) {
            Ok(obligation) => Some(RuleEffect::Oblige(obligation)),
            Err((message, help)) => {
                let help = if matches!(field.text, "allow" | "deny") { "begin the row with `p`".to_owned() } else { help };
                self.refuse(number, field, &message, &help);
                None
            }
        }
    }

    /// Refuses ids and rows that stand twice, and names that look like one another.
    fn same_twice(&mut self) {
        let mut faults = Vec::new();
        let mut fault = |at: &Place, field: usize, message: String, help: &str| {
            faults.push(Fault::at(self.file, at.line.into(), at.columns[field].into(), message).help(help));
        };
        let (mut ids, mut rules) = (HashMap::new(), HashMap::new());
        for rule in &self.rows.rules {
            if let Some((other, line)) = ids.insert(skeleton(rule.id.as_str()), (&rule.id, rule.at.line)) {
                let looks = if other.as_str() == rule.id.as_str() { "is taken" } else { "looks like another id" };
                fault(&rule.at, 1, format!("the id `{}` {looks} (`{other}` in line {line})", rule.id), "give the row an id of its own");
            }
            if let Some((id, line)) =
                rules.insert((&rule.subject, &rule.pattern, rule.bound, &rule.when, &rule.effect), (&rule.id, rule.at.line))
            {
                fault(&rule.at, 0, format!("the row says the same as `{id}` in line {line}"), "remove one of the two");
            }
        }
        let mut grants = HashMap::new();
        for grant in &self.rows.grants {
            if let Some(line) = grants.insert((&grant.member, &grant.role), grant.at.line) {
                fault(&grant.at, 0, format!("the row says the same as line {line}"), "remove one of the two");
            }
        }
        let mut names: HashMap<String, &str> = HashMap::new();
        let subjects = self.rows.rules.iter().map(|rule| (&rule.subject, &rule.at, 2));
        let members = self.rows.grants.iter().flat_map(|grant| [(&grant.member, &grant.at, 1), (&grant.role, &grant.at, 2)]);
        for (name, at, field) in subjects.chain(members) {
            let other = *names.entry(skeleton(name)).or_insert(name);
            if other != &**name {
                fault(at, field, format!("`{name}` looks like `{other}`"), "correct one, or choose names that can be told apart");
            }
        }
        self.faults.append(&mut faults);
    }

    fn refuse(&mut self, number: u32, field: &Field<'_>, message: &str, help: &str) {
        self.faults.push(Fault::at(self.file, number.into(), field.column.into(), message).help(help));
    }
}

/// The fields of a row without the spaces around them, each with its column.
fn fields(line: &str) -> Vec<Field<'_>> {
    let mut start = 0;
    let parts = line.split(',').map(|part| {
        let indent = part.len() - part.trim_start_matches(' ').len();
        let column = start + indent + 1;
        start += part.len() + 1;
        // A line longer than u32 cannot be: the file is bounded far below.
        Field { text: part.trim_matches(' '), column: u32::try_from(column).unwrap_or(u32::MAX) }
    });
    parts.collect()
}

/// The pattern of a text from an operator's file.
///
/// # Errors
/// What is wrong, and what to write.
pub fn parse_pattern(text: &str) -> Result<Pattern, (String, &'static str)> {
    well_formed(text).map(|()| Pattern::new(text))
}

fn well_formed(text: &str) -> Result<(), (String, &'static str)> {
    const FORMS: &str = "write `UPSTREAM__TOOL`, `prompt:UPSTREAM__NAME` or `resource:UPSTREAM:URI`, with a `*` at most at the end";
    let stem = text.strip_suffix('*').unwrap_or(text);
    if stem.contains('*') {
        return Err((format!("`{text}` has a `*` that is not at the end"), FORMS));
    }
    if stem.contains(' ') {
        return Err((format!("`{text}` has a space in it"), FORMS));
    }
    if text.len() > 2048 {
        return Err(("the target is longer than 2048 bytes".to_owned(), FORMS));
    }
    if matches!(text, "*" | "prompt:*" | "resource:*") {
        return Ok(());
    }
    let (upstream, name) = match upstream_and_name(stem) {
        Some(parts) => parts,
        None if text.ends_with('*') => return Err((format!("`{text}` ends before its upstream's name does"), FORMS)),
        None => return Err((format!("`{text}` is not a target"), FORMS)),
    };
    if upstream.is_empty()
        || upstream.len() > 32
        || !upstream.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        return Err((format!("`{upstream}` is not an upstream's name: those are 1 to 32 of `a-z`, `0-9` and `-`"), FORMS));
    }
    if name.is_empty() && !text.ends_with('*') {
        return Err((format!("`{text}` names nothing of its upstream"), FORMS));
    }
    if text.starts_with("resource:") {
        return spelling::check_rule(name, text.ends_with('*')).map_err(|plain| match plain {
            Some(plain) => {
                let star = if text.ends_with('*') { "*" } else { "" };
                (
                    format!("`{text}` is another spelling of `resource:{upstream}:{plain}{star}`"),
                    "write that: requests are compared in that spelling",
                )
            }
            None => {
                (format!("`{name}` is no URI that a request could name"), "write the server's own URI, or the beginning of it and a `*`")
            }
        });
    }
    if name.contains('#') {
        return Err((format!("`{text}` has a `#` in it"), "put the comment on a line of its own"));
    }
    Ok(())
}

/// The upstream of a target or pattern, and the rest; `None` when it does not get that far.
pub fn upstream_and_name(target: &str) -> Option<(&str, &str)> {
    match target.strip_prefix("resource:") {
        Some(resource) => resource.split_once(':'),
        None => target.strip_prefix("prompt:").unwrap_or(target).split_once("__"),
    }
}
