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
/// Most tokens that are neither names, literals, commas nor spaces: they bound how deep a tree can be, and its tree is walked and dropped on
/// a thread's stack.
const MAX_STRUCTURE: usize = 1_000;
/// Deepest nesting of parentheses and subqueries.
const MAX_DEPTH: usize = 40;

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
        let statements = self.parse(text)?;
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

    fn parse(&self, text: &str) -> Result<Vec<Statement>, Unclear> {
        const UNREADABLE: Unclear = Unclear("the argument is no SQL that can be read for certain");
        if text.len() > MAX_BYTES {
            return Err(UNREADABLE);
        }
        tokens::check_letters(text)?;
        let dialect = self.database.dialect();
        let tokens = Tokenizer::new(dialect, text).tokenize().map_err(|_| UNREADABLE)?;
        tokens::check(self.database, text, &tokens)?;
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
        self.tables.as_ref().is_none_or(|tables| tables.iter().any(|table| table.covers(name)))
    }

    fn permits_function(&self, name: &ObjectName) -> bool {
        let Some(parts) = folded(name) else { return false };
        let name = parts.join(".").to_ascii_lowercase();
        is_harmless(&name) || self.functions.iter().any(|known| **known == *name)
    }
}

#[cfg(test)]
mod tests;
