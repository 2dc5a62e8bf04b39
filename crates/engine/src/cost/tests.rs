//! The cost model against made-up machines, and against passes that were recorded.

use std::iter::repeat_with;

use super::testing::{SIZE, model, parameters};
use super::*;
use crate::adapt::is_accepted;

fn plain(position: usize) -> StepShape {
    StepShape::whole(position, 1, 1)
}

fn verify(position: usize, rows: usize) -> StepShape {
    StepShape::whole(position, rows, rows)
}

fn prompt(position: usize, rows: usize) -> StepShape {
    StepShape::whole(position, rows, 0)
}

/// A step that skips the two middle layers and looks at an eighth of the vocabulary.
fn draft(position: usize) -> StepShape {
    let skipped = std::iter::once(2..6).collect();
    let (vocabulary, fillers, keys, attentions) = (0.125, 0.02, 0.005, 1);
    let draft = DraftShape { skipped, vocabulary, fillers, keys, attentions };
    StepShape { draft: Some(draft), ..plain(position) }
}

/// Numbers between 0 and 1 that look random and are the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() * limit as f64) as usize
    }

    /// A batch of up to four streams.
    fn batch(&mut self) -> Vec<StepShape> {
        let count = 1 + self.below(4);
        repeat_with(|| {
            let position = self.below(500);
            match self.below(5) {
                0 => prompt(position, 1 + self.below(64)),
                1 => draft(position),
                2 => StepShape { rows: 1 + self.below(9), ..draft(position) },
                3 => {
                    let rows = 2 + self.below(6);
                    let (entered, entry) = (self.below(rows), 1 + self.below(5));
                    StepShape { entered, entry, ..verify(position, rows) }
                }
                _ => plain(position),
            }
        })
        .take(count)
        .collect()
    }

    /// About 1: what a machine adds to a pass.
    fn noise(&mut self) -> f64 {
        1.0 + 0.1 * (self.next() + self.next() - 1.0)
    }
}

/// The model of a machine that differs from the nominal one.
fn machine(change: impl Fn(&mut Vector)) -> CostModel {
    let mut parameters = parameters();
    change(&mut parameters);
    CostModel::new(parameters, [0.0; PARAMETERS], SIZE)
}

/// How far a plain step's seconds are off those of the machine, as a ratio.
fn off(costs: &CostModel, machine: &CostModel) -> f64 {
    costs.plain_seconds(0, Company::default()) / machine.plain_seconds(0, Company::default())
}

fn assert_near(found: f64, expected: f64, tolerance: f64, what: &str) {
    assert!((found / expected - 1.0).abs() < tolerance, "{what}: {found}, expected {expected}");
}

#[test]
fn a_pass_costs_what_runs_in_it() {
    let costs = model();
    let price = |steps: &[StepShape]| costs.seconds(steps) / 0.010;
    assert_near(price(&[plain(0)]), 1.0, 1e-9, "a plain step");
    assert_near(price(&[plain(100)]), 1.1, 1e-9, "100 positions");
    // Half of the layers, an eighth of the head, fillers; of the attention to the context half, and
    // that of one more block.
    let expected = 0.35 + 0.25 / 8.0 + 0.05 + 0.02 * 0.95;
    assert_near(price(&[draft(0)]), expected, 1e-9, "a draft step");
    assert_near(price(&[draft(100)]), expected + 0.075, 1e-9, "a draft step at 100");
    // Rows that only want keys of a stand-in: of what is left of the layers, no less.
    let catching_up = StepShape { rows: 5, logits: 0, ..draft(0) };
    let filled = (0.02 + 0.005 * 0.3) * 0.95;
    let attended = 0.5 * 5e-4 * 10.0 + 0.25 * 1e-3 * 4.0;
    let expected = 0.35 * 1.3 + 0.05 + filled + attended;
    assert_near(price(&[catching_up]), expected, 1e-9, "rows that get keys");
    assert_near(price(&[verify(0, 2)]), 0.95 * 1.02 + 0.05 + 5e-4, 1e-9, "two rows");
    // Rows of a prompt don't go through the head.
    let read = 0.7 * 1.3 + 0.05 + 5e-4 * 10.0;
    assert_near(price(&[prompt(0, 5)]), read, 1e-9, "five rows of a prompt");
    // The skipped layers run one row, the others two; each has a head of its own.
    let both = 0.35 * 1.02 + 0.35 + 0.25 + 0.25 / 8.0 + 0.05 + 0.02 * 0.95;
    assert_near(price(&[plain(0), draft(0)]), both, 1e-9, "a plain and a draft step");
    // A draft left states before the third sublayer for two of three rows.
    let late = StepShape { entered: 2, entry: 2, ..verify(0, 3) };
    assert!(price(&[late]) < price(&[verify(0, 3)]));
}

#[test]
fn slopes_are_those_of_the_price() {
    let mut random = Random(11);
    for _ in 0..200 {
        let batch = random.batch();
        let costs = machine(|parameters| parameters[HEAD_GROWTH] = 0.4);
        let priced = costs.priced(&batch);
        for place in PACE + 1..PARAMETERS {
            let moved = |by: f64| {
                let mut costs = costs.clone();
                costs.parameters[place] += by;
                costs.priced(&batch).price
            };
            let expected = (moved(1e-4) - moved(-1e-4)) / 2e-4;
            let off = (priced.gradient[place] - expected).abs();
            assert!(off < 1e-6 * (1.0 + expected.abs()), "{place} of {batch:?}: {off}");
        }
    }
}

#[test]
fn shares_add_up_and_what_is_shared_is_shared_equally() {
    let costs = machine(|parameters| parameters[HEAD_GROWTH] = 0.4);
    let mut random = Random(5);
    for _ in 0..200 {
        let batch = random.batch();
        let sum: f64 = costs.shares(&batch).iter().sum();
        assert_near(sum, costs.seconds(&batch) / 0.010, 1e-9, &format!("{batch:?}"));
    }
    let shares = costs.shares(&[plain(0), plain(0), plain(100)]);
    assert_near(shares[0], shares[1], 1e-9, "two plain steps");
    assert_near(shares[2], shares[0] + 0.1, 1e-9, "its own context");
    // What a stream is compared with is what falls to a plain step in a pass of plain steps.
    let company = Company { rows: 2, logits: 2 };
    assert_near(costs.plain_seconds(0, company), 0.010 * shares[0], 1e-9, "in company");
}

#[test]
fn rows_are_priced_in_steps_of_the_stream() {
    for (position, company) in [(0, 0), (100, 0), (1000, 3)] {
        let company = Company { rows: company, logits: company };
        let costs = model().costs(position, company);
        assert_eq!((costs.rows[0], costs.rows[1], costs.others), (0.0, 1.0, company.rows));
        let mut steps = vec![plain(0); company.rows];
        steps.push(verify(position, 4));
        let shares = model().shares(&steps);
        let unit = model().plain_seconds(position, company) / 0.010;
        assert_near(costs.rows[4], shares[company.rows] / unit, 1e-9, "four rows");
    }
}

#[test]
fn mixed_passes_teach_what_each_part_costs() {
    let machine = machine(|parameters| {
        parameters[PACE] += 0.3;
        (parameters[ATTENTION], parameters[MLP], parameters[HEAD]) = (0.36, 0.37, 0.22);
        parameters[HEAD_GROWTH] = 1.5;
        parameters[CURVE + 2] += 0.1;
        parameters[CURVE + 10] *= 0.8;
    });
    let mut costs = model();
    let mut random = Random(1);
    for _ in 0..4000 {
        let batch = random.batch();
        costs.observe(&batch, machine.seconds(&batch) * random.noise());
    }
    let mut errors: Vec<f64> = repeat_with(|| {
        let batch = random.batch();
        (costs.seconds(&batch) / machine.seconds(&batch) - 1.0).abs()
    })
    .take(500)
    .collect();
    errors.sort_by(f64::total_cmp);
    assert!(errors[250] < 0.02 && errors[475] < 0.05, "{} {}", errors[250], errors[475]);
    assert_near(off(&costs, &machine), 1.0, 0.02, "a plain step");
}

#[test]
fn a_machine_that_slows_down_in_company_is_followed() {
    // Two streams that never run alone: one drafts, the other reads a prompt or verifies.
    for factor in [0.5_f64, 1.5, 2.0] {
        let machine = machine(|parameters| parameters[PACE] += factor.ln());
        let (mut costs, mut random) = (model(), Random(2));
        for index in 0..400 {
            let other = if index % 3 == 0 { prompt(64, 64) } else { verify(100, 3) };
            let batch = [draft(50), other];
            costs.observe(&batch, machine.seconds(&batch) * random.noise());
        }
        assert_near(off(&costs, &machine), 1.0, 0.15, &format!("{factor} times"));
    }
}

#[test]
fn an_error_of_the_rows_is_told_from_the_pace() {
    // Two rows take an eighth more than was measured; now and then a plain step says so.
    let machine = machine(|parameters| parameters[CURVE] += 0.125);
    let (mut costs, mut random) = (model(), Random(3));
    let mut asked = Vec::new();
    for index in 0..2000 {
        let batch = match costs.wants_plain_step() {
            true => {
                asked.push(index);
                [plain(100)]
            }
            false => [verify(100, 2)],
        };
        costs.observe(&batch, machine.seconds(&batch) * random.noise());
    }
    assert_near(off(&costs, &machine), 1.0, 0.03, "the pace");
    let found = costs.costs(100, Company::default()).rows[2];
    assert_near(found, machine.costs(100, Company::default()).rows[2], 0.05, "two rows");
    let (early, late) = asked.split_at(asked.partition_point(|&index| index < 500));
    println!("plain steps asked for: {} of 500, then {} of 1500", early.len(), late.len());
    assert!(!early.is_empty() && early.len() < 60 && late.len() < 60, "{asked:?}");
}

#[test]
fn nothing_is_asked_of_a_stream_that_decodes_plainly() {
    let mut costs = model();
    let asked = (0..200).filter(|&index| {
        let wants = index > 20 && costs.wants_plain_step();
        costs.observe(&[plain(100)], 0.011);
        wants
    });
    assert_eq!(asked.count(), 0);
}

#[test]
fn interruptions_say_nothing_until_they_last() {
    let mut costs = model();
    (0..100).for_each(|_| costs.observe(&[plain(0)], 0.010));
    for index in 0..400 {
        let seconds = if is_accepted(index, 0.9) { 0.010 } else { 0.040 };
        costs.observe(&[plain(0)], seconds);
    }
    assert_near(off(&costs, &model()), 1.0, 0.01, "interrupted now and then");
    (0..40).for_each(|_| costs.observe(&[plain(0)], 0.040));
    assert_near(off(&costs, &model()), 4.0, 0.05, "for good");
    let before = costs.parameters;
    for nonsense in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
        costs.observe(&[plain(0)], nonsense);
    }
    assert_eq!(costs.parameters, before);
}

#[test]
fn nothing_ever_costs_less_than_nothing() {
    let (mut costs, mut random) = (model(), Random(4));
    for _ in 0..3000 {
        let batch = random.batch();
        costs.observe(&batch, 0.010 * random.next());
        assert!(costs.seconds(&batch) > 0.0 && costs.parameters.iter().all(|p| p.is_finite()));
    }
    let rows = costs.costs(0, Company::default()).rows;
    assert!(rows.windows(2).all(|pair| pair[0] <= pair[1] + 1e-9), "{rows:?}");
}

/// Passes of four streams of SmolLM2-135M, written by `skipstone bench passes` on an Emerald Rapids
/// machine with two cores.
#[test]
fn recorded_passes_of_mixed_batches_are_priced_right() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/passes-smollm2-135m.jsonl");
    let (mut costs, passes) = CostModel::recorded(file.as_ref()).unwrap();
    let mixed = passes.iter().filter(|pass| pass.steps.len() > 1).count();
    let drafts = |pass: &&RecordedPass| pass.steps.iter().any(|step| step.draft.is_some());
    let drafting = passes.iter().filter(drafts).count();
    assert!(passes.len() > 500 && mixed > 300 && drafting > 100, "{mixed} mixed, {drafting} draft");
    let errors = costs.replay(&passes);
    println!("{errors:?}");
    assert!(errors.median < 0.10 && errors.p95 < 0.20, "{errors:?}");
    // The test tells: one that prices a pass by its rows alone is far off.
    let by_rows = |pass: &RecordedPass| pass.steps.iter().map(|step| step.rows).sum::<usize>();
    let mut ratios: Vec<f64> =
        passes.iter().map(|pass| pass.seconds / by_rows(pass) as f64).collect();
    ratios.sort_by(f64::total_cmp);
    let middle = ratios[ratios.len() / 2];
    let off = ratios.iter().filter(|ratio| (*ratio / middle - 1.0).abs() > 0.2).count();
    assert!(off * 2 > ratios.len(), "{off} of {}", ratios.len());
}
