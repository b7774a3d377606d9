//! The words that stand in every error: what was done, who failed, and the group of its code.

/// What is known about the side effect of a call that ended in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing left the gateway, or the tool server is known not to have acted.
    None,
    /// Bytes left and no answer came: it may have happened.
    Unknown,
    /// The tool ran; only its result could not be delivered as it is.
    Done,
}

impl Effect {
    /// The word on the wire and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unknown => "unknown",
            Self::Done => "done",
        }
    }
}

/// Who produced the fault that the error reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Doorward refused or failed.
    Gateway,
    /// The tool server refused or failed, and Doorward says so.
    Upstream,
}

impl Origin {
    /// The word on the wire and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Upstream => "upstream",
        }
    }
}

/// The groups of codes; a program that knows no code can branch on these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Who is calling could not be established, or lacks a scope.
    Authentication,
    /// The message itself is wrong.
    Request,
    /// A reviewed rule or pin forbids it.
    Policy,
    /// A person has to decide.
    Approval,
    /// Too much, too often, or not now.
    Capacity,
    /// The tool server or the way to it.
    Upstream,
    /// What the tool server answered.
    Content,
    /// Doorward itself.
    Internal,
}

impl Category {
    /// The word on the wire and in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authentication => "authentication",
            Self::Request => "request",
            Self::Policy => "policy",
            Self::Approval => "approval",
            Self::Capacity => "capacity",
            Self::Upstream => "upstream",
            Self::Content => "content",
            Self::Internal => "internal",
        }
    }
}
