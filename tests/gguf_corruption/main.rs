//! Promise: a damaged or hostile model file is refused with an error that says what is wrong, and
//! never panics; a sound one is read back exactly.
#![allow(clippy::panic)] // helpers of tests fail as tests do

mod cases;
#[path = "../common/model_path.rs"]
mod model_path;
mod reading;

use std::path::Path;

use proptest::prelude::*;
use skipstone::gguf::Manifest;

use cases::{Case, DATA_OFFSET, DIMS, TYPE, after, all_cases, base, nested};

/// With SKIPSTONE_WRITE_SEEDS set to a folder, the files are also written there, as seeds for
/// fuzzing.
#[test]
fn each_kind_of_damage_has_its_own_error() {
    let mut failures = Vec::new();
    for Case { name, bytes, refusal } in all_cases() {
        let outcome = Manifest::parse(&bytes).map(|manifest| broken_promises(&manifest, &bytes));
        match (outcome, refusal) {
            (Ok(broken), None) => {
                failures.extend(broken.into_iter().map(|promise| format!("{name}: {promise}")))
            }
            (Ok(_), Some(_)) => failures.push(format!("{name}: was accepted")),
            (Err(error), None) => failures.push(format!("{name}: was refused: {error}")),
            (Err(error), Some(message)) if !error.to_string().contains(message) => {
                failures.push(format!("{name}: {error}\n    should say: {message}"));
            }
            (Err(_), Some(_)) => {}
        }
        // The few long files are about limits; as seeds they would slow the fuzzer down.
        if let Some(folder) =
            std::env::var_os("SKIPSTONE_WRITE_SEEDS").filter(|_| bytes.len() < 100_000)
        {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(Path::new(&folder).join(name.replace(' ', "-")), &bytes).unwrap();
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Broken promises of [`Manifest::parse`] about a file that it accepted, found by other means than
/// its own.
pub fn broken_promises(manifest: &Manifest, bytes: &[u8]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut used = vec![false; bytes.len()];
    for tensor in manifest.tensors() {
        let mut require = |holds: bool, promise: &str| {
            if !holds {
                broken.push(format!("{promise}: {tensor:?}"));
            }
        };
        let weights: u128 = tensor.dims.iter().map(|&dim| u128::from(dim)).product();
        let expected =
            weights / tensor.kind.block_len() as u128 * tensor.kind.block_bytes() as u128;
        require(u128::from(tensor.byte_len) == expected && expected > 0, "size fits the shape");
        require(tensor.dims[0] % tensor.kind.block_len() as u64 == 0, "rows are whole blocks");
        require(tensor.offset % manifest.alignment() == 0, "data is aligned");
        require(manifest.tensor(&tensor.name) == Some(tensor), "found by its name");
        match used.get_mut(tensor.offset as usize..(tensor.offset + tensor.byte_len) as usize) {
            Some(range) => {
                require(!range.contains(&true), "no byte is shared");
                range.fill(true);
            }
            None => require(false, "data is inside the file"),
        }
    }
    broken
}

#[test]
fn a_file_cut_anywhere_is_called_truncated() {
    let bytes = base().build();
    let mut failures = Vec::new();
    for length in 0..bytes.len() {
        match Manifest::parse(&bytes[..length]).map_err(|error| error.to_string()) {
            Err(error) if error.contains("truncated") => {}
            other => failures.push(format!("cut to {length} bytes: {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_file_cut_between_two_fields_names_the_missing_one() {
    let bytes = base().build();
    let [text, first, second] = ["text", "first", "second"].map(|name| after(&bytes, name));
    let cases = [
        (4, "ends inside the version: 4 bytes are needed at byte 4, 0 are left"),
        (8, "ends inside the tensor count: 8 bytes are needed at byte 8"),
        (16, "tensor count at byte 8 is 2, but the 0 bytes that follow can't hold so many"),
        (text - 4, "ends inside the metadata key: 4 bytes are needed"),
        (text, "ends inside the value type of \"text\": 4 bytes are needed"),
        (text + 4, "ends inside the value of \"text\": 8 bytes are needed"),
        (text + 12, "ends inside the value of \"text\": 5 bytes are needed"),
        (text + 17, "ends inside the tensor name: 8 bytes are needed"),
        (first, "ends inside the dimension count of \"first\": 4 bytes are needed"),
        (first + DIMS, "ends inside the shape of \"first\": 8 bytes are needed"),
        (first + DIMS + 8, "ends inside the shape of \"first\": 8 bytes are needed"),
        (first + TYPE, "ends inside the tensor type of \"first\": 4 bytes are needed"),
        (second + DATA_OFFSET, "ends inside the data offset of \"second\": 8 bytes are needed"),
        (
            second + DATA_OFFSET + 8,
            "tensor \"first\" needs 32 bytes at 0 bytes into the data, but the file has 0",
        ),
    ];
    let mut failures = Vec::new();
    for (length, message) in cases {
        let outcome = Manifest::parse(&bytes[..length]).map_err(|error| error.to_string());
        if !outcome.as_ref().is_err_and(|error| error.contains(message)) {
            failures.push(format!("cut to {length} bytes: {outcome:?}\n    should say: {message}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn any_one_changed_byte_is_survived() {
    let sound = base().metadata("general.alignment", 32_u32).metadata("nested", nested(3)).build();
    let (mut accepted, mut refused) = (0, 0);
    for index in 0..sound.len() {
        for change in 1..=u8::MAX {
            let mut bytes = sound.clone();
            bytes[index] ^= change;
            match Manifest::parse(&bytes) {
                Ok(manifest) => {
                    accepted += 1;
                    assert_eq!(
                        broken_promises(&manifest, &bytes),
                        [""; 0],
                        "byte {index} ^ {change}"
                    );
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(accepted > 10_000 && refused > 10_000, "{accepted} accepted, {refused} refused");
}

proptest! {
    #[test]
    fn random_damage_is_survived(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..16),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = base().build();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(manifest) = Manifest::parse(&bytes) {
            prop_assert_eq!(broken_promises(&manifest, &bytes), [""; 0]);
        }
    }

    #[test]
    fn random_bytes_are_survived(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tail);
        if let Ok(manifest) = Manifest::parse(&bytes) {
            prop_assert_eq!(broken_promises(&manifest, &bytes), [""; 0]);
        }
    }
}
