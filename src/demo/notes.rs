//! Notes: named pieces of text, each a file `NAME.md` in one folder, and an outbox that shared copies leave through.
//!
//! Owns: what a name is, how much fits, and what the tools do to the folder. All of it blocks, and runs on blocking threads.
//!
//! INVARIANT: a [`NoteName`] has no separator and no leading dot, so as a file name it can only mean a file of the folder itself.

use super::Options;
use super::folder::{Content, Entry, Folder};
use crate::clock;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// Most bytes of one note.
pub(super) const MAX_NOTE_BYTES: usize = 256 * 1024;
/// Most notes in the folder, and most copies in the outbox.
pub(super) const MAX_NOTES: usize = 1_000;

const SUFFIX: &str = ".md";
const MAX_NAME_CHARS: usize = 64;
// A line of a search result is a pointer into a note, not a way to read it.
const MAX_MATCH_CHARS: usize = 200;

const FIRST_NOTES: [(&str, &str); 3] = [
    ("welcome", "Welcome! These notes are plain files in a folder.\nEvery tool call that reads or changes them passes Doorward first.\n"),
    ("groceries", "- bread\n- apples\n- coffee\n"),
    ("ideas", "- walk to work along the river\n- ask Sam about the garden\n- learn to bake bread\n"),
];

/// The name of a note: 1 to 64 letters, digits, spaces and `_.-`, a letter or digit first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct NoteName(String);

/// Who gets a shared note: 1 to 64 letters, digits and `@_.+-`, a letter or digit first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Recipient(String);

/// Why a tool could not do what was asked; `Display` is what the agent reads.
#[derive(Debug)]
pub(super) enum Fault {
    NoSuchNote(NoteName),
    NotText(NoteName),
    NoteTooLarge(NoteName),
    TooManyNotes,
    OutboxFull,
    Storage(io::Error),
}

/// One row of `list_notes`.
#[derive(Serialize)]
pub(super) struct Listed {
    name: String,
    bytes: u64,
    modified: String,
}

/// One row of `search_notes`.
#[derive(Serialize)]
pub(super) struct Match {
    name: String,
    line: usize,
    text: String,
}

/// The two folders.
pub(super) struct Notes {
    folder: Folder,
    outbox: Folder,
}

impl Notes {
    /// Opens both folders, and writes the first notes where there is nothing yet.
    pub(super) fn open(options: &Options) -> io::Result<Self> {
        let notes = Self { folder: Folder::open(&options.folder)?, outbox: Folder::open(&options.outbox)? };
        let locked = notes.folder.lock()?;
        if notes.folder.entries()?.is_empty() {
            for (name, text) in FIRST_NOTES {
                locked.replace(&format!("{name}{SUFFIX}"), text.as_bytes())?;
            }
        }
        drop(locked);
        Ok(notes)
    }

    /// All notes, by name.
    pub(super) fn list(&self) -> Result<Vec<Listed>, Fault> {
        let row =
            |(name, entry): (NoteName, Entry)| Listed { name: name.0, bytes: entry.bytes, modified: clock::rfc3339(entry.modified_nanos) };
        Ok(self.entries()?.into_iter().map(row).collect())
    }

    /// The text of one note.
    pub(super) fn read(&self, name: &NoteName) -> Result<String, Fault> {
        match self.folder.read(&name.file(), MAX_NOTE_BYTES)? {
            Content::Missing | Content::NotAFile => Err(Fault::NoSuchNote(name.clone())),
            Content::TooLarge => Err(Fault::NoteTooLarge(name.clone())),
            Content::Bytes(bytes) => String::from_utf8(bytes).map_err(|_| Fault::NotText(name.clone())),
        }
    }

    /// The first `limit` lines that contain `query`, and whether there are more.
    pub(super) fn search(&self, query: &str, limit: usize) -> Result<(Vec<Match>, bool), Fault> {
        let wanted = query.to_lowercase();
        let mut matches = Vec::new();
        for (name, text) in self.texts()? {
            for (index, line) in text.lines().enumerate().filter(|(_, line)| line.to_lowercase().contains(&wanted)) {
                if matches.len() == limit {
                    return Ok((matches, true));
                }
                matches.push(Match { name: name.0.clone(), line: index + 1, text: line.chars().take(MAX_MATCH_CHARS).collect() });
            }
        }
        Ok((matches, false))
    }

    /// Creates or replaces a note; true when it is new.
    pub(super) fn write(&self, name: &NoteName, text: &str) -> Result<bool, Fault> {
        if text.len() > MAX_NOTE_BYTES {
            return Err(Fault::NoteTooLarge(name.clone()));
        }
        let locked = self.folder.lock()?;
        let entries = self.entries()?;
        let is_new = !entries.iter().any(|(other, _)| other == name);
        if is_new && entries.len() >= MAX_NOTES {
            return Err(Fault::TooManyNotes);
        }
        locked.replace(&name.file(), text.as_bytes())?;
        Ok(is_new)
    }

    /// Adds `text` as lines of their own at the end of a note that is there; answers the note's new size in bytes.
    pub(super) fn append(&self, name: &NoteName, text: &str) -> Result<usize, Fault> {
        let locked = self.folder.lock()?;
        let mut whole = self.read(name)?;
        if !whole.is_empty() && !whole.ends_with('\n') {
            whole.push('\n');
        }
        whole.push_str(text);
        if whole.len() > MAX_NOTE_BYTES {
            return Err(Fault::NoteTooLarge(name.clone()));
        }
        locked.replace(&name.file(), whole.as_bytes())?;
        Ok(whole.len())
    }

    /// Removes a note.
    pub(super) fn delete(&self, name: &NoteName) -> Result<(), Fault> {
        let locked = self.folder.lock()?;
        // Only what `list` shows can be deleted: under a note's name there may also stand a link or a folder, which is not ours.
        let is_there = self.entries()?.iter().any(|(other, _)| other == name);
        if is_there && locked.remove(&name.file())? { Ok(()) } else { Err(Fault::NoSuchNote(name.clone())) }
    }

    /// Puts a copy of a note into the outbox, addressed to `recipient`; answers the copy's file name.
    pub(super) fn share(&self, name: &NoteName, recipient: &Recipient) -> Result<String, Fault> {
        let text = self.read(name)?;
        let locked = self.outbox.lock()?;
        let sent = self.outbox.entries()?;
        if sent.len() >= MAX_NOTES {
            return Err(Fault::OutboxFull);
        }
        // Numbered: to share twice is to send twice, and nothing that has left is overwritten.
        let last = sent.iter().filter_map(|entry| entry.file.split(' ').next()?.parse::<u64>().ok()).max().unwrap_or(0);
        let file = format!("{:06} {} {}", last.saturating_add(1), recipient.0, name.file());
        locked.replace(&file, text.as_bytes())?;
        Ok(file)
    }

    /// The text of every note that is text, by name.
    pub(super) fn texts(&self) -> Result<Vec<(NoteName, String)>, Fault> {
        let mut texts = Vec::new();
        for (name, _) in self.entries()? {
            match self.read(&name) {
                Ok(text) => texts.push((name, text)),
                Err(Fault::Storage(error)) => return Err(Fault::Storage(error)),
                // Deleted since the listing, or put there by something else: no reason to fail a search over the rest.
                Err(_) => {}
            }
        }
        Ok(texts)
    }

    // Bounded here too, because people can put files into the folder.
    fn entries(&self) -> Result<Vec<(NoteName, Entry)>, Fault> {
        let named = |entry: Entry| Some((NoteName::try_from(entry.file.strip_suffix(SUFFIX)?.to_owned()).ok()?, entry));
        Ok(self.folder.entries()?.into_iter().filter_map(named).take(MAX_NOTES).collect())
    }
}

impl NoteName {
    fn file(&self) -> String {
        format!("{}{SUFFIX}", self.0)
    }
}

impl TryFrom<String> for NoteName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = is_plain(&text, " _.-");
        fits.then_some(Self(text)).ok_or("a note's name is 1 to 64 letters, digits, spaces and _.- and starts with a letter or digit")
    }
}

impl TryFrom<String> for Recipient {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = is_plain(&text, "@_.+-");
        fits.then_some(Self(text)).ok_or("a recipient is 1 to 64 letters, digits and @_.+- and starts with a letter or digit")
    }
}

/// Whether `text` is 1 to 64 ASCII letters, digits and `others`, the first a letter or digit: the patterns of `tools.json`.
fn is_plain(text: &str, others: &str) -> bool {
    text.len() <= MAX_NAME_CHARS
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

impl fmt::Display for NoteName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchNote(name) => write!(out, "There is no note `{name}`. Call list_notes for the names; names are case-sensitive."),
            Self::NotText(name) => write!(out, "The file of note `{name}` is not UTF-8 text, so it cannot be read as a note."),
            Self::NoteTooLarge(name) => {
                write!(out, "Note `{name}` is or would be larger than 262144 bytes. Write less, or use a second note.")
            }
            Self::TooManyNotes => write!(out, "There are {MAX_NOTES} notes already. Delete one, or append to one."),
            Self::OutboxFull => {
                write!(out, "The outbox holds {MAX_NOTES} copies already. A person has to empty it before more can be shared.")
            }
            Self::Storage(error) => write!(out, "The folder of notes could not be used: {error}."),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Storage(error)
    }
}
