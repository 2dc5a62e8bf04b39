//! The table of damaged files.

use skipstone::gguf::{Array, GgufBuilder, TensorType, Value};

/// A file and a distinctive part of the error it must give; none for files that must be accepted.
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub refusal: Option<&'static str>,
}

fn refused(name: &'static str, bytes: Vec<u8>, message: &'static str) -> Case {
    Case { name, bytes, refusal: Some(message) }
}

fn accepted(name: &'static str, bytes: Vec<u8>) -> Case {
    Case { name, bytes, refusal: None }
}

/// Two entries and two tensors. The array comes first, so that a file cut after it is still long
/// enough for the counts at its start and the error is about the cut itself.
pub fn base() -> GgufBuilder {
    GgufBuilder::new()
        .metadata("list", vec![7_u16; 60])
        .metadata("text", "hello")
        .tensor_f32("first", &[4, 2], &[0.5; 8])
        .tensor("second", &[32, 2], TensorType::Q4_1, vec![9; 40])
}

fn one_tensor(dims: &[u64], kind: TensorType) -> Vec<u8> {
    GgufBuilder::new().tensor("weight", dims, kind, vec![0; 64]).build()
}

fn one_value(value: impl Into<Value>) -> Vec<u8> {
    GgufBuilder::new().metadata("some.key", value).build()
}

/// `bytes` with `patch` written `skip` bytes after the first occurrence of `needle`.
fn patched(mut bytes: Vec<u8>, needle: &str, skip: usize, patch: &[u8]) -> Vec<u8> {
    let start = after(&bytes, needle) + skip;
    bytes[start..start + patch.len()].copy_from_slice(patch);
    bytes
}

pub fn after(bytes: &[u8], needle: &str) -> usize {
    let found = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
    found.unwrap_or_else(|| panic!("no {needle:?} in the file")) + needle.len()
}

pub fn nested(depth: usize) -> Array {
    (1..depth).fold(Array::U8(vec![1]), |inner, _| Array::Array(vec![inner]))
}

/// `one_value(nested(depth))` for any depth: the builder would need a stack frame for each array.
fn nested_file(depth: usize) -> Vec<u8> {
    const LEVEL: usize = 4 + 8; // an element type and a length
    let shallow = one_value(nested(2));
    let outermost = after(&shallow, "some.key") + 4;
    let (before, arrays) = shallow.split_at(outermost);
    [before, &arrays[..LEVEL].repeat(depth - 2), arrays].concat()
}

// Offsets after the name of a two-dimensional tensor.
pub const DIMENSION_COUNT: usize = 0;
pub const DIMS: usize = 4;
pub const TYPE: usize = DIMS + 16;
pub const DATA_OFFSET: usize = TYPE + 4;

fn file_cases() -> Vec<Case> {
    let good = || base().build();
    let count = |at: usize, value: u64| {
        let mut bytes = good();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let header = |text: &[u8]| [text, &[0; 64]].concat();
    vec![
        accepted("the base file", good()),
        accepted("version 2", base().version(2).build()),
        accepted("no entries, no tensors", GgufBuilder::new().build()),
        accepted("bytes after the last tensor", [good(), vec![0; 100]].concat()),
        refused(
            "empty file",
            Vec::new(),
            "ends inside the magic number: 4 bytes are needed at byte 0, 0 are left",
        ),
        refused(
            "another format",
            header(b"PK\x03\x04"),
            "not a GGUF file: it starts with \"PK\\x03\\x04\"",
        ),
        refused(
            "magic in capitals only by half",
            header(b"GGuf\x03\0\0\0"),
            "it starts with \"GGuf\"",
        ),
        refused("version 0", base().version(0).build(), "version 0 is not supported"),
        refused("version 1", base().version(1).build(), "version 1 is not supported"),
        refused("version 4", base().version(4).build(), "version 4 is not supported"),
        refused(
            "version -1",
            base().version(u32::MAX).build(),
            "version 4294967295 is not supported",
        ),
        refused(
            "big-endian",
            base().version(3_u32.swap_bytes()).build(),
            "big-endian GGUF file of version 3",
        ),
        refused(
            "tensor count -1",
            count(8, u64::MAX),
            "tensor count at byte 8 is 18446744073709551615",
        ),
        refused(
            "tensor count huge",
            count(8, 1 << 62),
            "tensor count at byte 8 is 4611686018427387904, but the",
        ),
        refused("tensor count one too many", count(8, 3), "tensor name at byte 292 is empty"),
        refused(
            "metadata count -1",
            count(16, u64::MAX),
            "metadata count at byte 16 is 18446744073709551615",
        ),
        refused(
            "metadata count huge",
            count(16, 1 << 40),
            "metadata count at byte 16 is 1099511627776, but the",
        ),
        refused(
            "too many tensors",
            many(8),
            "tensor count at byte 8 is 65537, above the limit of 65536",
        ),
        refused(
            "too many entries",
            many(16),
            "metadata count at byte 16 is 65537, above the limit of 65536",
        ),
    ]
}

/// A file that is long enough for 65,537 of what is counted at byte `at`.
fn many(at: usize) -> Vec<u8> {
    let mut bytes = GgufBuilder::new().build();
    bytes[at..at + 8].copy_from_slice(&65_537_u64.to_le_bytes());
    bytes.resize(65_537 * 33 + 24, 0);
    bytes
}

fn metadata_cases() -> Vec<Case> {
    let value = |skip, patch: &[u8]| patched(one_value("hello"), "some.key", skip, patch);
    let key_length = |length: u64| {
        let mut bytes = one_value("hello");
        bytes[24..32].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let array =
        |skip: usize, patch: &[u8]| patched(one_value(vec![1_u32, 2]), "some.key", 4 + skip, patch);
    let strings =
        |count: u64| patched(one_value(vec!["a".to_owned()]), "some.key", 8, &count.to_le_bytes());
    let alignment = |value: Value| GgufBuilder::new().metadata("general.alignment", value).build();
    let aligned = |value: u32| base().metadata("general.alignment", value).build();
    let odd_key = GgufBuilder::new().metadata("a\nkey", true).build();
    let twice = base().metadata("text", 1_u8).build();
    vec![
        accepted("arrays nested four deep", one_value(nested(4))),
        accepted(
            "empty arrays and strings",
            one_value(Array::Array(vec![Array::String(Vec::new())])),
        ),
        accepted(
            "a key of 65535 bytes",
            GgufBuilder::new().metadata(&"k".repeat(65_535), 1_u8).build(),
        ),
        accepted("alignment 1", aligned(1)),
        accepted("alignment 1 MiB", aligned(1 << 20)),
        refused("key length 0", key_length(0), "metadata key at byte 24 is empty"),
        refused(
            "key length -1",
            key_length(u64::MAX),
            "length of a metadata key at byte 24 is 18446744073709551615",
        ),
        refused(
            "key beyond the file",
            key_length(4000),
            "inside the metadata key: 4000 bytes are needed at byte 32",
        ),
        refused(
            "key of 65536 bytes",
            GgufBuilder::new().metadata(&"k".repeat(65_536), 1_u8).build(),
            "length of a metadata key at byte 24 is 65536, above the limit of 65535",
        ),
        refused(
            "key not UTF-8",
            patched(one_value("hello"), "some.", 0, b"\xff"),
            "metadata key is not UTF-8: byte 37 of",
        ),
        refused(
            "string not UTF-8",
            value(12 + 3, b"\xc3"),
            "value of \"some.key\" is not UTF-8: byte 55 of",
        ),
        refused(
            "string length -1",
            value(4, &[0xff; 8]),
            "inside the value of \"some.key\": 18446744073709551615",
        ),
        refused(
            "string one byte too long",
            value(4, &[6]),
            "inside the value of \"some.key\": 6 bytes are needed",
        ),
        refused(
            "value type 13",
            value(0, &[13]),
            "value type of \"some.key\" at byte 40 is 13, which is no GGUF",
        ),
        refused(
            "value type -1",
            value(0, &[0xff; 4]),
            "is 4294967295, which is no GGUF value type",
        ),
        refused(
            "element type 13",
            array(0, &[13]),
            "element type of \"some.key\" at byte 44 is 13",
        ),
        refused(
            "array length -1",
            array(4, &[0xff; 8]),
            "array length of \"some.key\" at byte 48 is 18446744073709551615",
        ),
        refused(
            "array length wraps",
            array(4, &(1_u64 << 62).to_le_bytes()),
            "at byte 48 is 4611686018427387904, but",
        ),
        refused(
            "array one too long",
            array(4, &[3]),
            "at byte 48 is 3, but the 8 bytes that follow",
        ),
        refused(
            "strings -1",
            strings(u64::MAX),
            "array length of \"some.key\" at byte 48 is 18446744073709551615",
        ),
        refused("strings one too many", strings(2), "at byte 48 is 2, but the 9 bytes that follow"),
        refused(
            "bool 2",
            patched(one_value(true), "some.key", 4, &[2]),
            "holds the boolean 2 at byte 44",
        ),
        refused(
            "arrays nested five deep",
            one_value(nested(5)),
            "array of \"some.key\" nests arrays deeper than 4",
        ),
        refused("arrays nested 10000 deep", nested_file(10_000), "nests arrays deeper than 4"),
        refused(
            "duplicate key",
            twice,
            "metadata key \"text\" at byte 201 stands in the file twice",
        ),
        refused(
            "message without raw control characters",
            patched(odd_key, "a\nkey", 4, &[2]),
            "value of \"a\\nkey\" holds the",
        ),
        refused(
            "alignment 0",
            alignment(Value::U32(0)),
            "general.alignment is 0; it must be a power of two",
        ),
        refused(
            "alignment 33",
            alignment(Value::U32(33)),
            "general.alignment is 33; it must be a power of two",
        ),
        refused(
            "alignment 2 MiB",
            alignment(Value::U32(2 << 20)),
            "general.alignment is 2097152; it must be",
        ),
        refused(
            "alignment 2^31",
            alignment(Value::U32(1 << 31)),
            "general.alignment is 2147483648; it must be",
        ),
        refused(
            "alignment as u64",
            alignment(Value::U64(32)),
            "\"general.alignment\" must hold a u32, but holds the u64 32",
        ),
        refused(
            "alignment as text",
            alignment(Value::from("32")),
            "must hold a u32, but holds the string \"32\"",
        ),
    ]
}

fn tensor_cases() -> Vec<Case> {
    let second = |skip, patch: &[u8]| patched(base().build(), "second", skip, patch);
    let number = |skip, value: u64| second(skip, &value.to_le_bytes());
    let name_length = |length: u64| {
        let mut bytes = base().build();
        let at = after(&bytes, "second") - 14;
        bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let duplicate = base().tensor_f32("first", &[1], &[1.0]).build();
    let mut cut = base().build();
    cut.pop();
    vec![
        accepted("four dimensions", one_tensor(&[2, 2, 2, 2], TensorType::F32)),
        accepted("a gap before a tensor", [number(DATA_OFFSET, 64), vec![0; 32]].concat()),
        refused(
            "no dimensions",
            one_tensor(&[], TensorType::F32),
            "tensor \"weight\" has 0 dimensions; 1 to 4",
        ),
        refused(
            "five dimensions",
            one_tensor(&[1; 5], TensorType::F32),
            "tensor \"weight\" has 5 dimensions",
        ),
        refused(
            "dimensions -1",
            second(DIMENSION_COUNT, &[0xff; 4]),
            "tensor \"second\" has 4294967295 dimensions",
        ),
        refused(
            "dimension 0",
            one_tensor(&[0], TensorType::F32),
            "\"weight\" has the shape [0]; no dimension may be 0",
        ),
        refused(
            "later dimension 0",
            number(DIMS + 8, 0),
            "tensor \"second\" has the shape [32, 0]; no dimension",
        ),
        refused(
            "dimension -1",
            number(DIMS + 8, u64::MAX),
            "shape [32, 18446744073709551615], which is more than",
        ),
        refused(
            "size wraps to 0",
            number(DIMS + 8, 1 << 59),
            "shape [32, 576460752303423488], which is more than",
        ),
        refused(
            "bytes wrap",
            one_tensor(&[1 << 62], TensorType::F32),
            "shape [4611686018427387904], which is more",
        ),
        refused(
            "two dimensions wrap",
            one_tensor(&[1 << 40, 1 << 40], TensorType::I8),
            "which is more than any file",
        ),
        refused(
            "partial block",
            number(DIMS, 48),
            "\"second\" has rows of 48 weights, which is no multiple of the 32",
        ),
        refused(
            "type 4",
            second(TYPE, &[4]),
            "tensor \"second\" has the type number 4, which this program",
        ),
        refused(
            "type -1",
            second(TYPE, &[0xff; 4]),
            "tensor \"second\" has the type number 4294967295",
        ),
        refused(
            "offset past the end",
            number(DATA_OFFSET, 96),
            "\"second\" needs 40 bytes at 96 bytes into the data",
        ),
        refused(
            "offset wraps",
            number(DATA_OFFSET, u64::MAX - 31),
            "40 bytes at 18446744073709551584 bytes into",
        ),
        refused(
            "one row too many",
            number(DIMS + 8, 3),
            "\"second\" needs 60 bytes at 32 bytes into the data, but",
        ),
        refused("last byte missing", cut, "but the file has 71 bytes of data; it is truncated"),
        refused(
            "offset misaligned",
            number(DATA_OFFSET, 4),
            "starts 4 bytes into the data, which is no multiple of",
        ),
        refused(
            "overlap",
            number(DATA_OFFSET, 0),
            "tensors \"first\" and \"second\" overlap at byte 320",
        ),
        refused("duplicate tensor", duplicate, "tensor \"first\" stands in the file twice"),
        refused("name length 0", name_length(0), "tensor name at byte 246 is empty"),
        refused(
            "name length -1",
            name_length(u64::MAX),
            "length of a tensor name at byte 246 is 18446744073709551615",
        ),
        refused(
            "name not UTF-8",
            patched(base().build(), "seco", 0, b"\xff"),
            "tensor name is not UTF-8: byte",
        ),
    ]
}

pub fn all_cases() -> Vec<Case> {
    [file_cases(), metadata_cases(), tensor_cases()].into_iter().flatten().collect()
}

#[test]
fn a_nested_file_is_what_the_builder_writes() {
    assert_eq!(nested_file(5), one_value(nested(5)));
}
