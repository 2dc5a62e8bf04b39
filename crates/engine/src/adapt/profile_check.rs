//! The checks of a profile's values: files come from anyone.

use std::fmt::{Debug, Display};
use std::ops::RangeInclusive;

use super::acceptance::BINS;
use super::profile::{
    AcceptanceCount, Measurement, Profile, ProfileBridge, ProfileError, ProfilePlan, ProfiledModel,
};
use skipstone_model::sublayer::{of_layers, sublayers};
use skipstone_model::{MAX_STAND_IN_LAYERS, StandInLayer, StandInWeights};

/// Limits that no honest profile comes near.
const MAX_LAYERS: usize = 1024;
const MAX_HIDDEN: usize = 1 << 16;
const MAX_VOCABULARY: usize = 1 << 24;
const MAX_PLANS: usize = 256;
const MAX_MEASUREMENTS: usize = 1 << 14;
const MAX_NAME: usize = 128;
const MAX_POSITIONS: usize = 64;

type Checked = Result<(), ProfileError>;

/// Checks every value of `profile`.
pub(super) fn check(profile: &Profile) -> Checked {
    let model = &profile.model;
    name("the model's name", &model.name)?;
    let hexadecimal =
        model.fingerprint.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    ensure(
        hexadecimal && model.fingerprint.len() == 64,
        "the fingerprint",
        &"damaged",
        "64 hexadecimal digits",
    )?;
    within("the number of layers", model.layers, 2..=MAX_LAYERS)?;
    within("the hidden size", model.hidden, 1..=MAX_HIDDEN)?;
    within("the vocabulary size", model.vocabulary, 1..=MAX_VOCABULARY)?;
    within(
        "the number of relevances",
        profile.relevance.len(),
        sublayers(model.layers)..=sublayers(model.layers),
    )?;
    for relevance in profile.relevance.iter().flatten() {
        within("a relevance", *relevance, 0.0..=1.0)?;
    }
    if let Some(stand_in) = &profile.stand_in {
        check_stand_in(stand_in, model)?;
    }
    within("the number of plans", profile.plans.len(), 0..=MAX_PLANS)?;
    for plan in &profile.plans {
        check_plan(profile, plan)?;
    }
    within("the number of measurements", profile.measurements.len(), 0..=MAX_MEASUREMENTS)?;
    for Measurement { name: measured, cost, acceptance, kind: _ } in &profile.measurements {
        name("a measurement's name", measured)?;
        within("a measurement's cost", *cost, 0.0..=100.0)?;
        within("a measurement's acceptance", *acceptance, 0.0..=1.0)?;
    }
    let mut seen = vec![false; model.vocabulary];
    for token in &profile.vocabulary_order {
        let again = seen.get_mut(token.index()).map(|seen| std::mem::replace(seen, true));
        ensure(
            again == Some(false),
            "the vocabulary order",
            token,
            "tokens of the vocabulary, each once",
        )?;
    }
    Ok(())
}

fn check_plan(profile: &Profile, plan: &ProfilePlan) -> Checked {
    let model = &profile.model;
    name("a plan's name", &plan.name)?;
    // There are two layers or more.
    let inner = match plan.has_stand_in {
        false => of_layers(1..model.layers - 1),
        true => {
            let replaced = profile.stand_in.as_ref().map_or(0, |it| model.layers - it.first_layer);
            let length = sublayers(replaced);
            within("the number of sublayers that the stand-in replaces", length, 1..=usize::MAX)?;
            within("the number of skipped sublayers", plan.skipped.len(), length..=length)?;
            within("the number of bridges", plan.bridges.len(), 0..=0)?;
            of_layers(model.layers - replaced..model.layers)
        }
    };
    let inner = inner.start..=inner.end - 1;
    let mut last = None;
    for &sublayer in &plan.skipped {
        within("a skipped sublayer", sublayer, inner.clone())?;
        ensure(last < Some(sublayer), "a skipped sublayer", &sublayer, "the list must ascend")?;
        last = Some(sublayer);
    }
    let mut free = 0;
    for bridge in &plan.bridges {
        check_bridge(bridge, model.hidden, &plan.skipped)?;
        ensure(
            bridge.first >= free,
            "a bridge's first sublayer",
            &bridge.first,
            "bridges must ascend and not overlap",
        )?;
        free = bridge.end;
    }
    within("a plan's draft vocabulary", plan.draft_vocabulary, 1..=model.vocabulary)?;
    within("a plan's draft length", plan.max_draft_tokens, 0..=MAX_POSITIONS)?;
    within("a plan's confidence threshold", plan.confidence_threshold, 0.0..=1.0)?;
    within("a plan's cost", plan.cost, 0.0..=100.0)?;
    within("a plan's speedup", plan.speedup, 0.0..=100.0)?;
    within("the number of positions of a prior", plan.prior.positions.len(), 0..=MAX_POSITIONS)?;
    within("the number of confidence bins", plan.prior.confidence.len(), BINS..=BINS)?;
    for AcceptanceCount { drafted, accepted } in
        plan.prior.positions.iter().chain(&plan.prior.confidence)
    {
        within("a count of drafted tokens", *drafted, 0.0..=1e15)?;
        within("a count of accepted tokens", *accepted, 0.0..=*drafted)?;
    }
    Ok(())
}

fn check_stand_in(stand_in: &StandInWeights, model: &ProfiledModel) -> Checked {
    let StandInWeights { first_layer, mix, bias, layers } = stand_in;
    let hidden = model.hidden;
    let exactly = |field, found: usize, expected| within(field, found, expected..=expected);
    within("the stand-in's first layer", *first_layer, 0..=model.layers - 1)?;
    exactly("the elements of the stand-in's mix", mix.len(), 2 * hidden * hidden)?;
    exactly("the elements of the stand-in's bias", bias.len(), hidden)?;
    within("the number of the stand-in's layers", layers.len(), 1..=MAX_STAND_IN_LAYERS)?;
    for layer in layers {
        for norm in [&layer.attention_norm, &layer.mlp_norm] {
            exactly("the elements of a norm of the stand-in", norm.len(), hidden)?;
        }
        // How many heads there are is not said here: the model has the last word.
        for map in [&layer.query, &layer.key, &layer.gate] {
            let rest = map.len() % hidden;
            exactly("what is left over of a row of the stand-in", rest, 0)?;
        }
        for (field, found, like) in [
            ("the elements of the stand-in's value map", &layer.value, &layer.key),
            ("the elements of the stand-in's output map", &layer.output, &layer.query),
            ("the elements of the stand-in's up map", &layer.up, &layer.gate),
            ("the elements of the stand-in's down map", &layer.down, &layer.gate),
        ] {
            exactly(field, found.len(), like.len())?;
        }
    }
    let numbers = mix.iter().chain(bias).chain(layers.iter().flat_map(StandInLayer::numbers));
    for value in numbers {
        ensure(value.is_finite(), "a stand-in's weight", value, "weights must be finite")?;
    }
    Ok(())
}

fn check_bridge(bridge: &ProfileBridge, hidden: usize, skipped: &[usize]) -> Checked {
    let ProfileBridge { first, end, weights } = bridge;
    // The plan's sublayers are inner ones and ascend, so the whole run is among them if its ends
    // are that far apart.
    let start = skipped.binary_search(first).ok();
    let run =
        start.and_then(|start| skipped.get(start..start.checked_add(end.checked_sub(*first)?)?));
    let whole = run.is_some_and(|run| run.last().is_some_and(|last| last + 1 == *end));
    ensure(
        whole,
        "a bridge's run",
        &format_args!("{first}..{end}"),
        "its sublayers must be skipped ones",
    )?;
    within("the elements of a bridge's bias", weights.bias.len(), hidden..=hidden)?;
    let rank = weights.rank();
    within("a bridge's rank", rank, 0..=hidden)?;
    within("the elements of a bridge's up map", weights.up.len(), rank * hidden..=rank * hidden)?;
    within(
        "the elements of a bridge's down map",
        weights.down.len(),
        2 * rank * hidden..=2 * rank * hidden,
    )?;
    for value in weights.bias.iter().chain(&weights.down).chain(&weights.up) {
        ensure(value.is_finite(), "a bridge's weight", value, "weights must be finite")?;
    }
    Ok(())
}

fn name(field: &str, name: &str) -> Checked {
    // They are printed, and end up in logs and in a picture.
    let plain = name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    let shown: String = name.chars().take(32).collect();
    ensure(plain, field, &shown.escape_debug(), "at most 128 bytes without control characters")
}

fn within<T: PartialOrd + Debug>(field: &str, value: T, range: RangeInclusive<T>) -> Checked {
    // Not a number lies in no range.
    let inside = range.contains(&value);
    ensure(inside, field, &format_args!("{value:?}"), &format!("it must lie in {range:?}"))
}

fn ensure(holds: bool, field: &str, value: &dyn Display, reason: &str) -> Checked {
    if holds {
        return Ok(());
    }
    Err(ProfileError::Value {
        field: field.to_owned(),
        value: value.to_string(),
        reason: reason.to_owned(),
    })
}
