//! Whose answer a line was that the strict parse refuses: its call can end at once, and need not wait for its deadline.
//!
//! Reads the top level only, byte by byte. Believed is the id and nothing else: the call ends with its effect unknown.
//! INVARIANT: where anything about the id is doubtful there is none; the call then ends at its deadline. That holds for a
//! batch, for a line that ends before its id, and also where one call alone waits: a banner must not end it.
//! INVARIANT: one pass, no recursion, nothing allocated.

/// The id of what looks like an answer and has exactly one, a whole number.
pub(super) fn answered(line: &[u8]) -> Option<u64> {
    let mut rest = line.trim_ascii().strip_prefix(b"{")?;
    let (mut id, mut protocol, mut outcome) = (None, false, false);
    loop {
        let Some((name, value)) = name(rest) else { return id.filter(|_| outcome) };
        let value = cut(value);
        match name {
            b"id" if id.is_some() => return None,
            b"id" => id = Some(number(value?.0)?),
            b"result" | b"error" => outcome = true,
            b"jsonrpc" => protocol = true,
            // A request; or a name that only looks like another.
            b"method" => return None,
            _ if name.contains(&b'\\') => return None,
            _ => {}
        }
        match value {
            Some((_, b',', after)) => rest = after,
            // Whole, and so also an answer that has lost its result.
            Some((_, _, b"")) => return id.filter(|_| outcome || protocol),
            // Broken from here on. What followed an outcome and an id could not make it another's answer.
            _ => return id.filter(|_| outcome),
        }
    }
}

/// The name of a member, as written, and what follows its colon.
fn name(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.trim_ascii_start().strip_prefix(b"\"")?;
    let end = string_end(text)?;
    let (name, rest) = (text.get(..end)?, text.get(end + 1..)?);
    Some((name, rest.trim_ascii_start().strip_prefix(b":")?))
}

/// A value, the comma or brace that ends it, and what follows.
fn cut(text: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let (mut at, mut depth) = (0_usize, 0_usize);
    loop {
        match text.get(at)? {
            b'"' => at += 1 + string_end(text.get(at + 1..)?)?,
            b'{' | b'[' => depth += 1,
            end @ (b',' | b'}') if depth == 0 => return Some((text.get(..at)?, *end, text.get(at + 1..)?)),
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += 1;
    }
}

/// Where the closing quote stands.
fn string_end(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::answered;

    #[test]
    fn the_id_of_an_unreadable_answer_is_told() {
        let deep = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        let told: [&[u8]; 8] = [
            br#"{"jsonrpc":"2.0","id":7,"result":{"a":1,"a":"}\"{"}}"#,
            br#"{"result":{"id":8,"id":9}, "id" : 7 , "jsonrpc":"2.0"}"#,
            b"{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"text\":\"\xff\"}}",
            br#"{"jsonrpc":"2.0","id":7,"result":{"text":"a line"#,
            br#"{"jsonrpc":"2.0","id":7,"error":"no object"}"#,
            br#"{"jsonrpc":"2.0","id":7,"result":{},"error":{}}"#,
            br#"{"jsonrpc":"2.0","id":7}"#,
            deep.as_bytes(),
        ];
        for line in told {
            assert_eq!(answered(line), Some(7), "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_doubtful_id_is_none() {
        let doubtful: [&[u8]; 13] = [
            br#"{"jsonrpc":"2.0","id":7,"id":8,"result":{}}"#,
            br#"{"jsonrpc":"2.0","id":7,"\u0069d":8,"result":{}}"#,
            br#"{"jsonrpc":"2.0","id":"7","result":{}}"#,
            br#"{"jsonrpc":"2.0","id":7.0,"result":{}}"#,
            br#"{"jsonrpc":"2.0","id":-7,"result":{}}"#,
            br#"{"jsonrpc":"2.0","id":,"result":{}}"#,
            br#"{"jsonrpc":"2.0","id":7,"method":"ping","method":"ping"}"#,
            br#"{"jsonrpc":"2.0","id":7,"met"#,
            br#"{"jsonrpc":"2.0","result":{},"id":7"#,
            br#"{"jsonrpc":"2.0","result":{"id":7"#,
            br#"{"level":"info","id":7}"#,
            br#"[{"jsonrpc":"2.0","id":7,"result":{"a":1,"a":2}}]"#,
            b"Welcome!",
        ];
        for line in doubtful {
            assert_eq!(answered(line), None, "{}", String::from_utf8_lossy(line));
        }
    }
}
