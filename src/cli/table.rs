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

/// Text that cannot steer a terminal or hide in it: control characters, line breaks, direction marks and characters without a
/// shape of their own are written out.
pub fn safe(text: &str) -> String {
    written(text, |letter| letter.is_control() || is_shapeless(letter))
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

fn written(text: &str, hidden: impl Fn(char) -> bool) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, letter| {
        if hidden(letter) {
            out.extend(letter.escape_unicode());
        } else {
            out.push(letter);
        }
        out
    })
}

/// Default-ignorable code points (Unicode 16, DerivedCoreProperties), and the line and paragraph separators.
fn is_shapeless(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

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
