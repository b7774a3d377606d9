//! SQL: whether every statement of a text is of a permitted kind and names permitted tables only.
//!
//! The text is parsed in the dialect of the database that reads it; what does not parse has no answer. What is looked for is what a
//! statement *is*, at any depth: a write in a `WITH`, a table in a subquery, a second statement behind a semicolon.

mod names;
mod targets;
mod tokens;
mod tsql;
mod walk;

use std::ops::ControlFlow;

use sqlparser::ast::{ObjectName, Statement, Visit};
use sqlparser::dialect::{AnsiDialect, Dialect, MsSqlDialect, MySqlDialect, PostgreSqlDialect, SQLiteDialect};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};

use self::names::{TablePattern, folded, is_harmless};
use self::walk::Walk;
use super::{Truth, Unclear};

/// Longest text, in bytes.
const MAX_BYTES: usize = 64 << 10;
/// Most tokens that are neither names, literals, commas nor spaces: they bound how deep a tree can be that nests without brackets, such as a
/// long `AND`.
const MAX_STRUCTURE: usize = 1_000;
/// Deepest nesting of brackets of any kind. The parser tries some of them in several ways, so its time doubles with each.
const MAX_BRACKETS: usize = 16;
/// Deepest nesting of what the parser reads by calling itself.
const MAX_DEPTH: usize = 40;
/// The stack that a text is parsed, walked and dropped on, in bytes: a thread's own, of 2 MiB, is used up by 180 bytes of nested queries in a
/// debug build. Only what is touched takes memory.
const STACK_BYTES: usize = 16 << 20;

const UNREADABLE: Unclear = Unclear("the argument is no SQL that can be read for certain");

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

impl Sql {
    /// The test of a file.
    ///
    /// # Errors
    /// What is wrong with a table or a function.
    pub fn new(kinds: Box<[Kind]>, tables: Option<&[String]>, functions: &[String], database: Database) -> Result<Self, String> {
        let tables =
            tables.map(|tables| tables.iter().map(|table| TablePattern::parse(table, database)).collect::<Result<_, _>>()).transpose()?;
        let plain = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
        if let Some(odd) = functions.iter().find(|name| !plain(name)) {
            return Err(format!("`{}` is not a function's name", odd.escape_default()));
        }
        let functions = functions.iter().map(|name| name.to_lowercase().into()).collect();
        Ok(Self { kinds, tables, functions, database })
    }

    /// Whether the text is nothing but permitted statements, and at least one.
    pub fn permits(&self, text: &str) -> Truth {
        if text.len() > MAX_BYTES {
            return Err(UNREADABLE);
        }
        tokens::check_letters(text)?;
        let tokens = Tokenizer::new(self.database.dialect(), text).tokenize().map_err(|_| UNREADABLE)?;
        tokens::check(self.database, text, &tokens)?;
        if tokens::structure(&tokens) > MAX_STRUCTURE || tokens::brackets(&tokens) > MAX_BRACKETS {
            return Err(Unclear("the argument is more SQL than is looked through"));
        }
        stacker::grow(STACK_BYTES, || self.permits_tokens(tokens))
    }

    fn permits_tokens(&self, tokens: Vec<Token>) -> Truth {
        let mut parser = Parser::new(self.database.dialect()).with_recursion_limit(MAX_DEPTH).with_tokens(tokens);
        let statements = parser.parse_statements().map_err(|_| UNREADABLE)?;
        // The parser stops at an `END` behind a statement, which is an alias in MySQL and SQLite: more may follow.
        if parser.peek_token_ref().token != Token::EOF {
            return Err(UNREADABLE);
        }
        if statements.is_empty() {
            return Err(Unclear("the argument has no SQL statement"));
        }
        for statement in &statements {
            let mut walk = Walk::new(self, statement);
            if let ControlFlow::Break(truth) = statement.visit(&mut walk) {
                return truth;
            }
        }
        Ok(true)
    }

    fn permits_kind(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    fn permits_table(&self, name: &[String]) -> bool {
        self.tables.as_ref().is_none_or(|tables| tables.iter().any(|table| table.covers(name)))
    }

    fn permits_function(&self, name: &ObjectName) -> bool {
        let Some(parts) = folded(name) else { return false };
        let name = parts.join(".").to_ascii_lowercase();
        is_harmless(&name) || self.functions.iter().any(|known| **known == *name)
    }
}

#[cfg(test)]
mod ordinary;
#[cfg(test)]
mod tests;
