//! The survey of a model as a table for people.

use std::fmt;

use super::packing::{PackedForm, PackingSurvey};
use super::survey::{Part, PartSurvey, Survey};

/// Prints a survey.
pub(super) struct Table<'a>(pub(super) &'a Survey);

/// Bytes in the unit that people read.
struct Bytes(u64);

// === impl Table ===

impl fmt::Display for Table<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let survey = self.0;
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        let heads = survey.attention_heads.map(|heads| match survey.key_value_heads {
            Some(shared) => format!("{heads} (keys and values: {shared})"),
            None => heads.to_string(),
        });
        let layers = survey.layers.zip(survey.sublayers).map(|(layers, sublayers)| match layers {
            // The first and the last always run.
            0..3 => format!("{layers} ({sublayers} sublayers; none can be skipped)"),
            _ => format!(
                "{layers} ({sublayers} sublayers; a draft may skip those of layers 1 to {})",
                layers - 2
            ),
        });
        for (fact, value) in [
            ("file", Some(survey.path.clone())),
            ("name", survey.name.clone()),
            ("architecture", survey.architecture.clone()),
            ("layers", layers),
            ("context length", number(survey.context_length)),
            ("embedding length", number(survey.embedding_length)),
            ("feed-forward length", number(survey.feed_forward_length)),
            ("attention heads", heads),
            ("vocabulary", number(survey.vocabulary)),
            ("tokenizer", survey.tokenizer.clone()),
            ("chat template", Some(if survey.has_chat_template { "yes" } else { "no" }.to_owned())),
            ("parameters", Some(format!("{:.1} million", survey.parameters as f64 / 1e6))),
            ("weights", Some(Bytes(survey.bytes).to_string())),
        ] {
            writeln!(formatter, "{fact:<20} {}", value.as_deref().unwrap_or("not stated"))?;
        }
        writeln!(formatter)?;
        writeln!(
            formatter,
            "{:<12} {:>7} {:>12} {:>7}  types",
            "part", "tensors", "bytes", "share"
        )?;
        survey.parts.iter().try_for_each(|part| write_part(formatter, part))?;
        writeln!(formatter)?;
        let header = ["matrices", "tensors", "bytes", "in memory"];
        writeln!(
            formatter,
            "{:<12} {:>7} {:>12} {:>12}  form",
            header[0], header[1], header[2], header[3]
        )?;
        survey.packing.iter().try_for_each(|packing| write_packing(formatter, packing))
    }
}

fn write_packing(formatter: &mut fmt::Formatter<'_>, survey: &PackingSurvey) -> fmt::Result {
    let PackingSurvey { kind, tensors, bytes, packed } = survey;
    let bytes = Bytes(*bytes).to_string();
    write!(formatter, "{kind:<12} {tensors:>7} {bytes:>12} ")?;
    let Some(packed) = packed else {
        return writeln!(formatter, "{:>12}  no kernel: can't be loaded", "-");
    };
    let PackedForm { columns_per_tile, activations, bytes, instruction_set } = packed;
    let bytes = Bytes(*bytes).to_string();
    writeln!(
        formatter,
        "{bytes:>12}  tiles of {columns_per_tile} columns, {instruction_set}, inputs: {activations}"
    )
}

fn write_part(formatter: &mut fmt::Formatter<'_>, part: &PartSurvey) -> fmt::Result {
    let name = match part.part {
        Part::Embedding => "embedding",
        Part::Attention => "attention",
        Part::Mlp => "MLP",
        Part::Head => "head",
        Part::Other => "other",
    };
    let types: Vec<&str> = part.types.keys().map(String::as_str).collect();
    let (tensors, bytes, share) = (part.tensors, Bytes(part.bytes).to_string(), part.share * 100.0);
    writeln!(formatter, "{name:<12} {tensors:>7} {bytes:>12} {share:>5.1} %  {}", types.join(", "))
}

// === impl Bytes ===

impl fmt::Display for Bytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0..1_000 => write!(formatter, "{bytes} B"),
            bytes @ 1_000..1_000_000 => write!(formatter, "{:.1} kB", bytes as f64 / 1e3),
            bytes @ 1_000_000..1_000_000_000 => write!(formatter, "{:.1} MB", bytes as f64 / 1e6),
            bytes => write!(formatter, "{:.2} GB", bytes as f64 / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::survey::testing::survey;
    use super::*;
    use skipstone_kernels::Isa;

    #[test]
    fn the_table_names_facts_and_parts() {
        let table = Table(&survey()).to_string();
        // Five matrices of two inputs, each a tile of sixteen columns.
        let isa = Isa::detect().name();
        let packing = format!(
            "F32                5        120 B        640 B  tiles of 16 columns, {isa}, inputs: 32-bit floats"
        );
        for line in [
            "architecture         llama",
            "layers               2 (4 sublayers; none can be skipped)",
            "attention heads      not stated",
            "attention          4         48 B  32.4 %  F32",
            "MLP                2         48 B  32.4 %  F32",
            &packing,
        ] {
            assert!(table.lines().any(|found| found == line), "no {line:?} in\n{table}");
        }
    }

    #[test]
    fn bytes_have_units() {
        for (bytes, text) in
            [(999, "999 B"), (1_500, "1.5 kB"), (98_362_432, "98.4 MB"), (1_120_000_000, "1.12 GB")]
        {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
