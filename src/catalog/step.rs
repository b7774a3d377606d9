//! What the letters and the steps of a path may be taken for by a lenient reader: shared by the addresses of resources and the paths of arguments.
//!
//! Readers bring text into compatibility form (a fullwidth `／` is `/` then, and `︰` is `..`), drop letters without a shape, trim spaces, and have
//! a code page where a currency sign is the backslash. Whoever decides about a path must know of it before they do.

use icu_normalizer::ComposingNormalizerBorrowed;
use icu_properties::CodePointSetData;
use icu_properties::props::DefaultIgnorableCodePoint;

/// Whether the letter shows nothing, so that readers leave it out (Unicode, `Default_Ignorable_Code_Point`).
pub fn is_shapeless(letter: char) -> bool {
    !letter.is_ascii() && CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(letter)
}

/// The text in compatibility form (Unicode, NFKC).
pub fn compatible(text: &str) -> String {
    ComposingNormalizerBorrowed::new_nfkc().normalize(text).into_owned()
}

/// Whether a letter is a separator of steps to some reader: a backslash, or what stands in its place in code pages of East Asia.
pub fn is_backslash(letter: char) -> bool {
    matches!(letter, '\\' | '¥' | '₩' | '\u{ffe5}' | '\u{ffe6}')
}

/// Whether some reader takes the step for `.` or `..`: it is one of them, or dots with spaces around or between.
pub fn is_dots(step: &str) -> bool {
    let (dots, spaces) = (step.matches('.').count(), step.matches(char::is_whitespace).count());
    dots > 0 && dots + spaces == step.chars().count() && (dots <= 2 || spaces > 0)
}

/// Whether the text has a percent code of another kind, `%u002e`, which some servers resolve.
pub fn has_long_code(text: &str) -> bool {
    let is_code = |(at, _): (usize, &str)| {
        let rest = text.as_bytes().get(at + 1..at + 6);
        rest.is_some_and(|rest| matches!(rest, [b'u' | b'U', digits @ ..] if digits.iter().all(u8::is_ascii_hexdigit)))
    };
    text.match_indices('%').any(is_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_may_be_taken_for() {
        for step in [".", "..", ".. ", " ..", ".. .", ". .", ".\u{a0}."] {
            assert!(is_dots(step), "{step:?}");
        }
        for step in ["", " ", "...", "a.", ".a", "..a", "a .."] {
            assert!(!is_dots(step), "{step:?}");
        }
        assert!(has_long_code("a%u002E") && has_long_code("%U002e/") && !has_long_code("%u00") && !has_long_code("%uxyzw"));
        for letter in ['\u{34f}', '\u{2060}', '\u{180e}', '\u{3164}', '\u{200b}', '\u{feff}', '\u{ad}', '\u{fe0f}'] {
            assert!(is_shapeless(letter), "{letter:?}");
        }
        assert!(!is_shapeless('a') && !is_shapeless('é') && !is_shapeless(' '));
        assert_eq!(compatible("\u{fe30}/\u{ff45}\u{ff54}\u{ff43}\u{ff0f}"), "../etc/");
    }
}
