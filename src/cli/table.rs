//! Tables for people: columns as wide as their widest cell, nothing that a terminal would obey.

use std::fmt::Write;

pub use crate::mcp::plain::safe;
use crate::mcp::plain::{is_shapeless, written};

/// Lays rows out under a head. Control characters are shown, not sent.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |row: &[String]| row.iter().map(|cell| safe(cell)).collect::<Vec<_>>();
    let mut lines = vec![head.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| cells(row)));
    let widths: Vec<usize> = (0..head.len())
        .map(|column| lines.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in lines {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Like [`safe`], and without white space: one word, which cannot be taken for two fields of a row. A space is shown as `·`.
pub fn word(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        let hidden =
            |letter: char| letter.is_control() || (letter.is_whitespace() && letter != ' ') || is_shapeless(letter) || letter == SPACE;
        written(text, hidden).replace(' ', &SPACE.to_string())
    }
}

/// Stands for a space; one that was there is written out.
const SPACE: char = '·';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_or_hides_is_written_out() {
        assert_eq!(safe("a b\u{1b}[2J\u{9b}\u{202e}\u{61c}\u{e0041}é"), "a b\\u{1b}[2J\\u{9b}\\u{202e}\\u{61c}\\u{e0041}é");
        assert_eq!(word("a b\u{a0}c\n·"), "a·b\\u{a0}c\\u{a}\\u{b7}");
        assert_eq!(word(""), "-");
    }
}
