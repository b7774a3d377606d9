//! What is looked at before SQL is parsed: how deep it nests, and what databases and their settings read in more than one way.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::{Token, Whitespace};

use super::{Database, tsql};
use crate::policy::condition::Unclear;

/// Why the text has no answer by how it is written.
const TWO_WAYS: Unclear = Unclear("the argument has SQL that can be read in more than one way");

/// Whether the text is written in one way only, as far as letters tell.
///
/// # Errors
/// Where it is not.
pub(super) fn check_letters(text: &str) -> Result<(), Unclear> {
    let odd = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\r' | '\t');
    // A line ends at a lone carriage return for some readers, and goes on for others: so does a comment.
    let is_lone = |(at, _): (usize, &str)| text.as_bytes().get(at + 1) != Some(&b'\n');
    // MySQL and MariaDB run what stands in such a comment, some versions of them, and others do not.
    let runs = ["/*!", "/*M!", "/*m!"].iter().any(|beginning| text.contains(beginning));
    if text.chars().any(odd) || runs || text.match_indices('\r').any(is_lone) || text.contains(['\u{2028}', '\u{2029}']) {
        return Err(TWO_WAYS);
    }
    Ok(())
}

/// Whether the tokens of the text mean the same to every reader of the database's dialect.
///
/// # Errors
/// Where they do not.
pub(super) fn check(database: Database, text: &str, tokens: &[Token]) -> Result<(), Unclear> {
    let is_parted = matches!(database, Database::Sqlite) && (0..tokens.len()).filter_map(|at| tokens.get(at..)).any(is_long_parameter);
    if is_parted || swallows_a_comment(tokens) {
        return Err(TWO_WAYS);
    }
    let quoted: usize = tokens.iter().filter_map(quoted).map(spaces).sum();
    // A space that is none of ASCII parts words for some readers and belongs to them for others.
    if tokens.iter().all(|token| is_plain(database, text, token)) && spaces(text) == quoted { Ok(()) } else { Err(TWO_WAYS) }
}

/// Letters beyond ASCII that may be taken for space.
fn spaces(text: &str) -> usize {
    let is_space = |letter: &char| {
        letter.is_whitespace() || matches!(letter, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}')
    };
    text.chars().filter(|letter| !letter.is_ascii() && is_space(letter)).count()
}

/// Whether an operator holds what begins a comment: PostgreSQL ends its operators there (4.1.3, operators), and the parser does not.
fn swallows_a_comment(tokens: &[Token]) -> bool {
    let mut last = None;
    for token in tokens {
        let is_name = matches!(token, Token::Word(_) | Token::Number(..) | Token::Placeholder(_));
        if is_name || is_literal(token) || matches!(token, Token::Whitespace(_)) {
            last = None;
            continue;
        }
        let operator: String = last.into_iter().chain(token.to_string().chars()).collect();
        if operator.contains("--") || operator.contains("/*") {
            return true;
        }
        last = operator.chars().next_back();
    }
    false
}

fn is_literal(token: &Token) -> bool {
    matches!(
        token,
        Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::DollarQuotedString(_)
    )
}

/// Whether SQLite takes what begins with the tokens for one parameter: `$a(')` or `:a(')`, whose brackets may hold any text without a space.
fn is_long_parameter(tokens: &[Token]) -> bool {
    matches!(
        tokens,
        [Token::Placeholder(_), Token::LParen, ..]
            | [Token::Colon | Token::AtSign | Token::Sharp, Token::Word(_) | Token::Number(..), Token::LParen, ..]
    )
}

/// What stands between quotes, as it was written.
fn quoted(token: &Token) -> Option<&str> {
    match token {
        Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) | Token::NationalStringLiteral(text) => Some(text),
        Token::DollarQuotedString(quoted) => Some(&quoted.value),
        Token::Word(word) if word.quote_style.is_some() => Some(&word.value),
        _ => None,
    }
}

/// How many tokens there are that may make a tree deeper.
pub(super) fn structure(tokens: &[Token]) -> usize {
    let flat = |token: &&Token| match token {
        Token::Comma | Token::Whitespace(_) | Token::Number(..) | Token::SingleQuotedString(_) => false,
        Token::Word(word) => word.keyword != Keyword::NoKeyword,
        _ => true,
    };
    tokens.iter().filter(flat).count()
}

/// How deep brackets are nested.
pub(super) fn brackets(tokens: &[Token]) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    for token in tokens {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => open += 1,
            Token::RParen | Token::RBracket | Token::RBrace => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest
}

fn is_plain(database: Database, text: &str, token: &Token) -> bool {
    match token {
        // T-SQL writes `0x1F` and knows no `x'1f'`, where others differ in what ends it.
        Token::HexStringLiteral(digits) => {
            let quoted = matches!(database, Database::MsSql) && (text.contains("x'") || text.contains("X'"));
            digits.bytes().all(|digit| digit.is_ascii_hexdigit()) && !quoted
        }
        Token::SingleQuotedByteStringLiteral(bits) => bits.bytes().all(|bit| matches!(bit, b'0' | b'1')),
        Token::SingleQuotedString(text)
        | Token::DoubleQuotedString(text)
        | Token::NationalStringLiteral(text)
        | Token::UnicodeStringLiteral(text) => matches!(database, Database::MySql) || !ends_otherwise(text),
        // Only PostgreSQL has these; a `$` is money or part of a name elsewhere.
        Token::DollarQuotedString(quoted) => {
            let is_name = |tag: &String| tag.is_ascii() && !tag.starts_with(|letter: char| letter.is_ascii_digit());
            matches!(database, Database::Postgres) && quoted.tag.as_ref().is_none_or(is_name)
        }
        // A cast in PostgreSQL, and a method of a type elsewhere.
        Token::DoubleColon => matches!(database, Database::Postgres),
        // Comments nest in some databases only.
        Token::Whitespace(Whitespace::MultiLineComment(comment)) => !comment.contains("/*"),
        // Not in the standard, where the parser takes it all the same.
        Token::Word(word) if word.quote_style == Some('`') => !matches!(database, Database::Ansi),
        Token::Word(word) if word.quote_style.is_none() => {
            // Whether a capital letter beyond ASCII is a small one too hangs on the server and its locale.
            let folds = word.value.is_ascii() || word.value.to_lowercase() == word.value.to_ascii_lowercase();
            folds && !(matches!(database, Database::MsSql) && tsql::is_foreign(&word.value))
        }
        Token::Char(_) => false,
        _ => true,
    }
}

/// Whether a literal ends elsewhere where a backslash takes the next letter with it, as an old setting of PostgreSQL has it.
fn ends_otherwise(literal: &str) -> bool {
    literal.ends_with('\\') || literal.contains("\\'") || literal.contains("\\\\")
}
