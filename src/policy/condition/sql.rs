//! SQL: whether every statement of a text is of a permitted kind and names permitted tables only.
//!
//! The text is parsed in the dialect of the database that reads it; what does not parse has no answer. What is looked for is what a
//! statement *is*, at any depth: a write in a `WITH`, a table in a subquery, a second statement behind a semicolon.

use std::ops::ControlFlow;

use sqlparser::ast::{Expr, Ident, ObjectName, Query, SetExpr, Statement, TableFactor, Visit, Visitor};
use sqlparser::dialect::{AnsiDialect, Dialect, MsSqlDialect, MySqlDialect, PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use super::{Truth, Unclear};

/// Longest text, in bytes.
const MAX_BYTES: usize = 64 << 10;
/// Most tokens that are neither names, literals, commas nor spaces: they bound how deep a tree can be, and its tree is walked and dropped on
/// a thread's stack.
const MAX_STRUCTURE: usize = 1_000;
/// Deepest nesting of parentheses and subqueries.
const MAX_DEPTH: usize = 40;

/// Functions that read nothing but their arguments and the clock.
const HARMLESS: [&str; 62] = [
    "abs",
    "age",
    "array_agg",
    "avg",
    "bool_and",
    "bool_or",
    "cast",
    "ceil",
    "ceiling",
    "char_length",
    "coalesce",
    "concat",
    "concat_ws",
    "count",
    "cume_dist",
    "date",
    "date_part",
    "date_trunc",
    "datediff",
    "day",
    "dense_rank",
    "exp",
    "first_value",
    "floor",
    "greatest",
    "group_concat",
    "hour",
    "ifnull",
    "isnull",
    "iif",
    "instr",
    "json_agg",
    "lag",
    "last_value",
    "lead",
    "least",
    "left",
    "length",
    "ln",
    "lower",
    "ltrim",
    "max",
    "min",
    "minute",
    "mod",
    "month",
    "now",
    "nullif",
    "percent_rank",
    "power",
    "rank",
    "replace",
    "right",
    "round",
    "row_number",
    "rtrim",
    "string_agg",
    "substr",
    "sum",
    "trim",
    "upper",
    "year",
];

/// What a statement may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    Explain,
    /// Everything else, which no condition can permit.
    Other,
}

impl Kind {
    /// The words of a file.
    pub const WORDS: [(&str, Self); 6] = [
        ("select", Self::Select),
        ("insert", Self::Insert),
        ("update", Self::Update),
        ("delete", Self::Delete),
        ("merge", Self::Merge),
        ("explain", Self::Explain),
    ];

    fn of(statement: &Statement) -> Self {
        match statement {
            Statement::Query(_) => Self::Select,
            Statement::Insert(_) => Self::Insert,
            Statement::Update(_) => Self::Update,
            Statement::Delete(_) => Self::Delete,
            Statement::Merge(_) => Self::Merge,
            Statement::Explain { .. } => Self::Explain,
            _ => Self::Other,
        }
    }
}

/// Whose SQL it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Database {
    Postgres,
    MySql,
    Sqlite,
    MsSql,
    Ansi,
}

impl Database {
    /// The words of a file.
    pub const WORDS: [(&str, Self); 5] =
        [("postgres", Self::Postgres), ("mysql", Self::MySql), ("sqlite", Self::Sqlite), ("mssql", Self::MsSql), ("ansi", Self::Ansi)];

    fn dialect(self) -> &'static dyn Dialect {
        match self {
            Self::Postgres => &PostgreSqlDialect {},
            Self::MySql => &MySqlDialect {},
            Self::Sqlite => &SQLiteDialect {},
            Self::MsSql => &MsSqlDialect {},
            Self::Ansi => &AnsiDialect {},
        }
    }
}

/// What a text may be and name.
#[derive(Debug)]
pub(super) struct Sql {
    kinds: Box<[Kind]>,
    /// Any where there are none.
    tables: Option<Box<[TablePattern]>>,
    /// Functions beside the harmless ones, folded.
    functions: Box<[Box<str>]>,
    database: Database,
}

/// A table by its folded name, or all of a schema.
#[derive(Debug)]
struct TablePattern {
    parts: Vec<String>,
    every: bool,
}

impl Sql {
    /// The test of a file.
    ///
    /// # Errors
    /// What is wrong with a table or a function.
    pub fn new(kinds: Box<[Kind]>, tables: Option<&[String]>, functions: &[String], database: Database) -> Result<Self, String> {
        let pattern = |text: &String| {
            let (name, every) = text.strip_suffix(".*").map_or((text.as_str(), false), |name| (name, true));
            let told = || format!("`{}` is not a table: write `orders`, `sales.orders` or `sales.*`", text.escape_default());
            let parser = Parser::new(database.dialect()).try_with_sql(name);
            let name = parser.and_then(|mut parser| {
                let name = parser.parse_object_name(false)?;
                parser.expect_token(&Token::EOF).map(|_| name)
            });
            let parts = folded(&name.map_err(|_| told())?).ok_or_else(told)?;
            Ok::<_, String>(TablePattern { parts, every })
        };
        let tables = tables.map(|tables| tables.iter().map(pattern).collect::<Result<_, _>>()).transpose()?;
        let plain = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
        if let Some(odd) = functions.iter().find(|name| !plain(name)) {
            return Err(format!("`{}` is not a function's name", odd.escape_default()));
        }
        let functions = functions.iter().map(|name| name.to_lowercase().into()).collect();
        Ok(Self { kinds, tables, functions, database })
    }

    /// Whether the text is nothing but permitted statements, and at least one.
    pub fn permits(&self, text: &str) -> Truth {
        let statements = self.parse(text)?;
        if statements.is_empty() {
            return Err(Unclear("the argument has no SQL statement"));
        }
        for statement in &statements {
            let mut walk = Walk { sql: self, frames: Vec::new() };
            if let ControlFlow::Break(truth) = statement.visit(&mut walk) {
                return truth;
            }
        }
        Ok(true)
    }

    fn parse(&self, text: &str) -> Result<Vec<Statement>, Unclear> {
        const UNREADABLE: Unclear = Unclear("the argument is no SQL that can be read for certain");
        let odd = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t');
        // MySQL runs what stands in such a comment, and others do not.
        let hidden = text.contains("/*!") && !matches!(self.database, Database::MySql);
        if text.len() > MAX_BYTES || text.chars().any(odd) || hidden {
            return Err(UNREADABLE);
        }
        let dialect = self.database.dialect();
        let tokens = Tokenizer::new(dialect, text).tokenize().map_err(|_| UNREADABLE)?;
        let flat = |token: &&Token| {
            !matches!(token, Token::Comma | Token::Whitespace(_) | Token::Number(..) | Token::SingleQuotedString(_))
                && !matches!(token, Token::Word(word) if word.keyword == sqlparser::keywords::Keyword::NoKeyword)
        };
        if tokens.iter().filter(flat).count() > MAX_STRUCTURE {
            return Err(Unclear("the argument is more SQL than is looked through"));
        }
        let mut parser = Parser::new(dialect).with_recursion_limit(MAX_DEPTH).with_tokens(tokens);
        parser.parse_statements().map_err(|_| UNREADABLE)
    }

    fn permits_kind(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    fn permits_table(&self, name: &[String]) -> bool {
        let covers = |pattern: &TablePattern| match (&pattern.parts, pattern.every) {
            (parts, false) => parts == name,
            (parts, true) => name.len() == parts.len() + 1 && name.starts_with(parts),
        };
        self.tables.as_ref().is_none_or(|tables| tables.iter().any(covers))
    }

    fn permits_function(&self, name: &ObjectName) -> bool {
        let Some(parts) = folded(name) else { return false };
        let name = parts.join(".").to_lowercase();
        HARMLESS.contains(&name.as_str()) || self.functions.iter().any(|known| **known == *name)
    }
}

/// The parts of a name as a database takes them: in small letters unless they are quoted. `None` for a name that is computed.
fn folded(name: &ObjectName) -> Option<Vec<String>> {
    name.0.iter().map(|part| part.as_ident().map(fold)).collect()
}

fn fold(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

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

struct Walk<'s> {
    sql: &'s Sql,
    frames: Vec<Frame>,
}

const NO: ControlFlow<Truth> = ControlFlow::Break(Ok(false));
const ON: ControlFlow<Truth> = ControlFlow::Continue(());

fn on_if(permitted: bool) -> ControlFlow<Truth> {
    if permitted { ON } else { NO }
}

impl Walk<'_> {
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
