//! A stream of events: its pieces do not matter, nothing longer than the limit is kept, and it reads as the standard says.

use doorward::upstream::sse::{Event, Parser};

/// Checks a stream. Its first two bytes say how it is cut and what the limit is.
pub fn check(data: &[u8]) {
    let [cut, limit, stream @ ..] = data else { return };
    let (size, limit) = (usize::from(*cut % 64) + 1, 8 + usize::from(*limit));
    let whole = read(std::iter::once(stream), limit);
    assert_eq!(read(stream.chunks(size), limit), whole, "in pieces of {size}");
    let (events, is_too_long) = whole;
    assert!(events.iter().all(|event| event.data.len() <= limit && !event.data.is_empty()));
    let expected = plainly(stream);
    let is_beginning =
        events.iter().zip(&expected).all(|(event, (kind, data))| event.kind.as_deref().unwrap_or_default() == *kind && event.data == *data);
    assert!(is_beginning && events.len() <= expected.len(), "{events:?} of {expected:?}");
    assert!(is_too_long || events.len() == expected.len(), "{events:?} of {expected:?}");
}

/// The events, and whether there would be more if they were shorter.
fn read<'s>(pieces: impl Iterator<Item = &'s [u8]>, limit: usize) -> (Vec<Event>, bool) {
    let (mut parser, mut events) = (Parser::new(limit), Vec::new());
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.event() {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(_) => return (events, true),
            }
        }
    }
    (events, false)
}

/// The same from the text of the standard (WHATWG HTML, 9.2.6), for a stream that is there as a whole.
fn plainly(stream: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let (mut events, mut kind, mut data, mut rest) = (Vec::new(), Vec::new(), Vec::<u8>::new(), stream);
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
        let line = &rest[..end];
        let two = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(two)..];
        if line.is_empty() {
            let kind = std::mem::take(&mut kind);
            let mut data = std::mem::take(&mut data);
            // The line feed behind the last line.
            data.pop();
            if !data.is_empty() {
                events.push((kind, data));
            }
            continue;
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..])),
            None => (line, &b""[..]),
        };
        match name {
            b"data" => data.extend(value.iter().chain(b"\n")),
            b"event" => kind = value.to_vec(),
            _ => {}
        }
    }
    events
}
