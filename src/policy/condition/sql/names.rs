//! Names in SQL: how a database folds them, which tables a condition lists, and which functions are harmless.

use sqlparser::ast::{Ident, ObjectName};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::Database;

/// A table by its folded name, or all of a schema.
#[derive(Debug)]
pub(super) struct TablePattern {
    parts: Vec<String>,
    every: bool,
}

impl TablePattern {
    /// The pattern of a file: a table, or `SCHEMA.*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, database: Database) -> Result<Self, String> {
        let (name, every) = text.strip_suffix(".*").map_or((text, false), |name| (name, true));
        let told = || format!("`{}` is not a table: write `orders`, `sales.orders` or `sales.*`", text.escape_default());
        let parser = Parser::new(database.dialect()).try_with_sql(name);
        let name = parser.and_then(|mut parser| {
            let name = parser.parse_object_name(false)?;
            parser.expect_token(&Token::EOF).map(|_| name)
        });
        let parts = folded(&name.map_err(|_| told())?).ok_or_else(told)?;
        Ok(Self { parts, every })
    }

    pub fn covers(&self, name: &[String]) -> bool {
        match (&self.parts, self.every) {
            (parts, false) => parts == name,
            (parts, true) => name.len() == parts.len() + 1 && name.starts_with(parts),
        }
    }
}

/// Whether a function reads nothing but its arguments and the clock. In small letters.
pub(super) fn is_harmless(function: &str) -> bool {
    HARMLESS.contains(&function)
}

/// Whether PostgreSQL could call a function of this name with a whole row, where it is written as a column of it: those that take a value of
/// every type, and by their names those that reach beyond it. In small letters.
pub(super) fn takes_a_row(name: &str) -> bool {
    const BEGINNINGS: [&str; 4] = ["pg_", "lo_", "dblink", "hash_record"];
    const NAMES: [&str; 16] = [
        "any_value",
        "array_agg",
        "count",
        "json_agg",
        "json_build_array",
        "jsonb_agg",
        "jsonb_build_array",
        "num_nonnulls",
        "num_nulls",
        "quote_literal",
        "quote_nullable",
        "record_out",
        "record_send",
        "row_to_json",
        "to_json",
        "to_jsonb",
    ];
    NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// The parts of a name as a database takes them: in small letters unless they are quoted, where small letters are those of ASCII, as names with
/// others have no answer. `None` for a name that is computed.
pub(super) fn folded(name: &ObjectName) -> Option<Vec<String>> {
    name.0.iter().map(|part| part.as_ident().map(fold)).collect()
}

pub(super) fn fold(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

/// Functions that read nothing but their arguments and the clock.
const HARMLESS: [&str; 69] = [
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
    "current_date",
    "current_time",
    "current_timestamp",
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
    "if",
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
    "localtime",
    "localtimestamp",
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
    "row",
    "row_number",
    "rtrim",
    "string_agg",
    "substr",
    "sum",
    "trim",
    "upper",
    "year",
];
