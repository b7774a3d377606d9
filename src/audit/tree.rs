//! The tree over a log's leaves, as RFC 6962 (section 2.1; RFC 9162 has the same tree) defines it: a signed root vouches for all records before it,
//! and some 25 hashes prove that one record is among ten million, or that one root's log is the beginning of another's.
//!
//! ```text
//! node = SHA-256(0x01 ‖ left ‖ right)      root of no leaf = SHA-256(of nothing)      root of one leaf = the leaf
//! ```
//! A root over more leaves has on its left the largest power of two of them. The *peaks* are the roots of the perfect subtrees that the leaves fall
//! into, largest first: one for each bit set in their number. They are all that is needed to go on, and fold from the right to the root.
//!
//! Owns: nodes, roots, proofs. Leaves to others: what a leaf hashes (`chain`), who signs a root (`checkpoint`).

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

use crate::seal::hex;

/// A SHA-256: a leaf, a node or a root.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash in these bytes; `None` unless they are 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    fn node(left: &Self, right: &Self) -> Self {
        let mut both = [0x01; 65];
        both[1..33].copy_from_slice(&left.0);
        both[33..].copy_from_slice(&right.0);
        Self::of(&both)
    }

    fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        // SHA-256 gives 32 bytes, always.
        out.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Self(out)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex(&self.0))
    }
}

/// A tree that only grows, kept as its peaks: at most 64 hashes, whatever its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    peaks: Vec<Hash>,
}

impl Tree {
    /// A tree without leaves.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree of `size` leaves that has these peaks, largest subtree first; `None` unless their number fits.
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// How many leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the perfect subtrees, largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Adds a leaf: one hash on average.
    pub fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        // Each trailing one of the size is a subtree as large as the one that has just become complete.
        for _ in 0..self.size.trailing_ones() {
            let Some(left) = self.peaks.pop() else { break };
            node = Hash::node(&left, &node);
        }
        self.peaks.push(node);
        self.size += 1;
    }

    /// The root over all leaves.
    pub fn root(&self) -> Hash {
        fold(&self.peaks).unwrap_or_else(|| Hash::of(&[]))
    }
}

fn fold(peaks: &[Hash]) -> Option<Hash> {
    peaks.iter().rev().copied().reduce(|right, left| Hash::node(&left, &right))
}

/// Some leaves of a tree and what stands left of them: all that a proof about them, or about where they begin, needs.
#[derive(Clone, Debug)]
pub struct Span {
    before: Tree,
    leaves: Vec<Hash>,
}

impl Span {
    /// The leaves that follow those of `before`.
    pub fn new(before: Tree) -> Self {
        Self { before, leaves: Vec::new() }
    }

    /// Adds the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.leaves.push(leaf);
    }

    /// How many leaves the whole tree has.
    pub fn size(&self) -> u64 {
        self.before.size + self.leaves.len() as u64
    }

    /// The tree of the first `size` leaves; `None` where that ends before this span or beyond it.
    pub fn tree(&self, size: u64) -> Option<Tree> {
        let count = usize::try_from(size.checked_sub(self.before.size)?).ok()?;
        let mut tree = self.before.clone();
        self.leaves.get(..count)?.iter().for_each(|leaf| tree.push(*leaf));
        Some(tree)
    }

    /// The hashes that lead from the leaf at `index` to the root of the first `size` leaves (RFC 6962, 2.1.1); `None` for a leaf or size not
    /// in the span.
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Hash>> {
        self.path(index, size, &mut Known::new())
    }

    /// [`Span::inclusion`] for many leaves of one tree: each node is made once.
    pub fn inclusions(&self, indices: impl IntoIterator<Item = u64>, size: u64) -> Vec<Option<Vec<Hash>>> {
        let mut known = Known::new();
        indices.into_iter().map(|index| self.path(index, size, &mut known)).collect()
    }

    fn path(&self, index: u64, size: u64, known: &mut Known) -> Option<Vec<Hash>> {
        let is_here = self.before.size <= index && index < size && size <= self.size();
        let (mut from, mut to) = Some((0, size)).filter(|_| is_here)?;
        let mut path = Vec::new();
        while to - from > 1 {
            let middle = from + split(to - from);
            if index < middle {
                path.push(self.range(middle, to, known)?);
                to = middle;
            } else {
                path.push(self.range(from, middle, known)?);
                from = middle;
            }
        }
        path.reverse();
        Some(path)
    }

    /// The hashes which show that the tree of the first `old` leaves is the beginning of the one of the first `new` (RFC 6962, 2.1.2); `None`
    /// for sizes not in the span.
    pub fn consistency(&self, old: u64, new: u64) -> Option<Vec<Hash>> {
        let is_here = old > 0 && self.before.size <= old && old <= new && new <= self.size();
        let (mut from, mut to) = Some((0, new)).filter(|_| is_here)?;
        let (mut path, mut known) = (Vec::new(), Known::new());
        while to != old {
            let middle = from + split(to - from);
            if old <= middle {
                path.push(self.range(middle, to, &mut known)?);
                to = middle;
            } else {
                path.push(self.range(from, middle, &mut known)?);
                from = middle;
            }
        }
        if from > 0 {
            path.push(self.range(from, to, &mut known)?);
        }
        path.reverse();
        Some(path)
    }

    /// The root over the leaves from `from` up to `to`, which must be a range that a proof may name.
    fn range(&self, from: u64, to: u64, known: &mut Known) -> Option<Hash> {
        // A few leaves are hashed faster than they are looked up.
        if from >= self.before.size && to - from <= FEW {
            let mut tree = Tree::new();
            let at = |place: u64| usize::try_from(place - self.before.size).ok();
            self.leaves.get(at(from)?..at(to)?)?.iter().for_each(|leaf| tree.push(*leaf));
            return Some(tree.root());
        }
        if let Some(node) = known.get(&(from, to)).copied().or_else(|| self.peak(from, to)) {
            return Some(node);
        }
        if to - from < 2 {
            return None;
        }
        let middle = from + split(to - from);
        let node = Hash::node(&self.range(from, middle, known)?, &self.range(middle, to, known)?);
        known.insert((from, to), node);
        Some(node)
    }

    /// The peak of what stands before that covers exactly this range.
    fn peak(&self, from: u64, to: u64) -> Option<Hash> {
        let mut at = 0;
        for (peak, power) in self.before.peaks.iter().zip(powers(self.before.size)) {
            if (at, at + power) == (from, to) {
                return Some(*peak);
            }
            at += power;
        }
        None
    }
}

/// Nodes that were made, by their leaves.
type Known = HashMap<(u64, u64), Hash>;
/// Leaves under a node that is not kept.
const FEW: u64 = 64;

/// How many leaves the left subtree has: the largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (count - 1).checked_ilog2().unwrap_or(0)
}

/// The powers of two that make up `size`, largest first.
fn powers(size: u64) -> impl Iterator<Item = u64> {
    (0..64).rev().map(|bit| 1 << bit).filter(move |power| size & power != 0)
}

/// Whether `path` leads from `leaf` at `index` to the root of a tree of `size` leaves (RFC 9162, 2.1.3.2).
pub fn is_included(leaf: Hash, index: u64, size: u64, path: &[Hash], root: Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut at, mut last) = (leaf, index, size - 1);
    for hash in path {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            node = Hash::node(hash, &node);
            while at % 2 == 0 && at != 0 {
                at /= 2;
                last /= 2;
            }
        } else {
            node = Hash::node(&node, hash);
        }
        at /= 2;
        last /= 2;
    }
    last == 0 && node == root
}

/// Whether `path` shows that the tree of `old` leaves with `old_root` is the beginning of the one of `new` leaves with `new_root` (RFC 9162,
/// 2.1.4.2). Nothing is shown of an empty tree.
pub fn is_consistent(old: u64, old_root: Hash, new: u64, new_root: Hash, path: &[Hash]) -> bool {
    if old == 0 || old >= new {
        return old == new && old > 0 && old_root == new_root && path.is_empty();
    }
    let mut hashes = path.iter().copied();
    let (mut at, mut last) = (old - 1, new - 1);
    while at % 2 == 1 {
        at /= 2;
        last /= 2;
    }
    // The old root is itself a node of the new tree where it stands over a power of two.
    let Some(start) = (if old.is_power_of_two() { Some(old_root) } else { hashes.next() }) else { return false };
    let (mut of_old, mut of_new) = (start, start);
    for hash in hashes {
        if last == 0 {
            return false;
        }
        if at % 2 == 1 || at == last {
            (of_old, of_new) = (Hash::node(&hash, &of_old), Hash::node(&hash, &of_new));
            while at % 2 == 0 && at != 0 {
                at /= 2;
                last /= 2;
            }
        } else {
            of_new = Hash::node(&of_new, &hash);
        }
        at /= 2;
        last /= 2;
    }
    last == 0 && of_old == old_root && of_new == new_root
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The leaves that the known answers are about.
    const KNOWN: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];

    /// The roots over the first leaves, as Certificate Transparency's implementations publish them.
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn leaf(data: &[u8]) -> Hash {
        Hash::of(&[&[0x00], data].concat())
    }

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|number| leaf(&number.to_be_bytes())).collect()
    }

    fn tree(leaves: &[Hash]) -> Tree {
        let mut tree = Tree::new();
        leaves.iter().for_each(|leaf| tree.push(*leaf));
        tree
    }

    /// The definition, word for word.
    fn defined_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Hash::of(&[]),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(many.len().next_power_of_two() / 2);
                Hash::node(&defined_root(left), &defined_root(right))
            }
        }
    }

    /// The same leaves, of which the first `before` are only known by their peaks.
    fn span(leaves: &[Hash], before: usize) -> Span {
        let mut span = Span::new(tree(&leaves[..before]));
        leaves[before..].iter().for_each(|leaf| span.push(*leaf));
        span
    }

    #[test]
    fn the_published_roots_are_reached() {
        assert_eq!(format!("{:?}", Tree::new().root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let mut tree = Tree::new();
        for (data, root) in KNOWN.iter().zip(ROOTS) {
            tree.push(leaf(data));
            assert_eq!(format!("{:?}", tree.root()), root, "size {}", tree.size());
        }
    }

    #[test]
    fn the_published_paths_are_made() {
        let leaves: Vec<_> = KNOWN.iter().map(|data| leaf(data)).collect();
        let short = |path: Option<Vec<Hash>>| path.unwrap().iter().map(|hash| format!("{hash:?}")[..8].to_owned()).collect::<Vec<_>>();
        let span = span(&leaves, 0);
        assert_eq!(short(span.inclusion(0, 8)), ["96a296d2", "5f083f0a", "6b47aaf2"]);
        assert_eq!(short(span.inclusion(5, 8)), ["bc1a0643", "ca854ea1", "d37ee418"]);
        assert_eq!(short(span.inclusion(2, 3)), ["fac54203"]);
        assert_eq!(short(span.consistency(6, 8)), ["0ebc5d34", "ca854ea1", "d37ee418"]);
        assert_eq!(short(span.consistency(2, 5)), ["5f083f0a", "bc1a0643"]);
    }

    #[test]
    fn the_root_is_the_defined_one_at_every_size_and_peaks_are_all_it_takes_to_go_on() {
        let all = leaves(200);
        for size in 0..all.len() {
            let grown = tree(&all[..size]);
            assert_eq!(grown.root(), defined_root(&all[..size]), "size {size}");
            let mut again = Tree::from_peaks(size as u64, grown.peaks().to_vec()).unwrap();
            all[size..].iter().for_each(|leaf| again.push(*leaf));
            assert_eq!(again, tree(&all));
        }
        assert_eq!(Tree::from_peaks(3, leaves(3)), None);
    }

    #[test]
    fn many_leaves_are_proved_at_once_as_each_by_itself() {
        let all = leaves(1_000);
        for (before, size) in [(0, 1_000), (0, 513), (300, 1_000), (999, 1_000)] {
            let span = span(&all[..size as usize], before as usize);
            let root = tree(&all[..size as usize]).root();
            for (index, path) in (before..size).zip(span.inclusions(before..size, size)) {
                assert_eq!(path, span.inclusion(index, size));
                assert!(is_included(all[index as usize], index, size, &path.unwrap(), root), "{index} of {size} from {before}");
            }
            assert_eq!(span.inclusions([size], size), [None]);
        }
    }

    #[test]
    fn every_leaf_of_every_tree_is_proved_from_every_place_to_begin_at() {
        let all = leaves(70);
        for size in 1..=70_u64 {
            for before in [0, size / 2, size * 2 / 3, size - 1] {
                let span = span(&all[..size as usize], before as usize);
                let root = span.tree(size).unwrap().root();
                for index in before..size {
                    let path = span.inclusion(index, size).unwrap();
                    assert!(is_included(all[index as usize], index, size, &path, root), "{index} of {size} from {before}");
                    assert!(path.len() <= 7);
                }
                assert_eq!(span.inclusion(size, size), None);
            }
        }
    }

    #[test]
    fn every_tree_is_the_beginning_of_every_larger_one_from_every_place_to_begin_at() {
        let all = leaves(70);
        for (old, new) in (1..=70_u64).flat_map(|new| (1..=new).map(move |old| (old, new))) {
            for before in [0, old / 2, old] {
                let span = span(&all[..new as usize], before as usize);
                let (old_root, new_root) = (tree(&all[..old as usize]).root(), tree(&all[..new as usize]).root());
                let path = span.consistency(old, new).unwrap();
                assert!(is_consistent(old, old_root, new, new_root, &path), "{old} of {new} from {before}");
                assert!(old == new || !is_consistent(old, new_root, new, old_root, &path), "{old} of {new}, roots swapped");
            }
        }
    }

    proptest! {
        #[test]
        fn a_proof_with_anything_changed_does_not_hold(size in 1..70_u64, index in any::<prop::sample::Index>(), what in 0..6, byte in 0..32_usize) {
            let all = leaves(size);
            let index = index.index(size as usize) as u64;
            let span = span(&all, 0);
            let (mut path, mut root) = (span.inclusion(index, size).unwrap(), span.tree(size).unwrap().root());
            let (mut leaf, mut at) = (all[index as usize], index);
            let step = byte % path.len().max(1);
            match what {
                0 => leaf.0[byte] ^= 1,
                1 => root.0[byte] ^= 1,
                2 if !path.is_empty() => path[step].0[byte] ^= 1,
                3 => path.push(leaf),
                4 if !path.is_empty() => drop(path.pop()),
                _ => at = (index + 1) % size.max(2),
            }
            prop_assert!(!is_included(leaf, at, size, &path, root));
        }

        #[test]
        fn a_path_of_anything_never_panics_and_never_holds(
            old in any::<u64>(), new in any::<u64>(), index in any::<u64>(), path in prop::collection::vec(any::<[u8; 32]>(), 0..70),
        ) {
            let path: Vec<_> = path.into_iter().map(Hash).collect();
            let (leaf, root) = (Hash([1; 32]), Hash([2; 32]));
            prop_assert!(!is_included(leaf, index, new, &path, root));
            prop_assert!(!is_consistent(old, leaf, new, root, &path));
        }
    }
}
