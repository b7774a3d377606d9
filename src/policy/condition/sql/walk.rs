//! The walk through a parsed statement: every table, function and nested statement of it, at any depth.

use std::ops::ControlFlow;

use sqlparser::ast::{Expr, ObjectName, Query, SetExpr, Statement, TableFactor, Visitor};

use super::names::{fold, folded};
use super::{Kind, Sql};
use crate::policy::condition::{Truth, Unclear};

/// What a query's `WITH` has named so far.
struct Frame {
    names: Vec<String>,
    recursive: bool,
    /// The one whose own query is being walked; behind the last, the body is.
    next: usize,
}

impl Frame {
    /// Whether the name means one of this `WITH`'s queries where the walk is now: within them only those before, unless it is recursive.
    fn means(&self, name: &str) -> bool {
        let visible = if self.recursive { self.names.len() } else { self.next };
        self.names.iter().take(visible).any(|known| known == name)
    }
}

/// What the walk knows where it is.
pub(super) struct Walk<'s> {
    sql: &'s Sql,
    frames: Vec<Frame>,
}

const NO: ControlFlow<Truth> = ControlFlow::Break(Ok(false));
const ON: ControlFlow<Truth> = ControlFlow::Continue(());

fn on_if(permitted: bool) -> ControlFlow<Truth> {
    if permitted { ON } else { NO }
}

impl<'s> Walk<'s> {
    pub fn new(sql: &'s Sql) -> Self {
        Self { sql, frames: Vec::new() }
    }

    /// The parts of a query's body that are no statements of their own.
    fn body(&self, body: &SetExpr) -> ControlFlow<Truth> {
        let mut open = vec![body];
        while let Some(part) = open.pop() {
            match part {
                // A query that makes a table.
                SetExpr::Select(select) if select.into.is_some() => return NO,
                // Names a table where nobody is told of it.
                SetExpr::Table(_) => return NO,
                SetExpr::SetOperation { left, right, .. } => open.extend([&**left, &**right]),
                // Visited by themselves.
                SetExpr::Select(_)
                | SetExpr::Query(_)
                | SetExpr::Values(_)
                | SetExpr::Insert(_)
                | SetExpr::Update(_)
                | SetExpr::Delete(_)
                | SetExpr::Merge(_) => {}
            }
        }
        ON
    }
}

impl Visitor for Walk<'_> {
    type Break = Truth;

    fn pre_visit_statement(&mut self, statement: &Statement) -> ControlFlow<Truth> {
        on_if(self.sql.permits_kind(Kind::of(statement)))
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Truth> {
        // A lock is held against others, and pipes are a language of their own.
        if !query.locks.is_empty() || !query.pipe_operators.is_empty() {
            return NO;
        }
        let ctes = query.with.as_ref().map(|with| with.cte_tables.as_slice()).unwrap_or_default();
        let names = ctes.iter().map(|cte| fold(&cte.alias.name)).collect();
        self.frames.push(Frame { names, recursive: query.with.as_ref().is_some_and(|with| with.recursive), next: 0 });
        self.body(&query.body)
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<Truth> {
        self.frames.pop();
        // The queries of a `WITH` are walked in order and before its body, so one that ends in this frame's time is the next of them.
        if let Some(outer) = self.frames.last_mut()
            && outer.next < outer.names.len()
        {
            outer.next += 1;
        }
        ON
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Truth> {
        let Some(name) = folded(relation) else { return ControlFlow::Break(Err(Unclear("the argument names a table by an expression"))) };
        let own = matches!(name.as_slice(), [one] if self.frames.iter().any(|frame| frame.means(one)));
        on_if(own || self.sql.permits_table(&name))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Truth> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => on_if(self.sql.permits_function(name)),
            _ => ON,
        }
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Truth> {
        match expression {
            Expr::Function(function) => on_if(self.sql.permits_function(&function.name)),
            _ => ON,
        }
    }
}
