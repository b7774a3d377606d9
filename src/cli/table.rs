//! Tables for people: columns as wide as their widest cell, nothing that a terminal would obey.

use std::fmt::Write;

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

/// Text with control characters, line breaks and direction marks written out.
pub fn safe(text: &str) -> String {
    let hidden =
        |letter: char| letter.is_control() || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().fold(String::with_capacity(text.len()), |mut out, letter| {
        if hidden(letter) {
            out.extend(letter.escape_unicode());
        } else {
            out.push(letter);
        }
        out
    })
}
