//! Any bytes: the GGUF reader may refuse them, but must not panic, and what it accepts must hold
//! its promises.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skipstone::gguf::Manifest;

fuzz_target!(|bytes: &[u8]| {
    let manifest = match Manifest::parse(bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control), "{error:?} can't be logged");
            return;
        }
    };
    let mut ranges = Vec::new();
    for tensor in manifest.tensors() {
        assert_eq!(tensor.kind.bytes_for(tensor.element_count()), Some(tensor.byte_len));
        assert_eq!(tensor.offset % manifest.alignment(), 0);
        assert_eq!(manifest.tensor(&tensor.name), Some(tensor));
        let start = usize::try_from(tensor.offset).expect("inside the file");
        let length = usize::try_from(tensor.byte_len).expect("inside the file");
        assert_eq!(bytes[start..][..length].len(), length);
        ranges.push(start..start + length);
    }
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "tensors overlap: \
        {ranges:?}");
    for (key, _) in manifest.metadata().iter() {
        // Each getter may refuse the value; none may panic.
        let metadata = manifest.metadata();
        let _ = (metadata.string(key), metadata.u32(key), metadata.u64(key), metadata.f32(key));
        let _ = (metadata.bool(key), metadata.strings(key), metadata.i32s(key), metadata.f32s(key));
    }
});
