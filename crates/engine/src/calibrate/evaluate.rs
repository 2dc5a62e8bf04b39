//! Evaluation of a candidate draft: real draft chains on held-back text, many at once.
//!
//! A chain starts at a position whose context has the full model's keys and values, and reads its
//! own beyond. Each start has a page of its own for the part of the context that shares the page
//! with the chain, so chains never see each other and nothing is to be restored. Rows are fed the
//! text's own tokens: as long as the draft agrees that is what it would have fed itself.

use std::ops::Range;

use super::candidate::Candidate;
use super::corpus::Sequence;
use super::trace::CHUNK;
use super::{CalibrationError, CalibrationProgress};
use crate::adapt::FillerKind;
use skipstone_kernels::PAGE_POSITIONS;
use skipstone_model::sampling::{argmax, top_probability};
use skipstone_model::{
    LogitsWanted, PageLease, PagePool, RowGroup, RowInput, Runner, StandIn, StandInPart, TokenId,
};

/// Tokens of a chain.
pub(super) const CHAIN: usize = 6;

/// Positions between starts: two to a page, so that a page of their own is mostly filled.
const STEP: usize = PAGE_POSITIONS / 2;

/// Bytes of saved states at most.
const MAX_STATE_BYTES: usize = 512 << 20;

/// Starts at most: half of them judge, which puts the error of an acceptance near one point and a
/// half.
const MAX_STARTS: usize = 640;

/// Starts of a first look; each stands for a chain.
const ROUGH_STARTS: usize = 64;

/// Rows of one pass: enough to read the weights once for many, few enough for their logits to stay
/// small.
const ROWS_PER_PASS: usize = 16 * CHAIN;

/// A place where chains start.
#[derive(Clone, Copy, Debug)]
pub(super) struct StartPlace {
    sequence: usize,
    position: usize,
}

/// Held-back text with the full model's states, ready for chains.
pub(super) struct Evaluator {
    starts: Vec<Start>,
    /// \[start, sublayer, chain, hidden\].
    states: Vec<f32>,
    hidden: usize,
    sublayers: usize,
    /// Pages of the whole sequences, which the starts point into.
    leases: Vec<PageLease>,
    /// Starts of each sequence; they follow each other.
    starts_of: Vec<usize>,
}

struct Start {
    pages: Vec<u32>,
    position: usize,
    /// The full model's best token after each row.
    targets: [TokenId; CHAIN],
    /// Whether that token was in the sequence before.
    seen: [bool; CHAIN],
    _lease: PageLease,
}

/// Steps of a candidate at one start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) steps: [Step; CHAIN],
}

/// One draft step.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Step {
    /// The draft's best token is the full model's.
    pub(super) agrees: bool,
    /// The draft's probability of its best token.
    pub(super) confidence: f32,
    /// The full model's best token.
    pub(super) target: TokenId,
    /// Whether the draft vocabulary has it anyway, because it is in the stream.
    pub(super) seen: bool,
}

// === impl Chain ===

impl Chain {
    /// Steps that agree before the first that doesn't.
    pub(super) fn length(&self) -> usize {
        self.steps.iter().take_while(|step| step.agrees).count()
    }
}

// === impl Evaluator ===

impl Evaluator {
    /// Starts of chains, for states of `numbers` numbers a row: evenly spread, as many as memory
    /// allows.
    pub(super) fn starts(sequences: &[&Sequence], numbers: usize) -> Vec<StartPlace> {
        let mut places = Vec::new();
        for (sequence, text) in sequences.iter().enumerate() {
            let first = (text.prompt.max(STEP)).next_multiple_of(STEP);
            let positions =
                (first..).step_by(STEP).take_while(|position| position + CHAIN < text.tokens.len());
            places.extend(positions.map(|position| StartPlace { sequence, position }));
        }
        let most = (MAX_STATE_BYTES / (numbers * CHAIN * size_of::<f32>())).min(MAX_STARTS);
        let thinning = places.len().div_ceil(most.max(1)).max(1);
        places.into_iter().step_by(thinning).collect()
    }

    /// Pages that an evaluator needs.
    pub(super) fn pages(sequences: &[&Sequence], starts: &[StartPlace]) -> usize {
        sequences.iter().map(|sequence| PagePool::pages_for(sequence.tokens.len())).sum::<usize>()
            + starts.len()
    }

    /// Runs the whole model over the text and keeps its states.
    pub(super) fn new(
        runner: &mut Runner,
        pool: &PagePool,
        sequences: &[&Sequence],
        places: &[StartPlace],
        progress: &dyn CalibrationProgress,
    ) -> Result<Self, CalibrationError> {
        let (hidden, sublayers) =
            (runner.model().config().hidden, runner.model().config().sublayers());
        progress.stage(
            "states of the held-back text",
            sequences.iter().map(|text| text.tokens.len()).sum(),
        );
        let mut evaluator = Self {
            starts: Vec::with_capacity(places.len()),
            states: vec![0.0; places.len() * sublayers * CHAIN * hidden],
            hidden,
            sublayers,
            leases: Vec::with_capacity(sequences.len()),
            starts_of: Vec::with_capacity(sequences.len()),
        };
        let mut done = 0;
        for (index, text) in sequences.iter().enumerate() {
            let lease = pool.lease(text.tokens.len()).ok_or(CalibrationError::Pages)?;
            let first = evaluator.starts.len();
            for place in places.iter().filter(|place| place.sequence == index) {
                evaluator.starts.push(Start::new(place.position, lease.pages(), pool)?);
            }
            for (chunk, part) in text.tokens.chunks(CHUNK).enumerate() {
                evaluator.trace(
                    runner,
                    lease.pages(),
                    chunk * CHUNK,
                    part,
                    first..evaluator.starts.len(),
                );
                done += part.len();
                progress.done(done);
            }
            for start in &mut evaluator.starts[first..] {
                start.fill(runner, &text.tokens);
            }
            evaluator.starts_of.push(evaluator.starts.len() - first);
            evaluator.leases.push(lease);
        }
        Ok(evaluator)
    }

    /// Writes the keys and values of a stand-in for the text, which these sequences are.
    pub(super) fn write_keys(
        &self,
        runner: &mut Runner,
        sequences: &[&Sequence],
        stand_in: &StandIn,
        progress: &dyn CalibrationProgress,
    ) {
        let all = sequences.iter().map(|text| text.tokens.len()).sum();
        progress.stage("the stand-in reads the held-back text", all);
        let mut done = 0;
        let mut write = |pages: &[u32], first: usize, tokens: &[TokenId]| {
            let rows: Vec<RowInput<'_>> =
                tokens.iter().map(|&token| RowInput::Token(token)).collect();
            if !rows.is_empty() {
                let stand_in = StandInPart::Keys(stand_in);
                let group = RowGroup { stand_in, ..RowGroup::new(pages, first, &rows) };
                runner.run(std::slice::from_ref(&group));
            }
        };
        let mut starts = self.starts.iter();
        for ((index, text), lease) in sequences.iter().enumerate().zip(&self.leases) {
            for (chunk, part) in text.tokens.chunks(CHUNK).enumerate() {
                write(lease.pages(), chunk * CHUNK, part);
            }
            for start in starts.by_ref().take(self.starts_of[index]) {
                let first = start.position / PAGE_POSITIONS * PAGE_POSITIONS;
                write(&start.pages, first, &text.tokens[first..start.position]);
            }
            done += text.tokens.len();
            progress.done(done);
        }
    }

    /// Number of starts.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Starts that choices are made by: every other one.
    pub(super) fn choosing(&self) -> Vec<usize> {
        (0..self.len()).step_by(2).collect()
    }

    /// A few of these: enough to tell a good candidate from a bad one.
    pub(super) fn rough(&self) -> Vec<usize> {
        let choosing = self.choosing();
        let step = choosing.len().div_ceil(ROUGH_STARTS).max(1);
        choosing.into_iter().step_by(step).collect()
    }

    /// Starts that nothing is chosen by.
    pub(super) fn judging(&self) -> Vec<usize> {
        (1..self.len()).step_by(2).collect()
    }

    /// Drafts a chain from each of `starts`. Where rows go one at a time a chain ends with the
    /// first that disagrees: what would come after is no draft that anyone makes.
    pub(super) fn evaluate(
        &self,
        runner: &mut Runner,
        candidate: &Candidate,
        starts: &[usize],
    ) -> Result<Vec<Chain>, CalibrationError> {
        // Late enough that what comes before is exact, early enough that features are kept.
        let first = candidate.plan.exact_until().min(runner.model().config().feature_sublayer());
        // Some read what the draft made of the row before, so rows go one at a time.
        let reads = matches!(candidate.kind(), FillerKind::LowRank | FillerKind::StandIn);
        let width = if reads { 1 } else { CHAIN };
        let mut chains: Vec<Chain> = Vec::with_capacity(starts.len());
        for part in starts.chunks(ROWS_PER_PASS / width) {
            let mut drafted = vec![Chain { steps: [Step::default(); CHAIN] }; part.len()];
            for from in (0..CHAIN).step_by(width) {
                let input = |start: usize, row: usize| RowInput::Hidden {
                    first,
                    state: self.state(start, first, row),
                };
                let goes_on =
                    |place: &usize| drafted[*place].steps[..from].iter().all(|step| step.agrees);
                let open: Vec<usize> =
                    (0..part.len()).filter(|place| width > 1 || goes_on(place)).collect();
                if open.is_empty() {
                    break;
                }
                let rows: Vec<Vec<RowInput<'_>>> = open
                    .iter()
                    .map(|&place| (from..from + width).map(|row| input(part[place], row)).collect())
                    .collect();
                let groups: Vec<RowGroup<'_>> = open
                    .iter()
                    .map(|&place| part[place])
                    .zip(&rows)
                    .map(|(start, rows)| RowGroup {
                        skip: Some(candidate.plan.mask()),
                        bridges: candidate.plan.bridges(),
                        stand_in: candidate.plan.stand_in_part(),
                        logits: LogitsWanted::All,
                        ..RowGroup::new(
                            &self.starts[start].pages,
                            self.starts[start].position + from,
                            rows,
                        )
                    })
                    .collect();
                let output = runner.run(&groups);
                for (group, &place) in open.iter().enumerate() {
                    let Start { targets, seen, .. } = &self.starts[part[place]];
                    for row in from..from + width {
                        let (token, confidence) = top_probability(output.logits(group, row - from));
                        let (target, seen) = (targets[row], seen[row]);
                        drafted[place].steps[row] =
                            Step { agrees: token == target, confidence, target, seen };
                    }
                }
            }
            chains.append(&mut drafted);
        }
        Ok(chains)
    }

    /// The full model's state before `sublayer`.
    fn state(&self, start: usize, sublayer: usize, row: usize) -> &[f32] {
        &self.states[((start * self.sublayers + sublayer) * CHAIN + row) * self.hidden..]
            [..self.hidden]
    }

    /// Runs a chunk of a sequence and keeps what the starts need of it.
    fn trace(
        &mut self,
        runner: &mut Runner,
        pages: &[u32],
        position: usize,
        tokens: &[TokenId],
        starts: Range<usize>,
    ) {
        let rows: Vec<RowInput<'_>> = tokens.iter().map(|&token| RowInput::Token(token)).collect();
        let places: Vec<usize> = (0..self.sublayers).collect();
        let group = RowGroup {
            save_before: &places,
            logits: LogitsWanted::All,
            ..RowGroup::new(pages, position, &rows)
        };
        let output = runner.run(std::slice::from_ref(&group));
        for index in starts {
            for row in 0..CHAIN {
                // A chain may lie in two chunks.
                let Some(at) = (self.starts[index].position + row)
                    .checked_sub(position)
                    .filter(|&at| at < tokens.len())
                else {
                    continue;
                };
                self.starts[index].targets[row] = argmax(output.logits(0, at)).unwrap_or_default();
                for sublayer in 0..self.sublayers {
                    let to = ((index * self.sublayers + sublayer) * CHAIN + row) * self.hidden;
                    self.states[to..to + self.hidden]
                        .copy_from_slice(output.saved(0, sublayer, at));
                }
            }
        }
    }
}

// === impl Start ===

impl Start {
    /// A start whose page table is the sequence's, but for a page of its own.
    fn new(position: usize, pages: &[u32], pool: &PagePool) -> Result<Self, CalibrationError> {
        let lease = pool.lease(1).ok_or(CalibrationError::Pages)?;
        let whole = position / PAGE_POSITIONS;
        let pages = pages[..whole].iter().chain(lease.pages()).copied().collect();
        let (targets, seen) = ([TokenId::default(); CHAIN], [false; CHAIN]);
        Ok(Self { pages, position, targets, seen, _lease: lease })
    }

    /// Computes the part of the context that lies in the start's own page.
    fn fill(&mut self, runner: &mut Runner, tokens: &[TokenId]) {
        for row in 0..CHAIN {
            self.seen[row] = tokens[..=self.position + row].contains(&self.targets[row]);
        }
        let first = self.position / PAGE_POSITIONS * PAGE_POSITIONS;
        let rows: Vec<RowInput<'_>> =
            tokens[first..self.position].iter().map(|&token| RowInput::Token(token)).collect();
        if rows.is_empty() {
            return;
        }
        let group = RowGroup::new(&self.pages, first, &rows);
        runner.run(std::slice::from_ref(&group));
    }
}
