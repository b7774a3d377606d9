//! Where in a trace a request is: the `traceparent` of W3C Trace Context.

/// A `traceparent` that is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context<'d> {
    /// The trace, in 32 hex digits.
    pub trace: &'d str,
    /// The span around the request, in 16.
    pub span: &'d str,
    /// Whether who sent it keeps the trace.
    pub is_sampled: bool,
}

impl<'d> Context<'d> {
    /// Reads one; what is none counts for nothing (W3C Trace Context, 3.2 and 4.3).
    pub fn parse(text: &'d str) -> Option<Self> {
        let mut fields = text.split('-');
        let [version, trace, span, flags] = [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
        let is_sound = is_hex(version, 2) && is_id(trace, 32) && is_id(span, 16) && is_hex(flags, 2);
        // A later version may have more fields behind those of the first.
        if !is_sound || version == "ff" || (version == "00" && fields.next().is_some()) {
            return None;
        }
        Some(Self { trace, span, is_sampled: u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1) })
    }

    /// The trace as a number.
    pub fn trace_id(self) -> u128 {
        u128::from_str_radix(self.trace, 16).unwrap_or_default()
    }

    /// The span as a number.
    pub fn span_id(self) -> u64 {
        u64::from_str_radix(self.span, 16).unwrap_or_default()
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_id(text: &str, digits: usize) -> bool {
    is_hex(text, digits) && text.bytes().any(|byte| byte != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_traceparent_counts_for_nothing() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let of = |text: &str| Context::parse(text).map(|context| context.is_sampled);
        assert_eq!(of(&format!("00-{trace}-{span}-01")), Some(true));
        assert_eq!(of(&format!("00-{trace}-{span}-02")), Some(false));
        assert_eq!(of(&format!("01-{trace}-{span}-03-more")), Some(true));
        let (no_trace, no_span, upper) = ("0".repeat(32), "0".repeat(16), trace.to_uppercase());
        for wrong in [
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{no_trace}-{span}-01"),
            format!("00-{trace}-{no_span}-01"),
            format!("00-{upper}-{span}-01"),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-1"),
            format!("0-{trace}-{span}-01"),
            String::new(),
        ] {
            assert_eq!(of(&wrong), None, "{wrong}");
        }
    }
}
