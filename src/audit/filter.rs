//! Which records are asked for.
//!
//! Owns: what it takes for a line to fit. Leaves to others: where to look (`find`, `index`).

use super::row::{Field, Row};

/// Which records are asked for: those that fit every wish.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Not before, in nanoseconds since 1970.
    pub since: Option<i64>,
    /// Before, in nanoseconds since 1970.
    pub until: Option<i64>,
    /// What the fields must hold.
    pub wishes: Vec<Wish>,
    /// At most so many.
    pub limit: Option<usize>,
    /// Whether the newest come first, and the limit keeps these.
    pub newest_first: bool,
}

/// One field must hold one of some values.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The field.
    pub field: Field,
    /// The values. A target's may be its beginning and `*`.
    pub any_of: Vec<String>,
}

impl Wish {
    /// Whether the field may hold this.
    pub fn admits(&self, value: &str) -> bool {
        self.any_of.iter().any(|wanted| match wanted.strip_suffix('*').filter(|_| self.field == Field::Target) {
            Some(start) => value.starts_with(start),
            None => value == wanted,
        })
    }
}

impl Filter {
    /// And the field holds this, if anything is said.
    #[must_use]
    pub fn and(mut self, field: Field, value: Option<impl Into<String>>) -> Self {
        self.wishes.extend(value.map(|value| Wish { field, any_of: vec![value.into()] }));
        self
    }

    /// And the field holds one of these.
    #[must_use]
    pub fn and_any(mut self, field: Field, any_of: Vec<String>) -> Self {
        self.wishes.push(Wish { field, any_of });
        self
    }

    /// Whether a time is asked for.
    pub fn is_timely(&self, unix_nanos: i64) -> bool {
        self.since.is_none_or(|since| unix_nanos >= since) && self.until.is_none_or(|until| unix_nanos < until)
    }

    /// Whether some of these times may be asked for.
    pub fn overlaps(&self, first: i64, last: i64) -> bool {
        self.until.is_none_or(|until| first < until) && self.since.is_none_or(|since| last >= since)
    }

    /// Whether a record fits.
    pub fn admits(&self, row: &Row<'_>) -> bool {
        let holds = |wish: &Wish| {
            let mut found = false;
            row.each(wish.field, &mut |value| found = found || wish.admits(value));
            found
        };
        self.wishes.iter().all(holds) && (self.since.is_none() && self.until.is_none() || self.is_timely(row.unix_nanos()))
    }

    /// What a line must contain to be worth parsing: most of a large log is passed over at the speed of a text search.
    pub(super) fn needles(&self) -> Vec<String> {
        let needle = |wish: &Wish| {
            let [value] = wish.any_of.as_slice() else { return None };
            // A value that would be escaped is left to the comparison of parsed records.
            if value.contains(['"', '\\']) || value.contains(char::is_control) {
                return None;
            }
            match (wish.field, wish.field.keys()) {
                (Field::Value, _) => Some(value.clone()),
                (Field::Target, _) => Some(format!("\"{}", value.strip_suffix('*').unwrap_or(value))),
                // Behind the id of an `o` row stands what it asks for.
                (Field::Rule, _) => Some(format!("\"{value}")),
                (Field::Label | Field::Met, _) => Some(format!("\"{value}\"")),
                (_, [key]) => Some(format!("\"{key}\":\"{value}\"")),
                _ => None,
            }
        };
        self.wishes.iter().filter_map(needle).collect()
    }
}
