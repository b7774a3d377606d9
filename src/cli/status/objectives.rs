//! The part of `doorward status` about error budgets.

use serde::{Deserialize, Serialize};

use super::table;
use crate::objective::Standing;

/// How a tool with an objective stands.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Objective {
    tool: String,
    slo: String,
    /// In the window, as far as they count.
    calls: u64,
    failed: u64,
    burn_rate_1h: f64,
    burn_rate_6h: f64,
    /// Of the error budget; below 0 where it is overdrawn.
    budget_left: f64,
    on_burn: Option<String>,
    /// Whether it follows now.
    burning: bool,
}

impl From<Standing> for Objective {
    fn from(standing: Standing) -> Self {
        let Standing { tool, objective, calls, burns, left, is_burning } = standing;
        Self {
            tool,
            slo: objective.slo.to_string(),
            calls: calls.0,
            failed: calls.1,
            burn_rate_1h: burns.0,
            burn_rate_6h: burns.1,
            budget_left: left,
            on_burn: objective.on_burn.map(|on_burn| on_burn.to_string()),
            burning: is_burning,
        }
    }
}

/// As a table; nothing where no tool has an objective.
pub(super) fn shown(all: &[Objective]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let row = |of: &Objective| {
        let follows = match (&of.on_burn, of.burning) {
            (Some(on_burn), true) => format!("BURNS TOO FAST: {on_burn}"),
            (Some(on_burn), false) => on_burn.clone(),
            (None, _) => "-".to_owned(),
        };
        vec![
            of.tool.clone(),
            of.slo.clone(),
            format!("{} of {}", of.failed, of.calls),
            format!("{:.1}", of.burn_rate_1h),
            format!("{:.1}", of.burn_rate_6h),
            format!("{:.0} %", of.budget_left * 100.0),
            follows,
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    format!("\n{}", table::render(&["OBJECTIVE OF", "SLO", "FAILED", "BURN 1H", "BURN 6H", "BUDGET LEFT", "ON BURN"], &rows))
}
