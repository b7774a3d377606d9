//! A candidate of a single row: the files of the policy as they are, with one row more or one row otherwise.
//!
//! Owns: where in `policy.csv` the row goes. Leaves to others: whether it is a row (the loader), deciding beside (`shadow`).
//!
//! INVARIANT: nothing of the files is touched but the one line; comments and order stay.

use super::loaded;
use super::scratch::Scratch;
use crate::cli::Failure;
use crate::config::Config;
use crate::gateway::Loaded;
use crate::gateway::bundles::Files;

/// The file that rows stand in.
const FILE: &str = "policy.csv";

/// The files with the row, and what they were without it.
pub struct Edit {
    /// All of them, without signatures.
    pub files: Files,
    /// The row that gives way; none where the new one stands at the end.
    pub was: Option<String>,
}

/// One row, as it is to stand in the file.
///
/// # Errors
/// It is no row at all, in words. What is wrong in a row is told by the loader.
pub fn parse(text: &str) -> Result<String, String> {
    let row = text.trim();
    let is_one_line = !row.contains(['\n', '\r']);
    let kind = kind_and_id(row).0;
    if is_one_line && matches!(kind, "p" | "o" | "g") {
        return Ok(row.to_owned());
    }
    Err("write one row as it stands in policy.csv, such as `p, R9, role:writer, demo__delete_note, irreversible, -, allow`".to_owned())
}

impl Edit {
    /// The files with this row: in the place of the one that has its id, or else at the end.
    ///
    /// # Errors
    /// There is no `policy.csv`, or the row stands there already.
    pub fn of(files: Files, row: &str) -> Result<Self, Failure> {
        let text = files.text(FILE).ok_or_else(|| Failure::Other("there is no policy.csv that the row could be added to".to_owned()))?;
        let key = kind_and_id(row);
        // A grant has no id, so it takes nobody's place.
        let is_named = |line: &str| matches!(kind_and_id(line), ("p" | "o", id) if key.0 != "g" && id == key.1);
        let mut was = None;
        let mut out = String::with_capacity(text.len() + row.len() + 1);
        for line in text.split_inclusive('\n') {
            let content = line.trim_end_matches(['\n', '\r']);
            if was.is_none() && is_named(content) {
                was = Some(content.to_owned());
                out.push_str(row);
                out.push_str(&line[content.len()..]);
            } else {
                out.push_str(line);
            }
        }
        if was.is_none() {
            out.push_str(row);
            out.push('\n');
        }
        if was.as_deref() == Some(row) {
            return Err(Failure::Usage("this very row is in the policy already".to_owned()));
        }
        Ok(Self { files: files.with(FILE, out), was })
    }

    /// The policy that they are, as the gateway would load it.
    ///
    /// # Errors
    /// What is wrong in the row, or in the files beside it.
    pub fn load(&self, config: &Config) -> Result<Loaded, Failure> {
        let scratch = Scratch::make(config.state.as_ref()).map_err(Failure::other)?;
        self.files.write(scratch.path()).map_err(Failure::other)?;
        loaded(config, scratch.path()).map_err(|failure| match failure {
            // The folder is gone by the time that somebody reads of it.
            Failure::Faults(mut faults) => {
                for fault in &mut faults {
                    if let Ok(name) = fault.file.strip_prefix(scratch.path()) {
                        fault.file = format!("{} with the row", config.policies.as_ref().join(name).display()).into();
                    }
                }
                Failure::Faults(faults)
            }
            other => other,
        })
    }

    /// What the edit does to the file, in lines as a patch has them.
    pub fn told(&self, row: &str) -> String {
        match &self.was {
            Some(was) => format!("- {was}\n+ {row}\n"),
            None => format!("+ {row}\n"),
        }
    }
}

/// The first two fields of a line.
fn kind_and_id(line: &str) -> (&str, &str) {
    let mut fields = line.split(',').map(|field| field.trim_matches(' '));
    (fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# who reads\np, R1, role:r, up__a, read, -, allow\r\n\no,O1,role:r,up__*,any,-,dry_run\ng, agent:a, role:r\n";

    fn edited(row: &str) -> (String, Option<String>) {
        let edit = Edit::of(Files::default().with(FILE, TEXT.to_owned()), row).unwrap();
        (edit.files.text(FILE).unwrap().to_owned(), edit.was)
    }

    #[test]
    fn a_new_row_stands_at_the_end_and_one_with_a_known_id_in_the_place_of_that() {
        let new = "p, R9, role:r, up__b, read, -, allow";
        assert_eq!(edited(new), (format!("{TEXT}{new}\n"), None));
        let other = "p, R1, role:r, up__a, read, small, allow";
        let was = "p, R1, role:r, up__a, read, -, allow";
        assert_eq!(edited(other), (TEXT.replace(was, other), Some(was.to_owned())));
        let stricter = "p, O1, role:r, up__*, any, -, deny";
        assert_eq!(edited(stricter).1.as_deref(), Some("o,O1,role:r,up__*,any,-,dry_run"));
        let grant = "g, agent:a, role:s";
        assert_eq!(edited(grant), (format!("{TEXT}{grant}\n"), None));
    }

    #[test]
    fn what_is_no_row_is_refused() {
        for wrong in ["", "# p, R1", "R9, role:r, up__b, read, -, allow", "p, R9, role:r, up__b, read, -, allow\np, R8"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse(" g, agent:a, role:s\n").unwrap(), "g, agent:a, role:s");
    }
}
