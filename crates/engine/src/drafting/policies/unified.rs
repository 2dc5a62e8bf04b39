//! The `unified` policy: evenly spaced layers, enough of them to reach a target cost. It knows
//! nothing about the model and is the plan to start from, and the baseline that others must beat.

use crate::drafting::plan::DraftPlan;
use crate::drafting::registry::PolicyEntry;
use crate::drafting::skip_set::SkipSet;

use super::fixed::Fixed;
use skipstone_model::sublayer;

/// Evenly spaced layers, whatever the settings list.
pub static ENTRY: PolicyEntry = PolicyEntry {
    name: "unified",
    about: "evenly spaced layers skipped, as many as speculation.target_speedup asks for",
    takes_skip_set: false,
    start: |setup| {
        let weights = setup.model.weights();
        let bytes: Vec<usize> = (0..setup.model.config().sublayers())
            .map(|index| weights.sublayer_bytes(index))
            .collect();
        let skip_set = unified(&bytes, weights.head_bytes(), setup.target_speedup);
        Fixed::boxed(DraftPlan::skipping(&skip_set, setup.confidence_threshold))
    },
};

/// Skips evenly spaced layers, attention and MLP both, until a draft step reads at most `1 /
/// target_speedup` of the bytes of a plain step, or all inner layers are skipped. `sublayer_bytes`
/// has one entry for each sublayer; `head_bytes` are always read.
pub fn unified(sublayer_bytes: &[usize], head_bytes: usize, target_speedup: f32) -> SkipSet {
    let layer_count = sublayer::layers(sublayer_bytes.len());
    let total = (sublayer_bytes.iter().sum::<usize>() + head_bytes) as f64;
    let inner: Vec<u32> = (1..layer_count.saturating_sub(1) as u32).collect();
    let mut chosen = Vec::new();
    for count in 0..=inner.len() {
        // The middle of each of `count` equal parts.
        chosen =
            (0..count).map(|index| inner[(2 * index + 1) * inner.len() / (2 * count)]).collect();
        let bytes_of = |&layer: &u32| -> usize {
            let layer = layer as usize;
            sublayer_bytes[sublayer::of_layers(layer..layer + 1)].iter().sum()
        };
        let skipped: usize = chosen.iter().map(bytes_of).sum();
        if (total - skipped as f64) * f64::from(target_speedup) <= total {
            break;
        }
    }
    // Inner layers only, each once: valid by construction; the empty set is the harmless answer to
    // a bug here.
    SkipSet::new(&chosen, &chosen, layer_count).unwrap_or_else(|_| SkipSet::empty(layer_count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches_the_target_with_evenly_spaced_layers() {
        let bytes = [1, 3].repeat(20);
        for target in [1.0_f32, 1.2, 1.5, 2.0, 3.0] {
            let set = unified(&bytes, 10, target);
            assert_eq!(set.attention(), set.mlp());
            let skipped: Vec<u16> = set.mlp().iter().map(|layer| layer.0).collect();
            let kept = 90 - 4 * skipped.len();
            assert!(kept as f32 * target <= 90.0, "target {target}: {kept} of 90 bytes");
            let gaps: Vec<u16> = skipped.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let (least, most) = (gaps.iter().min(), gaps.iter().max());
            assert!(least.is_none() || most.unwrap() - least.unwrap() <= 1, "{skipped:?}");
        }
        assert!(unified(&bytes, 10, 1.0).is_empty());
    }

    #[test]
    fn an_unreachable_target_skips_all_inner_layers() {
        let set = unified(&[1; 12], 100, 5.0);
        assert_eq!((set.attention().len(), set.mlp().len()), (4, 4));
        assert!(unified(&[1; 4], 0, 5.0).is_empty(), "two layers are both edges");
    }
}
