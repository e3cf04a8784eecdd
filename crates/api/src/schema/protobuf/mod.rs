//! Kubernetes' protobuf (`application/vnd.kubernetes.protobuf`), read and written from the table.
//!
//! The wire format needs no generated code: field numbers and types are in the table. Envelope:
//! the four bytes `k8s\0`, then a `runtime.Unknown` (see "Kubernetes Protobuf encoding" in the API
//! concepts page).

mod envelope;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use envelope::{EnvelopeError, open_envelope, seal, seal_list, watch_frame};
pub use read::from_protobuf;
pub use write::to_protobuf;

/// Why bytes are no message of the type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The bytes end within a field.
    #[error("unexpected EOF")]
    Truncated,
    /// A number longer than 64 bits.
    #[error("proto: integer overflow")]
    Overflow,
    /// A wire type that protobuf does not have, or that the field's type cannot be written in.
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType {
        /// The field's name or number.
        field: String,
        /// The wire type found.
        wire: u8,
    },
    /// A string that is not UTF-8.
    #[error("proto: field {0} contains invalid UTF-8")]
    NotUtf8(&'static str),
    /// Carried JSON that is none.
    #[error("proto: field {0} carries malformed JSON")]
    NotJson(&'static str),
    /// Nested beyond any type of the API.
    #[error("proto: message nested too deep")]
    TooDeep,
}

/// A value that its type cannot hold, so that no message can be made of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("proto: field {field} cannot hold the value found")]
pub struct UnfitError {
    /// The field's name.
    pub field: &'static str,
}
