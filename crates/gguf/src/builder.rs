//! GGUF files from values, for tests and tools.

use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, TensorType, Value};

/// Collects metadata and tensors and writes them as a GGUF file.
///
/// It writes what it is told and checks nothing, so that tests can write files that
/// [`super::Manifest::parse`] must refuse; with unique names, and data of the size that shape and
/// type call for, the file is valid. Data is placed in the order of the calls, each tensor aligned
/// as the key `general.alignment` says (default 32).
#[derive(Clone, Debug)]
pub struct GgufBuilder {
    version: u32,
    metadata: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    dims: Vec<u64>,
    kind: TensorType,
    data: Vec<u8>,
}

// === impl GgufBuilder ===

impl GgufBuilder {
    /// An empty file of version 3.
    pub fn new() -> Self {
        Self { version: 3, metadata: Vec::new(), tensors: Vec::new() }
    }

    /// Sets the version; 2 has the same layout as 3.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Adds a metadata entry.
    #[must_use]
    pub fn metadata(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.push((key.to_owned(), value.into()));
        self
    }

    /// Sets a metadata entry, in place of the one of this key.
    #[must_use]
    pub fn replace(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.retain(|(other, _)| other != key);
        self.metadata(key, value)
    }

    /// Adds a tensor; `dims` has the fastest dimension first, `data` is in the layout of `kind`.
    #[must_use]
    pub fn tensor(mut self, name: &str, dims: &[u64], kind: TensorType, data: Vec<u8>) -> Self {
        self.tensors.push(Tensor { name: name.to_owned(), dims: dims.to_vec(), kind, data });
        self
    }

    /// Adds an f32 tensor; `dims` has the fastest dimension first.
    #[must_use]
    pub fn tensor_f32(self, name: &str, dims: &[u64], weights: &[f32]) -> Self {
        let data = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        self.tensor(name, dims, TensorType::F32, data)
    }

    /// The file.
    pub fn build(&self) -> Vec<u8> {
        let alignment = self.alignment();
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        put_len(&mut file, self.tensors.len());
        put_len(&mut file, self.metadata.len());
        for (key, value) in &self.metadata {
            put_string(&mut file, key);
            file.extend(value.value_type().id().to_le_bytes());
            put_value(&mut file, value);
        }
        let mut data_offset = 0_usize;
        for tensor in &self.tensors {
            put_string(&mut file, &tensor.name);
            file.extend((tensor.dims.len() as u32).to_le_bytes());
            file.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            file.extend(tensor.kind.id().to_le_bytes());
            put_len(&mut file, data_offset);
            data_offset = (data_offset + tensor.data.len()).next_multiple_of(alignment);
        }
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(alignment), 0);
            file.extend(&tensor.data);
        }
        file
    }

    /// The alignment that a reader will find, or the default where it will find none that it can
    /// use.
    fn alignment(&self) -> usize {
        let named = self.metadata.iter().find_map(|(key, value)| match value {
            Value::U32(alignment) if key == ALIGNMENT_KEY && alignment.is_power_of_two() => {
                Some(*alignment)
            }
            _ => None,
        });
        named.map_or(DEFAULT_ALIGNMENT as usize, |alignment| alignment as usize)
    }
}

impl Default for GgufBuilder {
    fn default() -> Self {
        Self::new()
    }
}

fn put_len(file: &mut Vec<u8>, length: usize) {
    file.extend((length as u64).to_le_bytes());
}

fn put_string(file: &mut Vec<u8>, text: &str) {
    put_len(file, text.len());
    file.extend(text.as_bytes());
}

fn put_value(file: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(number) => file.extend(number.to_le_bytes()),
        Value::I8(number) => file.extend(number.to_le_bytes()),
        Value::U16(number) => file.extend(number.to_le_bytes()),
        Value::I16(number) => file.extend(number.to_le_bytes()),
        Value::U32(number) => file.extend(number.to_le_bytes()),
        Value::I32(number) => file.extend(number.to_le_bytes()),
        Value::F32(number) => file.extend(number.to_le_bytes()),
        Value::Bool(flag) => file.push(u8::from(*flag)),
        Value::String(text) => put_string(file, text),
        Value::Array(array) => put_array(file, array),
        Value::U64(number) => file.extend(number.to_le_bytes()),
        Value::I64(number) => file.extend(number.to_le_bytes()),
        Value::F64(number) => file.extend(number.to_le_bytes()),
    }
}

fn put_array(file: &mut Vec<u8>, array: &Array) {
    file.extend(array.element_type().id().to_le_bytes());
    put_len(file, array.len());
    match array {
        Array::U8(numbers) => file.extend(numbers),
        Array::I8(numbers) => file.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::U16(numbers) => file.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::I16(numbers) => file.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::U32(numbers) => file.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::I32(numbers) => file.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::F32(numbers) => file.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::Bool(flags) => file.extend(flags.iter().map(|&flag| u8::from(flag))),
        Array::String(texts) => texts.iter().for_each(|text| put_string(file, text)),
        Array::Array(arrays) => arrays.iter().for_each(|array| put_array(file, array)),
        Array::U64(numbers) => file.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::I64(numbers) => file.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
        Array::F64(numbers) => file.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout by hand, so that a mistake shared by builder and reader is seen.
    #[test]
    fn writes_the_layout_of_the_format() {
        let file = GgufBuilder::new()
            .metadata("k", "hi")
            .tensor("t", &[2, 1], TensorType::I8, vec![0xaa, 0xbb])
            .tensor("u", &[1], TensorType::I8, vec![0xcc])
            .build();
        let mut expected = Vec::new();
        expected.extend(b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0k\x08\0\0\0\x02\0\0\0\0\0\0\0hi");
        expected.extend(b"\x01\0\0\0\0\0\0\0t\x02\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0");
        expected.extend(b"\x18\0\0\0\0\0\0\0\0\0\0\0");
        expected
            .extend(b"\x01\0\0\0\0\0\0\0u\x01\0\0\0\x01\0\0\0\0\0\0\0\x18\0\0\0\x20\0\0\0\0\0\0\0");
        assert_eq!(expected.len(), 121);
        expected.resize(128, 0); // the next multiple of 32
        expected.extend([0xaa, 0xbb]);
        expected.resize(160, 0);
        expected.push(0xcc);
        assert_eq!(file, expected);
    }
}
