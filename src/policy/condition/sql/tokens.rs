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

/// What stands between quotes, or in a comment, as it was written.
fn quoted(token: &Token) -> Option<&str> {
    match token {
        Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) | Token::NationalStringLiteral(text) => Some(text),
        Token::DollarQuotedString(quoted) => Some(&quoted.value),
        Token::Word(word) if word.quote_style.is_some() => Some(&word.value),
        Token::Whitespace(Whitespace::SingleLineComment { comment, .. } | Whitespace::MultiLineComment(comment)) => Some(comment),
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
