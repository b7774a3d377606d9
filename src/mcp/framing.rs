//! Messages that are set apart by line ends: on a pipe, and in an event stream.
//!
//! Whoever wants to say two messages in one needs a line end inside it, and JSON allows one as white space between tokens. A
//! tool server would take what follows for a message of its own, which nobody has checked, decided or recorded.
//!
//! INVARIANT: what leaves here has no line feed and no carriage return. Strings have none either (RFC 8259, section 7), so
//! nothing but white space changes, and nothing in length.

use bytes::Bytes;
use memchr::memchr2;

/// The message on one line.
pub fn one_line(mut message: Vec<u8>) -> Vec<u8> {
    if memchr2(b'\n', b'\r', &message).is_some() {
        message.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    }
    message
}

/// The message on one line; copied only where it is not.
pub fn unbroken(message: Bytes) -> Bytes {
    if memchr2(b'\n', b'\r', &message).is_none() { message } else { one_line(message.into()).into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_of_every_kind_become_spaces() {
        let broken = b"{\"a\":\n{\r\n}\r,\"b\":\"\\n\"}".as_slice();
        let whole = br#"{"a": {  } ,"b":"\n"}"#.as_slice();
        assert_eq!(one_line(broken.to_vec()), whole);
        assert_eq!(unbroken(Bytes::from_static(broken)), whole);
        let same = Bytes::from_static(whole);
        assert_eq!(unbroken(same.clone()).as_ptr(), same.as_ptr());
    }
}
