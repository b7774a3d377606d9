//! Who has which role: the graph of `g` rows, refused when it has a cycle or is too deep, and its closures.
//!
//! Casbin accepts cycles and stops without a word at ten levels, which loses grants and denies; here both are faults.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use super::rule::{ANY, Place, Rows};
use crate::config::Fault;

/// The deepest inheritance, in steps from a principal to a role.
pub const MAX_DEPTH: usize = 8;

/// An agent or role, numbered in the order in which the file names them; 0 is `role:any`.
pub type SubjectId = u32;

/// Every subject of the rows, and which roles each has directly.
#[derive(Clone, Debug)]
pub struct Roles {
    ids: HashMap<Box<str>, SubjectId>,
    names: Vec<Box<str>>,
    parents: Vec<Vec<(SubjectId, Place)>>,
}

impl Roles {
    /// The graph of the rows.
    ///
    /// # Errors
    /// A fault at the row that closes a cycle, or that goes deeper than eight steps.
    pub fn build(file: &Path, rows: &Rows) -> Result<Self, Vec<Fault>> {
        let mut roles = Self { ids: HashMap::new(), names: Vec::new(), parents: Vec::new() };
        roles.intern(ANY);
        for rule in &rows.rules {
            roles.intern(&rule.subject);
        }
        for grant in &rows.grants {
            let (member, role) = (roles.intern(&grant.member), roles.intern(&grant.role));
            roles.parents[member as usize].push((role, grant.at));
        }
        let (depth, ordered) = roles.depths();
        if ordered < roles.names.len() {
            return Err(vec![roles.cycle(file, &depth)]);
        }
        let too_deep = roles.parents.iter().zip(&depth).filter(|(_, depth)| depth.is_some_and(|depth| depth > MAX_DEPTH));
        let faults = too_deep.filter_map(|(parents, _)| parents.first()).take(10).map(|(_, at)| {
            let message = format!("roles are inherited over more than {MAX_DEPTH} steps from here");
            Fault::at(file, at.line.into(), at.columns[1].into(), message).help("grant the far role directly")
        });
        let faults: Vec<Fault> = faults.collect();
        if faults.is_empty() { Ok(roles) } else { Err(faults) }
    }

    fn intern(&mut self, name: &str) -> SubjectId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len() as SubjectId;
        self.ids.insert(name.into(), id);
        self.names.push(name.into());
        self.parents.push(Vec::new());
        id
    }

    /// The longest way up from each subject, and how many have one: in a cycle nobody has.
    // Peels subjects whose roles are all done; no recursion, so no file can exhaust the stack.
    fn depths(&self) -> (Vec<Option<usize>>, usize) {
        let mut members: Vec<Vec<SubjectId>> = vec![Vec::new(); self.names.len()];
        for (member, parents) in (0..).zip(&self.parents) {
            parents.iter().for_each(|(role, _)| members[*role as usize].push(member));
        }
        let mut open: Vec<usize> = self.parents.iter().map(Vec::len).collect();
        let mut depth = vec![None; self.names.len()];
        let mut ready: Vec<usize> = (0..open.len()).filter(|id| open[*id] == 0).collect();
        let mut done = 0;
        while let Some(id) = ready.pop() {
            let above = self.parents[id].iter().filter_map(|(role, _)| depth[*role as usize]);
            depth[id] = Some(above.map(|steps: usize| steps + 1).max().unwrap_or(0));
            done += 1;
            for member in &members[id] {
                open[*member as usize] -= 1;
                if open[*member as usize] == 0 {
                    ready.push(*member as usize);
                }
            }
        }
        (depth, done)
    }

    /// The fault that names one cycle. Everything without a depth leads into one, so walking up must come round.
    fn cycle(&self, file: &Path, depth: &[Option<usize>]) -> Fault {
        let mut way: Vec<(usize, Place)> = Vec::new();
        let mut here = depth.iter().position(Option::is_none).unwrap_or(0);
        loop {
            let next = self.parents[here].iter().find(|(role, _)| depth[*role as usize].is_none());
            let Some((role, at)) = next else { return Fault::file(file, "the roles go round in a circle") };
            way.push((here, *at));
            here = *role as usize;
            if let Some(start) = way.iter().position(|(id, _)| *id == here) {
                let names = way[start..].iter().map(|(id, _)| *id).chain([here]).map(|id| &*self.names[id]);
                let round = names.collect::<Vec<_>>().join(" -> ");
                let message = format!("the roles go round in a circle: {round}");
                return Fault::at(file, at.line.into(), at.columns[1].into(), message).help("remove one of these `g` rows");
            }
        }
    }

    /// The number of a subject, if any row names it.
    pub fn id(&self, name: &str) -> Option<SubjectId> {
        self.ids.get(name).copied()
    }

    /// Whether a principal has, or inherits, a role.
    pub fn has(&self, principal: &str, role: &str) -> bool {
        let role = self.id(role);
        role.is_some_and(|role| self.id(principal).is_some_and(|id| self.closure(id).binary_search(&role).is_ok()))
    }

    /// The shortest way from a principal to a subject that it is or inherits, both ends named; empty where there is none.
    pub fn way(&self, principal: &str, subject: &str) -> Vec<Box<str>> {
        if principal == subject || subject == ANY {
            return [principal, subject].into_iter().take(1 + usize::from(principal != subject)).map(Box::from).collect();
        }
        let (Some(from), Some(to)) = (self.id(principal), self.id(subject)) else { return Vec::new() };
        let mut before: HashMap<SubjectId, SubjectId> = HashMap::from([(from, from)]);
        let mut open = VecDeque::from([from]);
        while let Some(here) = open.pop_front() {
            for (role, _) in self.parents.get(here as usize).into_iter().flatten() {
                before.entry(*role).or_insert_with(|| {
                    open.push_back(*role);
                    here
                });
            }
        }
        let mut way = vec![to];
        while let Some(previous) = way.last().and_then(|last| before.get(last)).filter(|previous| **previous != way[way.len() - 1]) {
            way.push(*previous);
        }
        if way.last() != Some(&from) {
            return Vec::new();
        }
        way.iter().rev().map(|id| self.names[*id as usize].clone()).collect()
    }

    /// Every subject with its number, in file order.
    pub fn all(&self) -> impl Iterator<Item = (SubjectId, &str)> {
        (0..).zip(self.names.iter().map(|name| &**name))
    }

    /// The subject itself, all that it inherits, and `role:any`; sorted.
    pub fn closure(&self, id: SubjectId) -> Vec<SubjectId> {
        let mut found = vec![0];
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if id == 0 || !found.contains(&id) {
                found.push(id);
                open.extend(self.parents.get(id as usize).into_iter().flatten().map(|(role, _)| *role));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}
