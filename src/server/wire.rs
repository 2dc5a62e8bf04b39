//! The wire format as Rust types: messages, the client and the server side of `skipstone.v1`.

// The generated code is documented by proto/skipstone/v1, and follows the style of its generator.
#![allow(missing_docs, clippy::all, clippy::pedantic, unused_qualifications)]

tonic::include_proto!("skipstone.v1");

/// The compiled descriptors of the package, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/skipstone_descriptor_set.bin"));

// JSON gives values of enumerations by name.

fn state_name<S: serde::Serializer>(number: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(StreamState::try_from(*number).unwrap_or_default().as_str_name())
}
