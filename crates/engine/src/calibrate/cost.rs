//! What a draft step costs, measured in plain steps.

use std::ops::Range;
use std::sync::Arc;

use super::CalibrationError;
use super::candidate::Candidate;
use super::evaluate::CHAIN;
use super::search::RANKS;
use skipstone_model::sublayer::{self, SublayerKind, kind_of, of_layers};
use skipstone_model::{
    Bridge, DraftHead, DraftVocabulary, LogitsWanted, PageLease, PagePool, RowGroup, RowInput,
    Runner, SkipMask, TokenId,
};

/// Context that passes are timed at, in positions.
const CONTEXT: usize = 256;

/// Measurements of each kind, interleaved. The quickest counts: a pass can be interrupted, but not
/// be done sooner.
const REPEATS: usize = 25;

/// Shares of a plain step, and what passes over several rows cost.
#[derive(Clone, Debug)]
pub(super) struct CostModel {
    /// One attention sublayer / a plain step.
    attention: f64,
    /// One MLP sublayer / a plain step.
    mlp: f64,
    /// The whole head / a plain step.
    head: f64,
    /// Bridges by rank, ascending, 0 among them: what one takes / a plain step.
    bridges: Vec<(usize, f64)>,
    /// A pass over r rows / a pass over one; entry 0 is not used.
    pub(super) rows: [f64; CHAIN + 2],
}

/// One way to make a pass over rows at the end of the context.
#[derive(Clone, Copy)]
struct Way<'a> {
    rows: usize,
    skip: Option<&'a SkipMask>,
    bridges: &'a [Arc<Bridge>],
    logits: LogitsWanted<'a>,
}

/// Pages that measuring needs.
pub(super) fn pages() -> usize {
    PagePool::pages_for(CONTEXT + CHAIN + 1)
}

// === impl CostModel ===

impl CostModel {
    pub(super) fn measure(runner: &mut Runner, pool: &PagePool) -> Result<Self, CalibrationError> {
        let lease = pool.lease(CONTEXT + CHAIN + 1).ok_or(CalibrationError::Pages)?;
        let sublayers = runner.model().config().sublayers();
        let layers = runner.model().config().layers;
        let inner: Range<usize> = of_layers(1..layers.saturating_sub(1));
        let without = |kind: SublayerKind| {
            SkipMask::new(
                (0..sublayers).map(|s| inner.contains(&s) && kind_of(s) == kind).collect(),
            )
        };
        let (no_attention, no_mlp) = (without(SublayerKind::Attention), without(SublayerKind::Mlp));
        let span = of_layers(1..2);
        let no_layer = SkipMask::new((0..sublayers).map(|s| span.contains(&s)).collect());
        let hidden = runner.model().config().hidden;
        let ranks: Vec<usize> =
            std::iter::once(0).chain(RANKS).filter(|&rank| rank <= hidden / 2).collect();
        // What the maps hold doesn't matter for the time.
        let bridge = |&rank: &usize| -> Result<[Arc<Bridge>; 1], CalibrationError> {
            let (down, up) = (vec![0.0; 2 * rank * hidden], vec![0.0; rank * hidden]);
            Ok([Arc::new(Bridge::new(span.clone(), hidden, vec![0.0; hidden], &down, &up)?)])
        };
        let bridges = ranks.iter().map(bridge).collect::<Result<Vec<_>, _>>()?;
        let plain = Way { rows: 1, skip: None, bridges: &[], logits: LogitsWanted::All };
        let mut ways = vec![
            plain,
            Way { logits: LogitsWanted::None, ..plain },
            Way { skip: Some(&no_attention), ..plain },
            Way { skip: Some(&no_mlp), ..plain },
        ];
        ways.extend((2..CHAIN + 2).map(|rows| Way { rows, ..plain }));
        let identity = ways.len();
        ways.push(Way { skip: Some(&no_layer), ..plain });
        ways.extend(bridges.iter().map(|bridges| Way { skip: Some(&no_layer), bridges, ..plain }));
        let seconds = time(runner, &lease, &ways);
        let share = |way: usize| (1.0 - seconds[way] / seconds[0]).clamp(0.0, 1.0);
        let layers = sublayer::layers(inner.len()).max(1) as f64;
        let mut rows = [1.0; CHAIN + 2];
        for (count, ratio) in rows.iter_mut().enumerate().skip(2) {
            *ratio = (seconds[count + 2] / seconds[0]).max(1.0);
        }
        // A higher rank never takes less.
        let mut least = 0.0_f64;
        let bridges = ranks.into_iter().zip(&seconds[identity + 1..]).map(|(rank, bridged)| {
            least = least.max((bridged - seconds[identity]) / seconds[0]);
            (rank, least)
        });
        let bridges = bridges.collect();
        Ok(Self {
            attention: share(2) / layers,
            mlp: share(3) / layers,
            head: share(1),
            bridges,
            rows,
        })
    }

    /// The estimated cost of a draft step with a head over `vocabulary_share` of the vocabulary.
    pub(super) fn estimate(&self, candidate: &Candidate, vocabulary_share: f64) -> f64 {
        let sublayer = |sublayer: usize| match kind_of(sublayer) {
            SublayerKind::Attention => self.attention,
            SublayerKind::Mlp => self.mlp,
        };
        let skipped: f64 = candidate.skipped().into_iter().map(sublayer).sum();
        let bridges = candidate.gaps.iter().filter_map(|gap| gap.bridge.as_ref());
        let bridges: f64 = bridges.map(|bridge| self.bridge(bridge.rank())).sum();
        (1.0 - skipped - self.head * (1.0 - vocabulary_share) + bridges).max(0.01)
    }

    /// A bridge of this rank: what the next higher rank that was measured takes.
    fn bridge(&self, rank: usize) -> f64 {
        let measured =
            self.bridges.iter().find(|(measured, _)| *measured >= rank).or(self.bridges.last());
        measured.map_or(0.0, |(_, cost)| *cost)
    }
}

/// The measured cost of a draft step, interleaved with plain steps.
pub(super) fn measure_draft(
    runner: &mut Runner,
    pool: &PagePool,
    candidate: &Candidate,
    vocabulary: Option<&DraftVocabulary>,
) -> Result<f64, CalibrationError> {
    let lease = pool.lease(CONTEXT + CHAIN + 1).ok_or(CalibrationError::Pages)?;
    let (hidden, sublayers) = (runner.model().config().hidden, runner.model().config().sublayers());
    let (mask, bridges) = (candidate.mask(sublayers), candidate.bridges(hidden)?);
    let plain = Way { rows: 1, skip: None, bridges: &[], logits: LogitsWanted::All };
    let head = |vocabulary| LogitsWanted::Draft(DraftHead { vocabulary, extra_tiles: &[] });
    let draft = Way {
        rows: 1,
        skip: Some(&mask),
        bridges: &bridges,
        logits: vocabulary.map_or(LogitsWanted::All, head),
    };
    let seconds = time(runner, &lease, &[plain, draft]);
    Ok(seconds[1] / seconds[0])
}

/// Seconds of each way, measured in turn. What the cache holds doesn't matter for the time.
fn time(runner: &mut Runner, lease: &PageLease, ways: &[Way<'_>]) -> Vec<f64> {
    let mut quickest = vec![f64::INFINITY; ways.len()];
    // The first round warms up and is not counted.
    for round in 0..=REPEATS {
        for (way, quickest) in ways.iter().zip(&mut quickest) {
            let rows = vec![RowInput::Token(TokenId(1)); way.rows];
            let group = RowGroup {
                skip: way.skip,
                bridges: way.bridges,
                logits: way.logits,
                ..RowGroup::new(lease.pages(), CONTEXT, &rows)
            };
            let seconds = runner.run(std::slice::from_ref(&group)).seconds;
            if round > 0 {
                *quickest = quickest.min(seconds);
            }
        }
    }
    quickest
}
