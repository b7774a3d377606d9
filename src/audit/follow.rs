//! New records as they come.
//!
//! Owns: where a reader stands in each log. Leaves to others: what it does with the records.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::find::{Answer, in_time_order, origins};
use super::lines;
use super::record::Stored;
use super::storage::{Storage, segments};

/// New records as they come, across rotation and new origins.
pub struct Follow {
    dir: PathBuf,
    /// By origin: the segment that is being read, and how far.
    places: BTreeMap<String, (String, u64)>,
}

impl Follow {
    /// From the present end of all logs in `dir`.
    ///
    /// # Errors
    /// A folder or file cannot be read.
    pub fn from_end(dir: &Path) -> io::Result<Self> {
        let mut places = BTreeMap::new();
        for origin in origins(dir)? {
            let disk = Disk::existing(dir, &origin);
            if let Some((_, name)) = segments(&disk)?.pop() {
                let size = disk.size(&name)?;
                places.insert(origin, (name, size));
            }
        }
        Ok(Self { dir: dir.to_owned(), places })
    }

    /// What has come since the last time.
    ///
    /// # Errors
    /// A folder or file cannot be read.
    pub fn more(&mut self) -> io::Result<Answer> {
        let mut answer = Answer::default();
        for origin in origins(&self.dir)? {
            let disk = Disk::existing(&self.dir, &origin);
            // Listed before reading: a segment that has a successor by then is complete.
            let names: Vec<String> = segments(&disk)?.into_iter().map(|(_, name)| name).collect();
            let Some(first) = names.first() else { continue };
            let place = self.places.entry(origin).or_insert_with(|| (first.clone(), 0));
            loop {
                place.1 += lines::each(&disk, &place.0, place.1, |line| match Stored::parse(line) {
                    Some(stored) => answer.records.push(stored),
                    None => answer.unreadable += 1,
                })?;
                match names.iter().find(|name| **name > place.0) {
                    Some(next) => *place = (next.clone(), 0),
                    None => break,
                }
            }
        }
        in_time_order(&mut answer.records);
        Ok(answer)
    }
}
