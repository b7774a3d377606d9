//! The arguments that a call over HTTP repeats in headers: what `x-mcp-header` in a tool's input schema asks for (2026-07-28,
//! tools).

/// One argument that is repeated in the header `Mcp-Param-NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamHeader {
    /// NAME as the schema writes it.
    pub name: Box<str>,
    /// The member names that lead to the argument, from the outermost.
    pub path: Vec<Box<str>>,
    /// What the schema says that its value is.
    pub kind: ParamKind,
}

/// The types of a value that can stand in a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// A string.
    String,
    /// A whole number within 2^53.
    Integer,
    /// `true` or `false`.
    Boolean,
}
