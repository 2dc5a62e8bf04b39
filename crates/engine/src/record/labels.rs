//! The values that the labels of metrics can take: few, known, and none of a request's own.

use super::catalogue::Metric;
use crate::drafting::{POLICIES, policy};

/// Draft positions that are told apart; those beyond count at the last. Drafts are limited to half
/// as many.
pub const POSITIONS: usize = 32;

/// Layers that are told apart; those beyond count at the last. Models of more are not known.
pub const LAYERS: usize = 512;

/// The values that a label can have.
#[derive(Clone, Copy, Debug)]
pub enum Values {
    /// One of these words; each with what it means.
    Words(&'static [(&'static str, &'static str)]),
    /// A number below this one.
    Below(usize, &'static str),
    /// One value, which the process has from its start on.
    Fixed(&'static str),
    /// The name of a policy of the registry, or [`OTHER_POLICY`].
    Policies,
}

/// The label of policies that are not in the registry, such as those of programs that embed the
/// engine.
pub const OTHER_POLICY: &str = "other";

/// Values of `reason`, where generations ended. The first three are the wire's `FinishReason`.
const ENDINGS: Values = Values::Words(&[
    ("end_of_sequence", "the model's own end"),
    ("stop", "a stop string or token of the request"),
    ("length", "`max_new_tokens`"),
    ("cancelled", "the client left"),
    ("deadline", "the deadline passed"),
    ("stalled", "the client did not read"),
    ("shutdown", "the server ended"),
    ("error", "a fault of the server"),
]);

/// Values of `reason`, where nothing was drafted.
const OFF_REASONS: Values = Values::Words(&[
    ("request", "the request or the default said so"),
    ("no_gain", "no bet looked better"),
    ("length", "no room for a draft"),
    ("baseline", "it was time to measure a plain step"),
    ("backend", "the backend can't draft"),
]);

const METHODS: Values = Values::Words(&[
    ("Generate", "gRPC"),
    ("GenerateStream", "gRPC"),
    ("Tokenize", "gRPC"),
    ("ChatCompletions", "OpenAI-compatible HTTP"),
    ("Completions", "OpenAI-compatible HTTP"),
    ("Models", "OpenAI-compatible HTTP"),
]);

/// gRPC's own names; requests over HTTP count under the code that a gRPC call would have got.
pub const CODES: Values = Values::Words(&[
    ("OK", "answered"),
    ("CANCELLED", "the client left"),
    ("UNKNOWN", ""),
    ("INVALID_ARGUMENT", "a field can't be accepted"),
    ("DEADLINE_EXCEEDED", "the deadline passed"),
    ("NOT_FOUND", "another model is served"),
    ("ALREADY_EXISTS", ""),
    ("PERMISSION_DENIED", ""),
    ("RESOURCE_EXHAUSTED", "the queue is full, or the client did not read"),
    ("FAILED_PRECONDITION", ""),
    ("ABORTED", "the client was too slow to send its request"),
    ("OUT_OF_RANGE", "the message is too long"),
    ("UNIMPLEMENTED", ""),
    ("INTERNAL", "a fault of the server"),
    ("UNAVAILABLE", "the server ends"),
    ("DATA_LOSS", ""),
    ("UNAUTHENTICATED", ""),
]);

/// The values that a label of `metric` can have; `None` for one that nobody has described yet,
/// which a test refuses.
pub fn values(metric: &Metric, label: &str) -> Option<Values> {
    Some(match (metric.name, label) {
        ("skipstone_request_finished_total", "reason") => ENDINGS,
        (_, "reason") => OFF_REASONS,
        (_, "method") => METHODS,
        (_, "code") => CODES,
        (_, "source") => Values::Words(&[
            ("layer_skip", "drafts of the model's own layers"),
            ("ngram", "repetition in the stream's own text"),
        ]),
        (_, "position") => Values::Below(POSITIONS, "place in the draft"),
        (_, "layer") => Values::Below(LAYERS, "layer of the model"),
        (_, "kind") => Values::Words(&[("attention", ""), ("mlp", "")]),
        (_, "policy") => Values::Policies,
        (_, "version") => Values::Fixed("of the binary"),
        (_, "model") => Values::Fixed("the name that the model is served under"),
        (_, "instruction_set") => Values::Fixed("what the kernels were chosen for"),
        _ => return None,
    })
}

// === impl Values ===

impl Values {
    /// Number of possible values.
    pub fn count(self) -> usize {
        match self {
            Self::Words(words) => words.len(),
            Self::Below(end, _) => end,
            Self::Fixed(_) => 1,
            Self::Policies => POLICIES.len() + 1,
        }
    }

    /// Whether `value` can be one.
    pub fn contains(self, value: &str) -> bool {
        match self {
            Self::Words(words) => words.iter().any(|(word, _)| *word == value),
            Self::Below(end, _) => value.parse::<usize>().is_ok_and(|number| number < end),
            Self::Fixed(_) => true,
            Self::Policies => policy(value).is_some() || value == OTHER_POLICY,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::adapt::OffReason;
    use crate::drafting::SkipSet;
    use crate::record::catalogue::ALL;
    use crate::record::testing::render;
    use crate::record::{self, BuildInfo, DraftCycle, DraftSource, Instruments};
    use crate::{FinishReason, GenerationError};
    use skipstone_model::TokenId;
    use skipstone_model::sublayer::sublayers;

    /// The samples of a page by name, histograms left out: name, then each set of labels.
    fn series(page: &str) -> BTreeMap<&str, Vec<Vec<(&str, &str)>>> {
        let mut found: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, rest)) = line.split_once('{') else { continue };
            let Some((labels, _)) = rest.rsplit_once('}') else { continue };
            let pairs = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
            found
                .entry(name)
                .or_default()
                .push(pairs.map(|(label, value)| (label, value.trim_end_matches('"'))).collect());
        }
        found
    }

    /// Every reason that the engine gives.
    fn endings() -> Vec<&'static str> {
        let reasons = [
            FinishReason::EndOfSequence,
            FinishReason::StopString("x".to_owned()),
            FinishReason::StopToken(TokenId(1)),
            FinishReason::Length,
        ];
        let errors = [
            GenerationError::DeadlineExceeded { committed: 0, wanted: 1 },
            GenerationError::ReaderStalled { seconds: 1 },
            GenerationError::ShuttingDown,
            GenerationError::Internal("x".to_owned()),
        ];
        reasons
            .iter()
            .map(FinishReason::name)
            .chain(errors.iter().map(GenerationError::reason))
            .collect()
    }

    #[test]
    fn every_label_says_what_its_values_are() {
        let missing: Vec<_> = ALL
            .iter()
            .flat_map(|metric| metric.labels.iter().map(move |label| (metric, label)))
            .filter(|(metric, label)| values(metric, label).is_none())
            .map(|(metric, label)| format!("{}{{{label}}}", metric.name))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn no_value_is_beyond_the_known_ones_whatever_is_recorded() {
        let page = render(|| {
            let instruments = Instruments::new();
            for drafted in [0, 1, 17, 33, 100_000, usize::MAX] {
                for source in DraftSource::ALL {
                    let cycle = DraftCycle { source, drafted, accepted: drafted };
                    instruments.draft_cycle("adaptive", &cycle);
                    instruments.draft_cycle("a stranger's", &cycle);
                }
                instruments.draft_chain(drafted, drafted);
            }
            let layers: Vec<u32> = (1..4999).collect();
            instruments.sublayers_skipped(&SkipSet::new(&layers, &layers, 5000).unwrap(), 1);
            for reason in endings() {
                record::request_finished(reason);
            }
            record::build_info(&BuildInfo { model: "a\"b\nc{}=,\\", instruction_set: "avx2" });
        });
        let found = series(&page);
        let mut wrong = Vec::new();
        for metric in ALL.iter().filter(|metric| !metric.labels.is_empty()) {
            let known = |label: &str| values(metric, label).unwrap();
            let most: usize = metric.labels.iter().map(|label| known(label).count()).product();
            let sets = found.get(metric.name).map_or(&[][..], Vec::as_slice);
            if sets.len() > most {
                wrong.push(format!("{} has {} series, {most} are known", metric.name, sets.len()));
            }
            for (label, value) in sets.iter().flatten() {
                if !known(label).contains(value) {
                    wrong.push(format!("{}: {label} is {value}", metric.name));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        for reason in OffReason::ALL {
            assert!(OFF_REASONS.contains(reason.name()), "{reason:?}");
        }
        let positions = &found["skipstone_spec_decode_num_draft_tokens_per_pos_total"];
        assert_eq!(positions.len(), POSITIONS, "the inverse: without a bound there would be more");
        assert_eq!(found["skipstone_spec_decode_sublayer_skipped_total"].len(), sublayers(LAYERS));
    }
}
