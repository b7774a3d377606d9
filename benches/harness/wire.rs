//! HTTP/1.1 framing over a byte buffer: just enough for keep-alive requests and answers on loopback.
//!
//! Owns no socket: upstream and load generator read and write themselves, so the same few lines serve both and what
//! they cost stays far below what is measured. Not a general parser: no trailers, no continuation lines, no upgrade.

use std::borrow::Cow;

use super::Result;

/// One whole message at the front of a buffer.
pub struct Frame<'a> {
    /// Start line and header fields, without the blank line.
    pub head: &'a [u8],
    /// The body, joined when it came in chunks.
    pub body: Cow<'a, [u8]>,
    /// How many bytes of the buffer the message took.
    pub used: usize,
}

/// Finds the first message, or `None` while it is incomplete. Fails on what is not HTTP/1.1.
pub fn frame(buffer: &[u8]) -> Result<Option<Frame<'_>>> {
    let Some(end) = find(buffer, b"\r\n\r\n") else { return Ok(None) };
    let (head, rest) = (&buffer[..end], &buffer[end + 4..]);
    if field(head, "transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked")) {
        return Ok(joined(rest)?.map(|(body, used)| Frame { head, body: Cow::Owned(body), used: end + 4 + used }));
    }
    let length = field(head, "content-length").map_or(Ok(0), decimal)?;
    Ok(rest.get(..length).map(|body| Frame { head, body: Cow::Borrowed(body), used: end + 4 + length }))
}

impl Frame<'_> {
    /// The value of a header field, if it was sent.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        field(self.head, name)
    }

    /// The request or status line.
    pub fn line(&self) -> &[u8] {
        &self.head[..find(self.head, b"\r\n").unwrap_or(self.head.len())]
    }

    /// The JSON-RPC message of the body: the last `data:` line where the body is an event stream.
    pub fn message(&self) -> Result<&[u8]> {
        if !self.field("content-type").is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
            return Ok(&self.body);
        }
        let lines = self.body.split(|byte| *byte == b'\n');
        let data = lines.filter_map(|line| line.strip_prefix(b"data:")).next_back();
        Ok(data.ok_or("an event stream without a message")?.trim_ascii())
    }
}

/// Where `part` first stands in `whole`.
pub fn find(whole: &[u8], part: &[u8]) -> Option<usize> {
    whole.windows(part.len()).position(|window| window == part)
}

fn field<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
    })
}

/// Joins the chunks of a body: the bytes, and how many the chunks took; `None` while the last chunk is missing.
fn joined(rest: &[u8]) -> Result<Option<(Vec<u8>, usize)>> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = find(&rest[at..], b"\r\n") else { return Ok(None) };
        let size = usize::from_str_radix(std::str::from_utf8(&rest[at..at + line])?.trim(), 16)?;
        let start = at + line + 2;
        if rest.len() < start + size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&rest[start..start + size]);
        at = start + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

fn decimal(digits: &[u8]) -> Result<usize> {
    Ok(std::str::from_utf8(digits)?.parse()?)
}
