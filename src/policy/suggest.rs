//! Did-you-mean for the words of operators' files.

/// The candidate nearest to `word`, if it is near enough to be what was meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    // A third of the letters may differ: enough for `dney`, too little for `audit` to become `edit`.
    let limit = (word.len() / 3).max(1);
    let distance = |candidate: &str| strsim::damerau_levenshtein(&lower, &candidate.to_ascii_lowercase());
    let scored = candidates.into_iter().filter(|candidate| candidate.len().abs_diff(word.len()) <= limit);
    scored.map(|candidate| (distance(candidate), candidate)).filter(|(far, _)| *far <= limit).min().map(|(_, candidate)| candidate)
}

/// "did you mean `x`?" when something is near, else `otherwise`.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>, otherwise: impl Into<String>) -> String {
    nearest(word, candidates).map_or_else(|| otherwise.into(), |near| format!("did you mean `{near}`?"))
}

/// What a name looks like: names with one skeleton are told apart by no reader.
pub fn skeleton(name: &str) -> String {
    name.to_ascii_lowercase().replace('0', "o").replace('1', "l").replace("rn", "m").replace("vv", "w")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_word_and_another_word_does_not() {
        assert_eq!(nearest("dney", ["allow", "deny"]), Some("deny"));
        assert_eq!(nearest("Allow", ["allow", "deny"]), Some("allow"));
        assert_eq!(nearest("permit", ["allow", "deny"]), None);
    }

    #[test]
    fn look_alikes_share_a_skeleton() {
        assert_eq!(skeleton("role:team-1"), skeleton("role:team-l"));
        assert_eq!(skeleton("modern"), skeleton("modem"));
        assert_ne!(skeleton("reader"), skeleton("writer"));
    }
}
