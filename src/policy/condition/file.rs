//! The file `conditions.yaml`: strict, with a place for every fault.

use std::collections::HashMap;
use std::path::Path;

use globset::GlobBuilder;
use regex::RegexBuilder;
use serde_saphyr::Spanned;

use super::host::{Hosts, Nets};
use super::path::Roots;
use super::pointer::Pointer;
use super::sql::{Database, Kind, Sql};
use super::value::{Case, Range, Scalar, Test};
use super::window::Window;
use super::written::{Bounds, Elements, File, Raw, Words, Written, WrittenCount, WrittenSql};
use super::{Condition, Conditions, Count, Expression, Look, Source};
use crate::config::{Fault, check_name, is_scope, parse_yaml};
use crate::mcp::decimal::Decimal;
use crate::policy::read::parse_pattern;
use crate::policy::rule::ANY;
use crate::policy::suggest::{did_you_mean, skeleton};
use crate::state::{MAX_MADE, MAX_WITHIN_S};

/// Most conditions of a file.
const MAX_CONDITIONS: usize = 1_000;
/// Deepest nesting of `all`, `any` and `not`.
const MAX_DEPTH: usize = 8;
/// Most values of one list.
const MAX_VALUES: usize = 10_000;
/// Most memory of one compiled pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;
/// Faults told at once.
const MAX_FAULTS: usize = 50;

/// The names of the tests, as the file has them.
const TESTS: [&str; 16] = [
    "eq",
    "in",
    "prefix",
    "glob",
    "regex",
    "range",
    "max_len",
    "path_within",
    "url_host_in",
    "cidr",
    "sql",
    "time_window",
    "role",
    "scope",
    "label",
    "count_below",
];

impl Conditions {
    /// Reads the text of a `conditions.yaml`.
    ///
    /// # Errors
    /// Every fault of the text with its place, up to 50.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Vec<Fault>> {
        let read: File = parse_yaml(file, text).map_err(|fault| vec![fault])?;
        let mut reader = Reader { file, faults: Vec::new() };
        let (mut list, mut looks) = (Vec::new(), HashMap::new());
        for (name, mut body) in read.conditions.0 {
            let at = (body.referenced.line(), body.referenced.column());
            reader.name(&name, at);
            if let Some(other) = looks.insert(skeleton(&name).replace('-', "_"), name.clone()) {
                reader.fault(at, format!("`{name}` looks like `{other}`"), "choose names that can be told apart");
            }
            if let Err((line, column, help)) = body.value.settle(text) {
                reader.fault((line, column), "the value can be read in more than one way", help);
            } else if let Some(expression) = reader.expression(&body, MAX_DEPTH) {
                list.push(Condition { name: name.into(), at, canonical: body.value.canonical(), expression });
            }
            if reader.faults.len() >= MAX_FAULTS {
                return Err(reader.faults);
            }
        }
        if list.len() > MAX_CONDITIONS {
            reader.faults.push(Fault::file(file, format!("there are more than {MAX_CONDITIONS} conditions")));
        }
        if reader.faults.is_empty() { Ok(Self { list }) } else { Err(reader.faults) }
    }
}

type At = (u64, u64);

fn at<T>(spanned: &Spanned<T>) -> At {
    (spanned.referenced.line(), spanned.referenced.column())
}

struct Reader<'a> {
    file: &'a Path,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, at: At, message: impl Into<String>, help: impl Into<String>) {
        self.faults.push(Fault::at(self.file, at.0, at.1, message).help(help));
    }

    fn name(&mut self, name: &str, at: At) {
        let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(sound) || !name.as_bytes()[0].is_ascii_lowercase() {
            let help = "write 1 to 64 of `a-z`, `0-9` and `_`, a letter first, such as `office_hours`";
            self.fault(at, format!("`{}` is not a name of a condition", name.escape_default()), help);
        }
    }

    fn expression(&mut self, body: &Spanned<Written>, depth: usize) -> Option<Expression> {
        let (written, place) = (&body.value, at(body));
        let Some(depth) = depth.checked_sub(1) else {
            self.fault(
                place,
                format!("conditions are nested over more than {MAX_DEPTH} steps"),
                "say it with fewer `all`, `any` and `not`",
            );
            return None;
        };
        let said = written.said();
        let [kind] = said.as_slice() else {
            let message = match said.as_slice() {
                [] => "nothing is tested here".to_owned(),
                more => format!("`{}` stand side by side", more.join("` and `")),
            };
            self.fault(
                place,
                message,
                format!("write one of `all`, `any`, `not`, `{}`; join several under `all` or `any`", TESTS.join("`, `")),
            );
            return None;
        };
        if !self.belongs(written, kind, place) {
            return None;
        }
        match *kind {
            "all" => self.parts(written.all.as_deref()?, place, depth).map(Expression::All),
            "any" => self.parts(written.any.as_deref()?, place, depth).map(Expression::Any),
            "not" => self.expression(written.not.as_deref()?, depth).map(|part| Expression::Not(Box::new(part))),
            "role" => self.role(written.role.as_ref()?),
            "scope" => {
                let scope = written.scope.as_ref()?;
                if is_scope(&scope.value) {
                    return Some(Expression::Scope(scope.value.as_str().into()));
                }
                self.fault(at(scope), format!("`{}` is not a scope", scope.value.escape_default()), "write one scope as tokens have it");
                None
            }
            "time_window" => {
                let window = written.time_window.as_ref()?;
                let made = Window::new(&window.days, window.from.as_deref(), window.to.as_deref(), window.zone.as_deref());
                self.kept(place, made).map(Expression::Time)
            }
            "label" => written.label.clone().map(Expression::Label),
            "count_below" => self.count(written.count_below.as_ref()?, place).map(Expression::Below),
            _ => self.look(written, kind, place),
        }
    }

    fn parts(&mut self, parts: &[Spanned<Written>], place: At, depth: usize) -> Option<Box<[Expression]>> {
        if parts.is_empty() {
            self.fault(place, "the list is empty", "write at least one condition in it");
            return None;
        }
        let made: Vec<Option<Expression>> = parts.iter().map(|part| self.expression(part, depth)).collect();
        made.into_iter().collect()
    }

    fn role(&mut self, role: &Spanned<String>) -> Option<Expression> {
        match role.value.strip_prefix("role:").map(check_name) {
            Some(Ok(())) if role.value != ANY => Some(Expression::Role(role.value.as_str().into())),
            Some(Ok(())) => {
                self.fault(at(role), format!("everyone has `{ANY}`"), "remove the test");
                None
            }
            _ => {
                self.fault(at(role), format!("`{}` is not a role", role.value.escape_default()), "write `role:NAME`, as in policy.csv");
                None
            }
        }
    }

    fn count(&mut self, count: &WrittenCount, place: At) -> Option<Count> {
        let (calls, within_s) = (count.calls, count.within_s);
        if !(1..=MAX_MADE).contains(&calls) || !(1..=MAX_WITHIN_S).contains(&within_s) {
            let help = format!("write `calls` of 1 to {MAX_MADE}, and `within_s` of 1 to {MAX_WITHIN_S} seconds");
            self.fault(place, format!("{calls} calls within {within_s} seconds are not counted"), help);
            return None;
        }
        match parse_pattern(&count.of.value) {
            Ok(of) => Some(Count { of, calls, within_s }),
            Err((message, help)) => {
                self.fault(at(&count.of), message, help);
                None
            }
        }
    }

    /// Refuses fields that mean nothing beside this test.
    fn belongs(&mut self, written: &Written, kind: &str, place: At) -> bool {
        let case = matches!(kind, "eq" | "in" | "prefix" | "glob" | "regex" | "path_within");
        let looks = TESTS[..11].contains(&kind);
        let fields = [
            ("argument", written.argument.is_some(), looks),
            ("principal", written.principal.is_some(), looks),
            ("missing", written.missing.is_some(), looks),
            ("elements", written.elements.is_some(), looks && written.argument.is_some()),
            ("ignore_case", written.ignore_case.is_some(), case),
            ("relative_to", written.relative_to.is_some(), kind == "path_within"),
            ("schemes", written.schemes.is_some(), kind == "url_host_in"),
            ("ports", written.ports.is_some(), kind == "url_host_in"),
            ("names", written.names.is_some(), kind == "cidr"),
        ];
        let before = self.faults.len();
        for (name, stands, belongs) in fields {
            if stands && !belongs {
                self.fault(place, format!("`{name}` means nothing beside `{kind}`"), "remove it");
            }
        }
        self.faults.len() == before
    }

    fn look(&mut self, written: &Written, kind: &str, place: At) -> Option<Expression> {
        let source = self.source(written, place)?;
        let every = written.elements != Some(Elements::Any);
        let has_star = matches!(&source, Source::Argument(pointer) if pointer.has_star());
        if written.elements.is_some() && !has_star {
            self.fault(place, "`elements` is for a pointer with a `*`", "write the pointer as `/paths/*`, or remove `elements`");
            return None;
        }
        let test = self.test(written, kind, place)?;
        Some(Expression::Look(Look { source, every, missing: written.missing, test }))
    }

    fn source(&mut self, written: &Written, place: At) -> Option<Source> {
        match (&written.argument, &written.principal) {
            (Some(pointer), None) => match Pointer::parse(&pointer.value) {
                Ok(pointer) => Some(Source::Argument(pointer)),
                Err(help) => {
                    self.fault(at(pointer), format!("`{}` is not a pointer", pointer.value.escape_default()), help);
                    None
                }
            },
            (None, Some(principal)) => match principal.value.as_str() {
                "agent" => Some(Source::Agent),
                "on_behalf_of" => Some(Source::OnBehalfOf),
                other => {
                    let help = did_you_mean(other, ["agent", "on_behalf_of"], "write `agent` or `on_behalf_of`");
                    self.fault(at(principal), format!("`{}` is nothing that is known of a principal", other.escape_default()), help);
                    None
                }
            },
            (None, None) => {
                self.fault(place, "it is not said what is tested", "write `argument: /POINTER`, or `principal: agent`");
                None
            }
            (Some(_), Some(_)) => {
                self.fault(place, "`argument` and `principal` stand side by side", "test one of them; join several under `all` or `any`");
                None
            }
        }
    }

    /// What was made, or a fault at the place.
    fn kept<T>(&mut self, place: At, made: Result<T, String>) -> Option<T> {
        match made {
            Ok(made) => Some(made),
            Err(message) => {
                self.faults.push(Fault::at(self.file, place.0, place.1, message));
                None
            }
        }
    }

    fn test(&mut self, written: &Written, kind: &str, place: At) -> Option<Test> {
        let case = if written.ignore_case == Some(true) { Case::Ignored } else { Case::Counts };
        let words = |words: &Option<Words>| words.as_ref().map(|words| words.0.clone()).unwrap_or_default();
        let made = match kind {
            "eq" => scalars(written.eq.as_slice()).map(|scalars| Test::OneOf(scalars, case)),
            "in" => scalars(written.r#in.as_deref().unwrap_or_default()).map(|scalars| Test::OneOf(scalars, case)),
            "prefix" => {
                filled(words(&written.prefix)).map(|words| Test::Prefix(words.iter().map(|word| case.fold(word).into()).collect(), case))
            }
            "glob" => filled(words(&written.glob)).and_then(|words| globs(&words, case)),
            "regex" => whole(&written.regex.as_ref()?.value, case),
            "range" => range(written.range.as_ref()?),
            "max_len" => Ok(Test::MaxLen(written.max_len? as usize)),
            "path_within" => {
                let base = written.relative_to.as_ref().map(|base| base.value.as_str());
                filled(words(&written.path_within)).and_then(|roots| Roots::new(&roots, base, case)).map(Test::PathWithin)
            }
            "url_host_in" => {
                let ports = written.ports.as_deref().unwrap_or_default();
                filled(words(&written.url_host_in))
                    .and_then(|hosts| Hosts::new(&hosts, written.schemes.as_deref(), ports))
                    .map(Test::UrlHostIn)
            }
            "cidr" => filled(words(&written.cidr)).and_then(|nets| Nets::new(&nets, written.names)).map(Test::Cidr),
            "sql" => sql(written.sql.as_ref()?).map(Test::Sql),
            other => Err(format!("`{other}` is no test of a value")),
        };
        self.kept(place, made)
    }
}

/// A list with something in it, and not too much.
fn filled(words: Vec<String>) -> Result<Vec<String>, String> {
    match words.len() {
        0 => Err("the list is empty".to_owned()),
        1..=MAX_VALUES if words.iter().any(String::is_empty) => {
            Err("an empty text stands for everything, or for nothing: write what is meant".to_owned())
        }
        1..=MAX_VALUES => Ok(words),
        _ => Err(format!("the list has more than {MAX_VALUES} entries")),
    }
}

fn scalars(raws: &[Spanned<Raw>]) -> Result<Box<[Scalar]>, String> {
    if raws.is_empty() || raws.len() > MAX_VALUES {
        return Err(format!("the list has {} entries: write 1 to {MAX_VALUES}", raws.len()));
    }
    let scalar = |raw: &Spanned<Raw>| match &raw.value {
        Raw::Null => Ok(Scalar::Null),
        Raw::Bool(truth) => Ok(Scalar::Bool(*truth)),
        Raw::Number(digits) => number(digits).map(Scalar::Number),
        Raw::Text(text) => Ok(Scalar::Text(text.as_str().into())),
    };
    raws.iter().map(scalar).collect()
}

fn number(digits: &str) -> Result<Decimal, String> {
    Decimal::of(digits).ok_or_else(|| format!("`{}` is not a number", digits.escape_default()))
}

fn range(bounds: &Bounds) -> Result<Test, String> {
    let bound = |bound: &Option<Spanned<Raw>>| match bound.as_ref().map(|bound| &bound.value) {
        None => Ok(None),
        Some(Raw::Number(digits)) => number(digits).map(Some),
        Some(_) => Err("a bound of `range` is a number".to_owned()),
    };
    let range = Range { min: bound(&bounds.min)?, max: bound(&bounds.max)?, above: bound(&bounds.above)?, below: bound(&bounds.below)? };
    match (range.min.as_ref().or(range.above.as_ref()), range.max.as_ref().or(range.below.as_ref())) {
        (None, None) => Err("`range` has no bound: write `min`, `max`, `above` or `below`".to_owned()),
        (Some(low), Some(high)) if low > high => Err("no number is within this `range`".to_owned()),
        _ => Ok(Test::Range(range)),
    }
}

fn globs(words: &[String], case: Case) -> Result<Test, String> {
    let glob = |word: &String| {
        let mut builder = GlobBuilder::new(word);
        builder.literal_separator(true).backslash_escape(true).case_insensitive(case == Case::Ignored);
        builder
            .build()
            .map(|glob| glob.compile_matcher())
            .map_err(|error| format!("`{}` is not a pattern: {}", word.escape_default(), error.kind()))
    };
    words.iter().map(glob).collect::<Result<_, _>>().map(Test::Glob)
}

/// The regex of the whole value: a part that matches would let anything stand around it.
fn whole(pattern: &str, case: Case) -> Result<Test, String> {
    let build = |pattern: &str| {
        let mut builder = RegexBuilder::new(pattern);
        builder.size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES);
        builder.dot_matches_new_line(true).case_insensitive(case == Case::Ignored).build()
    };
    let told = |error: regex::Error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        format!("`{}` is not a regular expression: {last}", pattern.escape_default())
    };
    // By itself first: what only compiles inside our brackets would mean something else.
    build(pattern).map_err(told)?;
    build(&format!(r"\A(?:{pattern})\z")).map(Test::Regex).map_err(told)
}

fn sql(written: &WrittenSql) -> Result<Sql, String> {
    fn known<T: Copy>(word: &str, words: &[(&str, T)], what: &str) -> Result<T, String> {
        let found = words.iter().find(|(name, _)| *name == word).map(|(_, found)| *found);
        let names = words.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("`, `");
        found.ok_or_else(|| format!("`{}` is not {what}: write one of `{names}`", word.escape_default()))
    }
    let database = known(&written.database.value, &Database::WORDS, "a database")?;
    let kinds: Box<[Kind]> =
        written.kinds.iter().map(|kind| known(&kind.value, &Kind::WORDS, "a kind of statement")).collect::<Result<_, _>>()?;
    if kinds.is_empty() {
        return Err("`kinds` is empty: write `[select]`".to_owned());
    }
    Sql::new(kinds, written.tables.as_deref(), &written.functions, database)
}

impl Written {
    /// The names of the tests and joins that stand in it.
    fn said(&self) -> Vec<&'static str> {
        let all = [
            ("all", self.all.is_some()),
            ("any", self.any.is_some()),
            ("not", self.not.is_some()),
            ("eq", self.eq.is_some()),
            ("in", self.r#in.is_some()),
            ("prefix", self.prefix.is_some()),
            ("glob", self.glob.is_some()),
            ("regex", self.regex.is_some()),
            ("range", self.range.is_some()),
            ("max_len", self.max_len.is_some()),
            ("path_within", self.path_within.is_some()),
            ("url_host_in", self.url_host_in.is_some()),
            ("cidr", self.cidr.is_some()),
            ("sql", self.sql.is_some()),
            ("time_window", self.time_window.is_some()),
            ("role", self.role.is_some()),
            ("scope", self.scope.is_some()),
            ("label", self.label.is_some()),
            ("count_below", self.count_below.is_some()),
        ];
        all.into_iter().filter(|(_, stands)| *stands).map(|(name, _)| name).collect()
    }
}
