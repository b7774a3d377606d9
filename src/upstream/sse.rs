//! Server-sent events out of the chunks of a response body.
//!
//! Owns: the event stream format (WHATWG HTML, 9.2.6). Leaves to others: what the data means.
//! INVARIANT: what is kept of an unfinished event never exceeds the limit.

use bytes::{Buf, Bytes, BytesMut};

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The type; `message` where the stream names none.
    pub kind: Option<Bytes>,
    /// The data, its lines joined by line feeds.
    pub data: Bytes,
}

/// An event, or a line of it, beyond the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// The parser of one stream.
#[derive(Debug)]
pub struct Parser {
    buffer: BytesMut,
    /// How far `buffer` is known to have no line end.
    scanned: usize,
    /// A carriage return ended the last line: a line feed right behind it belongs to it.
    after_return: bool,
    /// Nothing of the stream was read yet: a byte order mark may come.
    fresh: bool,
    kind: Option<Bytes>,
    data: Data,
    limit: usize,
    /// The reconnection time that the server last asked for, in milliseconds.
    pub retry_ms: Option<u64>,
    /// The last event id, for a resumption.
    pub last_id: Option<Bytes>,
    /// Lines without data, since somebody took their number: only those may go on for ever and come to no event.
    pub idle: u32,
}

/// One line of data is a slice of what arrived; only more than one are copied together.
#[derive(Debug)]
enum Data {
    None,
    One(Bytes),
    Many(BytesMut),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(bytes) => bytes.len(),
            Self::Many(bytes) => bytes.len(),
        }
    }
}

impl Parser {
    /// A parser that keeps at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            after_return: false,
            fresh: true,
            kind: None,
            data: Data::None,
            limit,
            retry_ms: None,
            last_id: None,
            idle: 0,
        }
    }

    /// A parser of the stream that goes on where this one broke off.
    pub fn resumed(&self) -> Self {
        Self { retry_ms: self.retry_ms, last_id: self.last_id.clone(), ..Self::new(self.limit) }
    }

    /// Takes in what arrived; call [`Parser::event`] until it has none.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole event.
    ///
    /// # Errors
    /// [`TooLong`] when the event under way exceeds the limit.
    pub fn event(&mut self) -> Result<Option<Event>, TooLong> {
        while let Some(line) = self.line() {
            if line.len() > self.limit {
                return Err(TooLong);
            }
            if line.is_empty() {
                if let Some(event) = self.dispatch() {
                    return Ok(Some(event));
                }
                self.idle = self.idle.saturating_add(1);
            } else {
                self.field(&line);
            }
            if self.data.len() > self.limit {
                return Err(TooLong);
            }
        }
        if self.buffer.len() > self.limit { Err(TooLong) } else { Ok(None) }
    }

    /// Takes the byte order mark off the beginning; false while it may still come.
    fn begins(&mut self) -> bool {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        if self.fresh {
            if self.buffer.len() < MARK.len() && MARK.starts_with(&self.buffer) {
                return false;
            }
            self.fresh = false;
            if self.buffer.starts_with(MARK) {
                self.buffer.advance(MARK.len());
            }
        }
        true
    }

    fn line(&mut self) -> Option<Bytes> {
        if !self.begins() {
            return None;
        }
        if self.after_return && !self.buffer.is_empty() {
            self.after_return = false;
            if self.buffer.first() == Some(&b'\n') {
                self.buffer.advance(1);
                self.scanned = 0;
            }
        }
        let rest = self.buffer.get(self.scanned..).unwrap_or_default();
        let Some(found) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            self.scanned = self.buffer.len();
            return None;
        };
        let end = self.scanned + found;
        self.after_return = self.buffer.get(end) == Some(&b'\r');
        let line = self.buffer.split_to(end).freeze();
        self.buffer.advance(1);
        self.scanned = 0;
        Some(line)
    }

    fn field(&mut self, line: &Bytes) {
        let colon = line.iter().position(|byte| *byte == b':');
        let name = line.get(..colon.unwrap_or(line.len())).unwrap_or_default();
        let mut value = colon.map_or_else(Bytes::new, |at| line.slice(at + 1..));
        if value.first() == Some(&b' ') {
            value.advance(1);
        }
        match name {
            b"data" => self.append(value),
            b"event" => self.kind = Some(value),
            b"id" if !value.contains(&0) => self.last_id = Some(value),
            b"retry" => self.retry_ms = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()).or(self.retry_ms),
            // A comment has an empty name; other fields are to be ignored.
            _ => {}
        }
        self.idle = self.idle.saturating_add(u32::from(name != b"data"));
    }

    fn append(&mut self, value: Bytes) {
        self.data = match std::mem::replace(&mut self.data, Data::None) {
            Data::None => Data::One(value),
            Data::One(first) => {
                let mut joined = BytesMut::from(first);
                joined.extend_from_slice(b"\n");
                joined.extend_from_slice(&value);
                Data::Many(joined)
            }
            Data::Many(mut joined) => {
                joined.extend_from_slice(b"\n");
                joined.extend_from_slice(&value);
                Data::Many(joined)
            }
        };
    }

    /// The event at an empty line; none where it had no data, as a priming event has not.
    fn dispatch(&mut self) -> Option<Event> {
        let kind = self.kind.take();
        let data = match std::mem::replace(&mut self.data, Data::None) {
            Data::None => return None,
            Data::One(data) => data,
            Data::Many(data) => data.freeze(),
        };
        (!data.is_empty()).then_some(Event { kind, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(parser: &mut Parser) -> Vec<String> {
        std::iter::from_fn(|| parser.event().unwrap()).map(|event| String::from_utf8(event.data.to_vec()).unwrap()).collect()
    }

    #[test]
    fn every_line_end_and_every_cut_gives_the_same_events() {
        let text =
            "\u{feff}: hello\nid: 7\nevent: message\ndata: one\n\nretry: 250\ndata:two\ndata\ndata:  three\n\nid: 8\ndata:\n\ndata: cut";
        for end in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', end);
            for size in 1..text.len() {
                let mut parser = Parser::new(64);
                let mut events = Vec::new();
                for chunk in text.as_bytes().chunks(size) {
                    parser.push(chunk);
                    events.extend(all(&mut parser));
                }
                assert_eq!(events, ["one", "two\n\n three"], "{end:?} in pieces of {size}");
                assert_eq!((parser.retry_ms, parser.last_id.as_deref()), (Some(250), Some(b"8".as_slice())));
            }
        }
    }

    #[test]
    fn an_endless_line_and_an_endless_event_are_refused() {
        let mut parser = Parser::new(16);
        parser.push(&[b'x'; 17]);
        assert_eq!(parser.event(), Err(TooLong));
        let mut parser = Parser::new(16);
        for _ in 0..3 {
            parser.push(b"data: 12345678\n");
        }
        assert_eq!(parser.event(), Err(TooLong));
    }

    #[test]
    fn a_byte_order_mark_counts_towards_no_limit_however_it_is_cut() {
        let text = b"\xef\xbb\xbfdata: 12345\n\n";
        for size in 1..text.len() {
            let (mut parser, mut events) = (Parser::new(11), Vec::new());
            for chunk in text.chunks(size) {
                parser.push(chunk);
                events.extend(all(&mut parser));
            }
            assert_eq!(events, ["12345"], "in pieces of {size}");
        }
    }

    #[test]
    fn lines_that_may_go_on_without_an_event_are_counted() {
        let mut parser = Parser::new(64);
        parser.push(b": alive\n\nid: 1\nretry: 5\n\ndata: x\ndata\n\n");
        assert_eq!((all(&mut parser), parser.idle), (vec!["x\n".to_owned()], 5));
    }

    #[test]
    fn types_are_kept_and_end_with_their_event() {
        let mut parser = Parser::new(64);
        parser.push(b"event: endpoint\ndata: /x\n\ndata: y\n\n");
        assert_eq!(parser.event().unwrap().unwrap().kind.as_deref(), Some(b"endpoint".as_slice()));
        assert_eq!(parser.event().unwrap().unwrap().kind, None);
    }
}
