//! Promise: the logits of a row have the same bits however it gets through the model: alone or
//! among others, fed at once or in chunks, entered at the embedding or late, after drafts of any
//! kind.
#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

mod common;

use std::sync::Arc;

use common::engine::{prompt, random_skip_set};
use common::passes::{Bits, bits, drafted, first_difference, forced, group, inputs, runner};
use common::tiny_model::TinyModel;
use common::weights::Random;
use skipstone::drafting::SkipSet;
use skipstone::kernels::{Isa, WeightType};
use skipstone::model::{Model, PageLease, RowInput, Runner, SkipMask, TokenId};

const ARCHITECTURES: [&str; 2] = ["llama", "qwen2"];

/// Past the end of a page of 32, with a remainder for every chunk.
const LENGTH: usize = 45;

/// Rows of the largest pass.
const MOST_ROWS: usize = 16;

fn text(model: &Model, seed: u64) -> Vec<TokenId> {
    prompt(LENGTH, model.config().vocabulary, &mut Random(seed))
}

#[test]
fn chunks_of_any_size_give_the_bits_of_single_rows() {
    let mut failures = Vec::new();
    for kind in WeightType::ALL {
        for architecture in ARCHITECTURES {
            let model = TinyModel::of_type(kind, architecture).load().model;
            let tokens = text(&model, kind as u64);
            let mut reference = None;
            for isa in Isa::available() {
                // The portable kernels are slow, and row_invariance.rs looks closer at them.
                let portable = isa == Isa::portable();
                for threads in if portable { 1..=1 } else { 1..=2 } {
                    let (mut runner, pages) = runner(&model, isa, threads, LENGTH);
                    let lease = pages.lease(LENGTH).unwrap();
                    for chunk in (1..=MOST_ROWS).filter(|chunk| !portable || [1, 6].contains(chunk))
                    {
                        let found = forced(&mut runner, &lease, &tokens, chunk);
                        let expected = reference.get_or_insert_with(|| found.clone());
                        if let Some(position) = first_difference(expected, &found) {
                            let isa = isa.name();
                            failures.push(format!(
                                "{kind} {architecture} {isa}, {threads} threads, {chunk} rows: \
                                 position {position}"
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Fault of a verify pass.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    None,
    /// The saved hidden states are off by a little.
    State,
    /// The verify runs what the draft ran.
    DraftMask,
    /// The verify enters after the last sublayer, so that the draft's keys and values stay.
    EntersTooLate,
    /// The verify's first row is fed again at the next position.
    Position,
}

/// Decodes `tokens` in cycles of `length` rows: each is drafted row by row with `mask`, then
/// verified at once, the rows entering late. Returns the logits of the verify passes.
fn verified(
    runner: &mut Runner,
    lease: &PageLease,
    tokens: &[TokenId],
    mask: &SkipMask,
    length: usize,
    fault: Fault,
) -> Vec<Bits> {
    let first = mask.first_skipped().unwrap();
    let last = runner.model().config().sublayers();
    let mut all = Vec::with_capacity(tokens.len());
    for (index, part) in tokens.chunks(length).enumerate() {
        let position = index * length;
        let mut states = Vec::new();
        for (offset, row) in inputs(part).iter().enumerate() {
            let row = std::slice::from_ref(row);
            let output = runner.run(&[drafted(group(lease, position + offset, row), mask)]);
            states.push(output.saved(0, 0, 0).to_vec());
        }
        if fault == Fault::State {
            states[0][0] += 0.01;
        }
        let entry = if fault == Fault::EntersTooLate { last } else { first };
        let rows: Vec<RowInput<'_>> =
            states.iter().map(|state| RowInput::Hidden { first: entry, state }).collect();
        let shift = usize::from(fault == Fault::Position && position > 0);
        let mut verify = group(lease, position - shift, &rows);
        if fault == Fault::DraftMask {
            verify.skip = Some(mask);
        }
        let output = runner.run(&[verify]);
        all.extend((0..part.len()).map(|row| bits(output.logits(0, row))));
    }
    all
}

/// Every entry: all sublayers from one on, each alone, and a few random ones.
fn masks(layers: usize) -> Vec<SkipMask> {
    let sublayers = skipstone::model::sublayer::sublayers(layers);
    let inner = |index: usize| (2..sublayers - 2).contains(&index);
    let mut masks = Vec::new();
    for skipped in 2..sublayers - 2 {
        masks.push(SkipMask::new((0..sublayers).map(|index| index == skipped).collect()));
        masks.push(SkipMask::new(
            (0..sublayers).map(|index| index >= skipped && inner(index)).collect(),
        ));
    }
    let mut random = Random(7);
    let sets = (0..4).map(|_| random_skip_set(layers, 0.5, &mut random));
    masks.extend(sets.filter(|set| !set.is_empty()).map(|set| set.mask()));
    masks
}

#[test]
fn late_entry_gives_the_bits_of_entry_at_the_embedding() {
    let mut failures = Vec::new();
    for kind in WeightType::ALL {
        for architecture in ARCHITECTURES {
            let model = TinyModel::of_type(kind, architecture).load().model;
            let tokens = text(&model, kind as u64 + 50);
            let (mut runner, pages) = runner(&model, Isa::detect(), 1, LENGTH);
            let lease = pages.lease(LENGTH).unwrap();
            let expected = forced(&mut runner, &lease, &tokens, 1);
            for (index, mask) in masks(model.config().layers).into_iter().enumerate() {
                for length in [[1, 8], [2, 16], [3, 5]][index % 3] {
                    let found = verified(&mut runner, &lease, &tokens, &mask, length, Fault::None);
                    if let Some(position) = first_difference(&expected, &found) {
                        failures.push(format!(
                            "{kind} {architecture} {mask:?} x {length}: position {position}"
                        ));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The inverse: each fault must show, for each type.
#[test]
fn wrong_verify_passes_are_caught() {
    let mut missed = Vec::new();
    for kind in WeightType::ALL {
        let model = TinyModel::of_type(kind, "llama").load().model;
        let tokens = text(&model, kind as u64 + 50);
        let (mut runner, pages) = runner(&model, Isa::detect(), 1, LENGTH);
        let lease = pages.lease(LENGTH).unwrap();
        let expected = forced(&mut runner, &lease, &tokens, 1);
        let mask = SkipSet::new(&[1, 2], &[2], model.config().layers).unwrap().mask();
        for fault in [Fault::State, Fault::DraftMask, Fault::EntersTooLate, Fault::Position] {
            let found = verified(&mut runner, &lease, &tokens, &mask, 4, fault);
            if first_difference(&expected, &found).is_none() {
                missed.push(format!("{kind}: {fault:?}"));
            }
        }
    }
    assert!(missed.is_empty(), "not seen: {missed:#?}");
}

/// One stream of a mixed pass.
struct Member {
    tokens: Vec<TokenId>,
    mask: Option<SkipMask>,
    lease: PageLease,
    /// Positions fed before, exactly.
    before: usize,
}

#[test]
fn streams_with_different_plans_share_a_pass_without_a_trace() {
    let mut failures = Vec::new();
    for kind in WeightType::ALL {
        for architecture in ARCHITECTURES {
            let model = TinyModel::of_type(kind, architecture).load().model;
            for count in [2, 3, 5, 8] {
                if let Some(member) =
                    first_touched(&model, count, &mut Random(kind as u64 * 8 + count as u64))
                {
                    failures.push(format!("{kind} {architecture}: stream {member} of {count}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Runs `count` streams alone, then in one pass; the first whose logits or saved states differ.
fn first_touched(model: &Arc<Model>, count: usize, random: &mut Random) -> Option<usize> {
    let config = model.config();
    let (mut runner, pages) = runner(model, Isa::detect(), 1, count * (LENGTH + 32));
    let members: Vec<Member> = (0..count)
        .map(|index| {
            // Drafts of some, verifies and prefill chunks of others; rows of 1 to 6, at positions
            // about a page's end.
            let before = 24 + random.below(10);
            let rows = 1 + random.below(6);
            let mask = (index % 3 > 0).then(|| random_skip_set(config.layers, 0.5, random).mask());
            let tokens = prompt(before + rows, config.vocabulary, random);
            Member { tokens, mask, lease: pages.lease(LENGTH).unwrap(), before }
        })
        .collect();
    for member in &members {
        forced(&mut runner, &member.lease, &member.tokens[..member.before], 7);
    }
    let rows: Vec<Vec<RowInput<'_>>> =
        members.iter().map(|member| inputs(&member.tokens[member.before..])).collect();
    let groups: Vec<_> = members
        .iter()
        .zip(&rows)
        .map(|(member, rows)| {
            let plain = group(&member.lease, member.before, rows);
            member.mask.as_ref().map_or(plain.clone(), |mask| drafted(plain, mask))
        })
        .collect();
    let mut answers = |from: usize, to: usize| -> Vec<Bits> {
        let output = runner.run(&groups[from..to]);
        (from..to)
            .map(|index| {
                let group = &groups[index];
                let logits =
                    (0..group.rows.len()).flat_map(|row| bits(output.logits(index - from, row)));
                let states = (0..group.rows.len()).filter(|_| !group.save_before.is_empty());
                logits
                    .chain(states.flat_map(|row| bits(output.saved(index - from, 0, row))))
                    .collect()
            })
            .collect()
    };
    let alone: Vec<Bits> = (0..count).flat_map(|index| answers(index, index + 1)).collect();
    first_difference(&alone, &answers(0, count))
}
