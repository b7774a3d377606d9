//! People who approve: by which key each is known, which roles each has, and whose calls are their own.
//!
//! INVARIANT: only a person with a key is here; who has none cannot say yes.

use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::{id_of, unhex};
use crate::config::Config;
use crate::seal::sha256;

/// One of `people`, with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approver {
    /// The name.
    pub name: Arc<str>,
    roles: Vec<String>,
    subjects: Vec<String>,
    hash: [u8; 32],
}

impl Approver {
    /// Whether they have the role.
    pub fn has(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own == role)
    }

    /// Whether this names them: as an agent, or as whom a token says that somebody acts for.
    pub fn is_called(&self, name: &str) -> bool {
        *self.name == *name || self.subjects.iter().any(|own| own == name)
    }
}

/// Everybody who can approve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct People(Vec<Approver>);

impl People {
    /// Those of a configuration.
    pub fn of(config: &Config) -> Self {
        let approver = |person: &crate::config::Person| {
            let hash = unhex(person.key_hash.as_deref()?.strip_prefix("sha256:")?)?;
            Some(Approver { name: person.name.as_str().into(), roles: person.roles.clone(), subjects: person.subjects.clone(), hash })
        };
        Self(config.people.iter().filter_map(approver).collect())
    }

    /// Whose key it is.
    pub fn by_key(&self, key: &str) -> Option<&Approver> {
        let (id, secret) = key.strip_prefix("dw_")?.split_once('_')?;
        let hash = sha256(secret.as_bytes());
        self.0.iter().find(|person| id_of(&person.hash) == id && bool::from(person.hash.ct_eq(&hash)))
    }

    /// The person of that name.
    pub fn named(&self, name: &str) -> Option<&Approver> {
        self.0.iter().find(|person| *person.name == *name)
    }

    /// The names of those who have the role.
    pub fn having<'p>(&'p self, role: &'p str) -> impl Iterator<Item = &'p str> {
        self.0.iter().filter(move |person| person.has(role)).map(|person| &*person.name)
    }

    /// The roles that somebody has.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|person| person.roles.iter().map(String::as_str))
    }

    /// What differs from before, in words for the record.
    pub(super) fn changes_since<'p>(&'p self, before: &'p Self) -> impl Iterator<Item = String> + 'p {
        let new = self.0.iter().filter_map(|person| match before.named(&person.name) {
            None => Some(format!("{} may approve", person.name)),
            Some(was) if was != person => Some(format!("{} may approve otherwise than before", person.name)),
            Some(_) => None,
        });
        let out = before.0.iter().filter(|was| self.named(&was.name).is_none()).map(|was| format!("{} may not approve any more", was.name));
        new.chain(out)
    }
}
