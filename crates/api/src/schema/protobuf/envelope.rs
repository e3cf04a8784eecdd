//! What stands around a message: the envelope that says its kind, lists, and the frames of watches.

use std::convert::Infallible;

use serde_json::Value;

use super::read::{Fields, Wire, utf8};
use super::write::Backwards;
use super::{ProtobufError, UnfitError};
use crate::schema::{Schema, TypeId};

/// What each envelope begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Why a body is no envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The four magic bytes are missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The envelope itself is no message.
    #[error(transparent)]
    Malformed(#[from] ProtobufError),
}

/// The content of an envelope.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope<'b> {
    /// `apiVersion` of the object.
    pub api_version: String,
    /// `kind` of the object.
    pub kind: String,
    /// The object's own message.
    pub raw: &'b [u8],
}

/// Opens a body's envelope.
pub fn open_envelope(body: &[u8]) -> Result<Envelope<'_>, EnvelopeError> {
    let message = body.strip_prefix(MAGIC).ok_or(EnvelopeError::NoMagic)?;
    let mut envelope = Envelope {
        api_version: String::new(),
        kind: String::new(),
        raw: &[],
    };
    for field in Fields(message) {
        match field? {
            (1, Wire::Bytes(type_meta)) => {
                for field in Fields(type_meta) {
                    match field? {
                        (1, Wire::Bytes(text)) => envelope.api_version = utf8(text, "apiVersion")?,
                        (2, Wire::Bytes(text)) => envelope.kind = utf8(text, "kind")?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// The envelope of an object of a type.
///
/// # Errors
/// As [`super::to_protobuf`].
pub fn seal(
    schema: &Schema,
    ty: TypeId,
    (api_version, kind): (&str, &str),
    object: &Value,
) -> Result<Vec<u8>, UnfitError> {
    around((api_version, kind), |raw| raw.object(schema, ty, object))
}

/// The envelope of a list of objects of a type; `metadata` is of the type `metadata_ty`.
///
/// Items are asked for from the last to the first, and none is kept, so that a list costs its
/// message and one item.
///
/// # Errors
/// As [`super::to_protobuf`].
pub fn seal_list(
    schema: &Schema,
    (api_version, kind): (&str, &str),
    (metadata_ty, metadata): (TypeId, &Value),
    ty: TypeId,
    items: impl DoubleEndedIterator<Item = Value>,
) -> Result<Vec<u8>, UnfitError> {
    around((api_version, kind), |raw| {
        for item in items.rev() {
            raw.message(2, |message| message.object(schema, ty, &item))?;
        }
        raw.message(1, |message| message.object(schema, metadata_ty, metadata))
    })
}

fn around<E>(
    (api_version, kind): (&str, &str),
    raw: impl FnOnce(&mut Backwards) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    let mut unknown = Backwards::default();
    // Neither the encoding nor the type of the content is said.
    unknown.bytes(4, b"");
    unknown.bytes(3, b"");
    unknown.message(2, raw)?;
    unknown.message(1, |type_meta| {
        type_meta.bytes(2, kind.as_bytes());
        type_meta.bytes(1, api_version.as_bytes());
        Ok(())
    })?;
    unknown.raw(MAGIC);
    Ok(unknown.finish())
}

/// An event of a watch about an object in its envelope: a `WatchEvent` after its length of four
/// bytes, the highest first.
pub fn watch_frame(event_type: &str, envelope: &[u8]) -> Vec<u8> {
    let mut frame = Backwards::default();
    let written: Result<(), Infallible> = frame.message(2, |object| {
        object.bytes(1, envelope);
        Ok(())
    });
    match written {
        Ok(()) => {}
    }
    frame.bytes(1, event_type.as_bytes());
    frame.framed()
}
