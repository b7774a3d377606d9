//! Loops and budgets as `doorward status` shows them.

use serde::{Deserialize, Serialize};

use crate::cli::table;
use crate::limit::Limits;

/// Keys of budgets that are shown, the fullest first.
const MAX_SHOWN: usize = 20;

/// A loop rule, and what it has done since the start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Loop {
    rule: String,
    when: String,
    /// What it watches now.
    watched: u64,
    warned: u64,
    slowed: u64,
    blocked: u64,
}

/// The fullest figure of a budget under one key.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Budget {
    budget: String,
    /// Its parts, with spaces between; empty where the budget has one amount in total.
    key: String,
    figure: String,
    used: u64,
    of: u64,
    percent: u64,
}

/// All of both; of the budgets the fullest.
pub(super) fn of(limits: &Limits) -> (Vec<Loop>, Vec<Budget>) {
    let loops = limits.loops().into_iter().map(|rule| Loop {
        rule: rule.rule,
        when: rule.when.to_owned(),
        watched: rule.watched,
        warned: rule.warned,
        slowed: rule.slowed,
        blocked: rule.blocked,
    });
    let budgets = limits.budgets().into_iter().take(MAX_SHOWN).map(|(key, standing)| Budget {
        budget: standing.budget.to_string(),
        key,
        figure: standing.figure.as_str().to_owned(),
        used: standing.used,
        of: standing.of,
        percent: standing.percent,
    });
    (loops.collect(), budgets.collect())
}

/// Both as tables; nothing of loops that have warned of nothing.
pub(super) fn shown(loops: &[Loop], budgets: &[Budget]) -> String {
    let mut out = String::new();
    let stirred = loops.iter().filter(|rule| rule.warned + rule.slowed + rule.blocked > 0);
    let number = |count: u64| count.to_string();
    let rows: Vec<_> = stirred
        .map(|rule| vec![rule.rule.clone(), rule.when.clone(), number(rule.warned), number(rule.slowed), number(rule.blocked)])
        .collect();
    if !rows.is_empty() {
        out.push('\n');
        out += &table::render(&["LOOP", "OF", "WARNED", "SLOWED", "BLOCKED"], &rows);
    }
    let row = |one: &Budget| {
        let used = format!("{} of {} {}", one.used, one.of, one.figure);
        vec![
            one.budget.clone(),
            table::safe(if one.key.is_empty() { "all together" } else { &one.key }).to_string(),
            used,
            format!("{} %", one.percent),
        ]
    };
    let rows: Vec<_> = budgets.iter().map(row).collect();
    if !rows.is_empty() {
        out.push('\n');
        out += &table::render(&["BUDGET", "OF", "USED", ""], &rows);
    }
    out
}
