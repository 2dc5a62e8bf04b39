//! Compiles the wire format: Rust types and services, and the descriptor set that gRPC reflection
//! serves.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

const ROOT: &str = "proto";
const FILES: [&str; 2] =
    ["proto/skipstone/v1/control.proto", "proto/skipstone/v1/generation.proto"];

/// Messages that the admin port also gives as JSON, for its page.
const AS_JSON: [&str; 11] = [
    "ActivityTotals",
    "BridgeSpan",
    "DecodingAccount",
    "DraftArm",
    "GetActivityResponse",
    "GetServerResponse",
    "ModelInfo",
    "PhaseSeconds",
    "PlanActivity",
    "SkipSet",
    "StreamActivity",
];

/// Their fields of enumerations, and the function of `wire` that writes each.
const BY_NAME: [(&str, &str); 1] = [("StreamActivity.state", "state_name")];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;

    // `compile_fds` writes no descriptor set, so reflection's copy is written here.
    let directory =
        PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set; build with cargo")?);
    fs::write(
        directory.join("skipstone_descriptor_set.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    let mut builder = tonic_prost_build::configure();
    for message in AS_JSON {
        builder = builder
            .type_attribute(format!(".skipstone.v1.{message}"), "#[derive(serde::Serialize)]");
    }
    for (field, writer) in BY_NAME {
        let attribute = format!("#[serde(serialize_with = \"{writer}\")]");
        builder = builder.field_attribute(format!(".skipstone.v1.{field}"), attribute);
    }
    builder.compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
