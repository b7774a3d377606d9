//! The reserved words of T-SQL, where a statement may follow another without a semicolon.
//!
//! `SELECT * FROM orders SHUTDOWN` is two statements to the server, and a table with an alias to a reader that does not know the word.
//! <https://learn.microsoft.com/en-us/sql/t-sql/language-elements/reserved-keywords-transact-sql>

use std::collections::HashSet;
use std::sync::LazyLock;

/// Words that stand in no statement that a condition can permit, with `throw` and `go`, which are not reserved and end a statement all the same.
const FOREIGN: &str = "add alter authorization backup begin break bulk cascade check checkpoint close clustered column commit compute constraint \
    continue create cursor database dbcc deallocate declare deny disk distributed drop dump errlvl exec execute exit file fillfactor foreign \
    function go goto grant identity_insert identitycol if kill lineno load nocheck nonclustered open print proc procedure public raiserror \
    read readtext reconfigure references replication restore restrict return revert revoke rollback rowcount rowguidcol rule save schema \
    securityaudit setuser shutdown statistics textsize throw tran transaction trigger truncate tsequal unique updatetext use view waitfor \
    while writetext";

/// Words that such statements have, and never as a name. What is left of the list is called or written like a function or a value:
/// `coalesce`, `contains`, `convert`, `current_user`, `default`, `holdlock`, `identity`, `index`, `left`, `nullif`, `openquery`, `option`, `right` and the
/// like.
const GRAMMAR: &str = "all and any as asc between browse by case collate cross current delete desc distinct double else end escape except exists \
    external fetch for from full group having in inner insert intersect into is join key like merge national not null of off offsets on or \
    order outer over percent pivot plan precision primary select set some table tablesample then to top union unpivot update values varying \
    when where with within";

static FOREIGN_WORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| FOREIGN.split_ascii_whitespace().collect());
static GRAMMAR_WORDS: LazyLock<HashSet<&str>> = LazyLock::new(|| GRAMMAR.split_ascii_whitespace().collect());

/// Whether the word belongs to another statement than those that a condition can permit.
pub(super) fn is_foreign(word: &str) -> bool {
    FOREIGN_WORDS.contains(&*word.to_ascii_lowercase())
}

/// Whether the word cannot be a name without quotes.
pub(super) fn is_no_name(word: &str) -> bool {
    GRAMMAR_WORDS.contains(&*word.to_ascii_lowercase()) || is_foreign(word)
}
