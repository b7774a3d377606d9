//! What a schema unfolds to when its references are followed: whether it is too much, and in how many ways it comes back to
//! itself.
//!
//! The library collects the faults of every branch at every level, so what telling the place of a fault costs grows with the
//! ways back, to the power of the value's depth.

use std::collections::BTreeSet;

use serde_json::Value as Owned;

use super::{MAX_DEPTH, SchemaFault};

/// Most values that a schema unfolds to when its references are followed.
const MAX_UNFOLDED: usize = 100_000;
/// References that lead back whose ways are counted.
const MAX_RECURSIVE: usize = 8;
/// Evaluations of one value against one part of a schema that the place of a fault may cost.
const MAX_EVALUATIONS: u64 = 16_384;

/// The ways in which a schema leads back into itself: none where it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways(u64);

impl Ways {
    /// Whether the faults of so many values, nested so deep, may be collected.
    pub(super) fn are_few(self, values: usize, depth: usize) -> bool {
        let each = self.0.saturating_pow(u32::try_from(depth).unwrap_or(u32::MAX));
        self.0 <= 1 || each.saturating_mul(values as u64) <= MAX_EVALUATIONS
    }
}

/// Follows references, each but once on a way down, and refuses what unfolds to too much: a chain of definitions that each name
/// the next one twice doubles the work with every link.
pub(super) fn ways(schema: &Owned) -> Result<Ways, SchemaFault> {
    let mut whole = Unfolding::new(schema);
    whole.unfold(schema)?;
    let recursive = whole.recursive;
    if whole.is_unclear || recursive.len() > MAX_RECURSIVE {
        return Ok(Ways(u64::MAX));
    }
    let back = recursive.into_iter().map(|reference| {
        let mut below = Unfolding::new(schema);
        below.way.push(reference);
        match below.target(reference).map(|target| below.unfold(target)) {
            Some(Ok(())) => below.hits,
            _ => u64::MAX,
        }
    });
    Ok(Ways(back.max().unwrap_or(0)))
}

struct Unfolding<'s> {
    root: &'s Owned,
    /// The references that led here.
    way: Vec<&'s str>,
    values: usize,
    /// How often a reference led back to one on the way.
    hits: u64,
    recursive: BTreeSet<&'s str>,
    /// Whether a reference may lead anywhere.
    is_unclear: bool,
}

impl<'s> Unfolding<'s> {
    fn new(root: &'s Owned) -> Self {
        Self { root, way: Vec::new(), values: 0, hits: 0, recursive: BTreeSet::new(), is_unclear: false }
    }

    fn unfold(&mut self, at: &'s Owned) -> Result<(), SchemaFault> {
        self.values += 1;
        if self.values > MAX_UNFOLDED {
            return Err(SchemaFault(format!("the schema unfolds to more than {MAX_UNFOLDED} values")));
        }
        match at {
            Owned::Array(items) => items.iter().try_for_each(|item| self.unfold(item)),
            Owned::Object(members) => {
                // An inner identifier is another base for the references below it.
                self.is_unclear |= members.contains_key("$id") && !std::ptr::eq(at, self.root);
                members.iter().try_for_each(|(name, value)| match value.as_str() {
                    Some(reference) if matches!(name.as_str(), "$ref" | "$dynamicRef" | "$recursiveRef") => self.follow(reference),
                    _ => self.unfold(value),
                })
            }
            _ => Ok(()),
        }
    }

    fn follow(&mut self, reference: &'s str) -> Result<(), SchemaFault> {
        let Some(target) = self.target(reference) else {
            self.is_unclear = true;
            return Ok(());
        };
        if self.way.contains(&reference) {
            self.hits += 1;
            self.recursive.insert(reference);
            return Ok(());
        }
        if self.way.len() >= MAX_DEPTH {
            return Err(SchemaFault(format!("references of the schema nest deeper than {MAX_DEPTH}")));
        }
        self.way.push(reference);
        self.unfold(target)?;
        self.way.pop();
        Ok(())
    }

    /// Where a reference leads: a pointer, or an anchor that there is once.
    fn target(&self, reference: &str) -> Option<&'s Owned> {
        let fragment = reference.strip_prefix('#')?;
        if fragment.is_empty() || fragment.starts_with('/') {
            return self.root.pointer(fragment);
        }
        let mut found = Vec::new();
        anchored(self.root, fragment, &mut found);
        if let [target] = found.as_slice() { Some(target) } else { None }
    }
}

fn anchored<'s>(at: &'s Owned, anchor: &str, found: &mut Vec<&'s Owned>) {
    match at {
        Owned::Array(items) => items.iter().for_each(|item| anchored(item, anchor, found)),
        Owned::Object(members) => {
            if ["$anchor", "$dynamicAnchor"].iter().any(|name| members.get(*name).and_then(Owned::as_str) == Some(anchor)) {
                found.push(at);
            }
            members.values().for_each(|value| anchored(value, anchor, found));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(schema: &str) -> u64 {
        ways(&serde_json::from_str(schema).unwrap()).unwrap().0
    }

    #[test]
    fn the_ways_back_are_counted() {
        assert_eq!(count(r##"{"properties":{"a":{"$ref":"#/$defs/a"}},"$defs":{"a":{}}}"##), 0);
        assert_eq!(count(r##"{"properties":{"next":{"$ref":"#"}}}"##), 1);
        assert_eq!(count(r##"{"$ref":"#/$defs/t","$defs":{"t":{"items":{"$ref":"#/$defs/t"}}}}"##), 1);
        assert_eq!(count(r##"{"$dynamicAnchor":"n","items":{"$dynamicRef":"#n"}}"##), 1);
        assert_eq!(count(r##"{"anyOf":[{"items":{"$ref":"#"}},{"items":{"$ref":"#"}}]}"##), 2);
        let two = r##"{"$ref":"#/$defs/a","$defs":{
            "a":{"allOf":[{"$ref":"#/$defs/b"},{"$ref":"#/$defs/b"}]},"b":{"anyOf":[{"items":{"$ref":"#/$defs/a"}},{"not":{"items":{"$ref":"#/$defs/a"}}}]}}}"##;
        assert_eq!(count(two), 4);
        assert_eq!(count(r##"{"$defs":{"a":{"$id":"x:y"}},"items":{"$ref":"#"}}"##), u64::MAX);
        assert_eq!(count(r##"{"items":{"$ref":"#nowhere"}}"##), u64::MAX);
    }

    #[test]
    fn few_ways_are_few_at_every_depth_and_many_only_near_the_top() {
        assert!(Ways(0).are_few(2_000, 64) && Ways(1).are_few(2_000, 64));
        assert!(Ways(2).are_few(16, 10) && !Ways(2).are_few(17, 10) && !Ways(2).are_few(16, 11));
        assert!(!Ways(u64::MAX).are_few(1, 1));
    }
}
