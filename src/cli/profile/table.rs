//! A profile as a table for people.

use std::fmt;

use skipstone_engine::adapt::{Profile, ProfilePlan};
use skipstone_model::sublayer::{SublayerKind, kind_of, sublayers};

/// Prints a profile.
pub(in crate::cli) struct Table<'a>(pub(in crate::cli) &'a Profile);

/// Characters of the relevance line, from worst to best.
const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

// === impl Table ===

impl fmt::Display for Table<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = self.0;
        let model = &profile.model;
        let short = model.fingerprint.get(..12).unwrap_or(&model.fingerprint);
        writeln!(
            formatter,
            "{}, fingerprint {short}, {} tokens of its own text",
            model.name, profile.tokens
        )?;
        for (name, kind) in [("attention", SublayerKind::Attention), ("MLP", SublayerKind::Mlp)] {
            let relevances = profile.relevance.iter().enumerate();
            let of_kind = relevances.filter(|&(index, _)| kind_of(index) == kind);
            let line: String = of_kind.map(|(_, relevance)| relevance.map_or('·', level)).collect();
            writeln!(formatter, "agreement without the {name:<9} of each layer  {line}")?;
        }
        let (header, widths) = ("plan", 40);
        writeln!(
            formatter,
            "\n{header:<widths$} {:>7} {:>6} {:>6} {:>10} {:>10} {:>5} {:>9} {:>8}",
            "skipped", "cost", "first", "acceptance", "vocabulary", "draft", "threshold", "speedup"
        )?;
        profile.plans.iter().try_for_each(|plan| write_plan(formatter, profile, plan))
    }
}

fn write_plan(
    formatter: &mut fmt::Formatter<'_>,
    profile: &Profile,
    plan: &ProfilePlan,
) -> fmt::Result {
    let all = sublayers(profile.model.layers);
    let skipped = 100.0 * plan.skipped.len() as f64 / all.max(1) as f64;
    let first = plan.prior.positions.first().map_or(0.0, |count| count.rate());
    writeln!(
        formatter,
        "{:<40} {skipped:>5.0} % {:>6.3} {first:>6.3} {:>10.3} {:>10} {:>5} {:>9.1} {:>8.2}",
        plan.name,
        plan.cost,
        plan.acceptance(),
        plan.draft_vocabulary,
        plan.max_draft_tokens,
        plan.confidence_threshold,
        plan.speedup
    )
}

/// Agreement from 0.6 down to 1 up; below 0.6 all is bad.
fn level(relevance: f32) -> char {
    let place = ((relevance - 0.6) / 0.4 * LEVELS.len() as f32).max(0.0) as usize;
    LEVELS[place.min(LEVELS.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use skipstone_engine::adapt::Profile;

    #[test]
    fn the_table_has_a_line_for_each_plan() {
        let table = Table(&Profile::example()).to_string();
        for words in [
            "m.gguf, fingerprint 0f0f0f0f0f0f, 1000 tokens",
            "agreement without the MLP       of each layer  ·▁▄█·",
            "layers 1-2, rank 2                          40 %  0.500  0.800      0.700",
        ] {
            assert!(table.contains(words), "no {words:?} in\n{table}");
        }
    }
}
