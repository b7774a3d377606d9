//! Text from elsewhere as a person is shown it: nothing in it steers, hides or turns what stands beside it.

/// Text that cannot steer a terminal or hide in it: control characters, line breaks, direction marks and characters without a
/// shape of their own are written out.
pub fn safe(text: &str) -> String {
    written(text, |letter| letter.is_control() || is_shapeless(letter))
}

/// The same for what somebody decides by: letters of scripts that run from right to left are written out too, since a terminal turns what stands beside
/// them.
pub fn plain(text: &str) -> String {
    written(text, |letter| letter.is_control() || is_shapeless(letter) || runs_left(letter))
}

/// The text with these letters written out.
pub fn written(text: &str, hidden: impl Fn(char) -> bool) -> String {
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
pub fn is_shapeless(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Blocks of letters of the bidirectional classes R and AL (Unicode 16, DerivedBidiClass), unassigned places among them.
fn runs_left(letter: char) -> bool {
    matches!(letter,
        '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{feff}' | '\u{10800}'..='\u{10fff}' | '\u{1e800}'..='\u{1efff}')
}
