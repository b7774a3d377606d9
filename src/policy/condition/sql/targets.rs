//! What a statement writes to. A name of a `WITH` never stands for that: databases look past it to the table.

use sqlparser::ast::{Delete, Expr, FromTable, ObjectName, OutputClause, Statement, TableFactor, TableObject, TableWithJoins};

use super::names::{fold, folded};

/// The tables that the statement itself writes to, folded; `None` where they are not told by names alone.
pub(super) fn targets(statement: &Statement) -> Option<Vec<Vec<String>>> {
    match statement {
        Statement::Insert(insert) => match &insert.table {
            TableObject::TableName(name) => with_output(vec![folded(name)?], insert.output.as_ref()),
            TableObject::TableFunction(_) | TableObject::TableQuery(_) => None,
        },
        Statement::Update(update) => with_output(tables(std::slice::from_ref(&update.table))?, update.output.as_ref()),
        Statement::Delete(delete) => with_output(deleted(delete)?, delete.output.as_ref()),
        Statement::Merge(merge) => match &merge.table {
            TableFactor::Table { name, args: None, .. } => with_output(vec![folded(name)?], merge.output.as_ref()),
            _ => None,
        },
        _ => Some(Vec::new()),
    }
}

/// With the table that an `OUTPUT ... INTO` fills.
fn with_output(mut targets: Vec<Vec<String>>, output: Option<&OutputClause>) -> Option<Vec<Vec<String>>> {
    if let Some(OutputClause::Output { into_table: Some(into), .. }) = output {
        for target in &into.targets {
            targets.push(match target {
                Expr::Identifier(name) => vec![fold(name)],
                Expr::CompoundIdentifier(parts) => parts.iter().map(fold).collect(),
                _ => return None,
            });
        }
    }
    Some(targets)
}

/// Every table of the list: which of several that are joined is written to hangs on the columns.
fn tables(list: &[TableWithJoins]) -> Option<Vec<Vec<String>>> {
    factors(list).into_iter().filter_map(named).map(|(name, _)| folded(name)).collect()
}

/// Deleted are the rows of the tables in front of `FROM` where there are any, by name or by alias, else those of all behind it.
fn deleted(delete: &Delete) -> Option<Vec<Vec<String>>> {
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    if delete.tables.is_empty() {
        return tables(from);
    }
    let mut known = factors(from);
    known.extend(factors(delete.using.as_deref().unwrap_or_default()));
    let meant = |target: &ObjectName| {
        let target = folded(target)?;
        let own = known.iter().copied().filter_map(named).find(|(_, alias)| alias.as_ref().is_some_and(|alias| target == [alias.as_str()]));
        own.map_or(Some(target), |(name, _)| folded(name))
    };
    delete.tables.iter().map(meant).collect()
}

fn factors(list: &[TableWithJoins]) -> Vec<&TableFactor> {
    let (mut found, mut open): (Vec<_>, Vec<_>) = (Vec::new(), list.iter().collect());
    while let Some(table) = open.pop() {
        for factor in std::iter::once(&table.relation).chain(table.joins.iter().map(|join| &join.relation)) {
            match factor {
                TableFactor::NestedJoin { table_with_joins, .. } => open.push(table_with_joins),
                factor => found.push(factor),
            }
        }
    }
    found
}

/// The name and the alias of a table; `None` for what only makes rows to read.
fn named(factor: &TableFactor) -> Option<(&ObjectName, Option<String>)> {
    match factor {
        TableFactor::Table { name, alias, .. } => Some((name, alias.as_ref().map(|alias| fold(&alias.name)))),
        _ => None,
    }
}
