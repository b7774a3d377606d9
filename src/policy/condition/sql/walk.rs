//! The walk through a parsed statement: every table, function and nested statement of it, at any depth.

use std::ops::ControlFlow;

use sqlparser::ast::{AccessExpr, Expr, Ident, InTarget, ObjectName, Query, SetExpr, Statement, TableFactor, Visit, Visitor};

use super::names::{fold, folded, takes_a_row};
use super::targets::targets;
use super::{Database, Kind, Sql, tsql};
use crate::policy::condition::{Truth, Unclear};

/// What a query's `WITH` has named so far.
struct Frame {
    names: Vec<String>,
    scope: Scope,
    /// The one whose own query is being walked; behind the last, the body is.
    next: usize,
}

/// Which names of a `WITH` its own queries see.
enum Scope {
    /// Those before.
    Earlier,
    /// Those before, and their own.
    Own,
    /// All of them.
    All,
}

impl Frame {
    fn of(query: &Query, database: Database) -> Self {
        let ctes = query.with.as_ref().map(|with| with.cte_tables.as_slice()).unwrap_or_default();
        let scope = match (query.with.as_ref().is_some_and(|with| with.recursive), database) {
            // <https://www.postgresql.org/docs/current/sql-select.html#SQL-WITH>: "allows queries to reference later siblings".
            (true, Database::Postgres) => Scope::All,
            // T-SQL has no such word, and takes a query's own name for itself.
            (true, _) | (false, Database::MsSql) => Scope::Own,
            (false, _) => Scope::Earlier,
        };
        Self { names: ctes.iter().map(|cte| fold(&cte.alias.name)).collect(), scope, next: 0 }
    }

    /// Whether the name means one of this `WITH`'s queries where the walk is now.
    fn means(&self, name: &str) -> bool {
        let visible = match self.scope {
            Scope::Earlier => self.next,
            Scope::Own => self.next + 1,
            Scope::All => self.names.len(),
        };
        self.names.iter().take(visible).any(|known| known == name)
    }
}

/// A function that stands where a table does, by the name that its row has, with the columns it is known to have.
struct Call {
    name: String,
    columns: Vec<String>,
}

impl Call {
    fn of(factor: &TableFactor) -> Option<Self> {
        let (name, alias) = match factor {
            TableFactor::Table { name, args: Some(_), alias, .. } | TableFactor::Function { name, alias, .. } => {
                (folded(name)?.pop(), alias)
            }
            TableFactor::UNNEST { alias, .. } => (Some("unnest".to_owned()), alias),
            TableFactor::TableFunction { alias, .. } => (None, alias),
            _ => return None,
        };
        let columns = alias.iter().flat_map(|alias| alias.columns.iter().map(|column| fold(&column.name))).collect();
        Some(Self { name: alias.as_ref().map(|alias| fold(&alias.name)).or(name)?, columns })
    }
}

/// Gathers the functions that stand where tables do: what is selected is written, and walked, before what it is selected from.
#[derive(Default)]
struct Calls(Vec<Call>);

impl Visitor for Calls {
    type Break = Truth;

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Truth> {
        self.0.extend(Call::of(factor));
        ON
    }
}

/// What the walk knows where it is.
pub(super) struct Walk<'s> {
    sql: &'s Sql,
    frames: Vec<Frame>,
    calls: Vec<Call>,
}

/// Columns of functions' results that no function is named like.
const RESULT_COLUMNS: [&str; 3] = ["key", "ordinality", "value"];

const NO: ControlFlow<Truth> = ControlFlow::Break(Ok(false));
const ON: ControlFlow<Truth> = ControlFlow::Continue(());

fn on_if(permitted: bool) -> ControlFlow<Truth> {
    if permitted { ON } else { NO }
}

impl<'s> Walk<'s> {
    pub fn new(sql: &'s Sql, statement: &Statement) -> Self {
        let mut calls = Calls::default();
        let _ = statement.visit(&mut calls);
        Self { sql, frames: Vec::new(), calls: calls.0 }
    }

    /// A column of a relation as far as names go, such as `o.tags` in `o.tags[1]`, and fields behind it.
    fn fields(&self, root: &Expr, chain: &[AccessExpr]) -> ControlFlow<Truth> {
        let mut parts: Vec<Ident> = match root {
            Expr::Identifier(name) => vec![name.clone()],
            _ => Vec::new(),
        };
        let mut chain = chain.iter().peekable();
        while let (false, Some(AccessExpr::Dot(Expr::Identifier(name)))) = (parts.is_empty(), chain.peek()) {
            parts.push(name.clone());
            chain.next();
        }
        self.column(&parts)?;
        chain.try_for_each(|access| self.field(access))
    }

    /// What stands behind a dot and an expression: a field, or a function of one argument in attribute notation.
    /// <https://www.postgresql.org/docs/current/rowtypes.html#ROWTYPES-USAGE>
    fn field(&self, access: &AccessExpr) -> ControlFlow<Truth> {
        match access {
            AccessExpr::Dot(Expr::Identifier(name)) if self.sql.permits_function(&ObjectName::from(vec![name.clone()])) => ON,
            AccessExpr::Dot(_) => ControlFlow::Break(Err(Unclear("the argument has a field that could be a call of a function"))),
            AccessExpr::Subscript(_) => ON,
        }
    }

    /// `relation.name`: a column, or a function of the relation's row. The row of a function is its result, which may be any value; that of
    /// a table is only taken by functions that take every row.
    fn column(&self, parts: &[Ident]) -> ControlFlow<Truth> {
        let [.., relation, name] = parts else { return ON };
        if !matches!(self.sql.database, Database::Postgres | Database::Ansi)
            || self.sql.permits_function(&ObjectName::from(vec![name.clone()]))
        {
            return ON;
        }
        let (relation, name) = (fold(relation), fold(name));
        let calls = || self.calls.iter().filter(|call| call.name == relation);
        let is_own = |call: &Call| call.columns.is_empty() && (call.name == name || RESULT_COLUMNS.contains(&&*name));
        let is_column = |call: &Call| call.columns.contains(&name) || is_own(call);
        if takes_a_row(&name) || !calls().all(is_column) {
            return ControlFlow::Break(Err(Unclear("the argument has a column that could be a call of a function")));
        }
        ON
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
        let writes = || targets(statement).is_some_and(|targets| targets.iter().all(|name| self.sql.permits_table(name)));
        on_if(self.sql.permits_kind(Kind::of(statement)) && writes())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Truth> {
        // A lock is held against others, and pipes are a language of their own.
        if !query.locks.is_empty() || !query.pipe_operators.is_empty() {
            return NO;
        }
        self.frames.push(Frame::of(query, self.sql.database));
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

    /// An alias without `AS` may be the next statement.
    fn pre_visit_ident(&mut self, name: &Ident) -> ControlFlow<Truth> {
        match self.sql.database {
            Database::MsSql if name.quote_style.is_none() && tsql::is_no_name(&name.value) => {
                ControlFlow::Break(Err(Unclear("the argument has a name that is a word of the language")))
            }
            _ => ON,
        }
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
            Expr::In { target: InTarget::Table { name, args: Some(_) }, .. } => on_if(self.sql.permits_function(name)),
            Expr::CompoundFieldAccess { root, access_chain } => self.fields(root, access_chain),
            Expr::CompoundIdentifier(parts) => self.column(parts),
            _ => ON,
        }
    }
}
