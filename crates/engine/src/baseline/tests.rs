//! The measured plain step against made-up machines.

use super::testing::STEP;
use super::{CONFIRMED_EVERY, PlainStep};

/// Seconds of a pass at 100 positions, on a machine where `rows` rows take `curve` times as long as
/// one without context.
fn pass(rows: usize, curve: f64) -> f64 {
    0.010 * curve + 0.001 * rows as f64
}

#[test]
fn a_disturbed_measurement_does_not_make_more_rows_dear() {
    let mut curve = [1.0, 1.6, 1.2, 1.3, 0.9, 2.0, 1.9];
    super::straighten(&mut curve);
    assert_eq!(curve, [1.0, 1.0, 1.0, 1.0, 1.0, 1.9, 1.9]);
    super::straighten(&mut []);
}

#[test]
fn rows_follow_what_passes_take() {
    let mut step = STEP;
    let mut observe = |factor: f64| {
        for _ in 0..400 {
            step.observe(1, 100, pass(1, 1.0));
            step.observe(4, 100, pass(4, factor));
        }
        assert!(step.is_plausible(), "{step:?}");
        step
    };
    let found = observe(1.7);
    assert!((found.rows(4) - 1.7).abs() < 0.01, "{found:?}");
    let found = observe(2.5);
    assert_eq!(found.rows(4), found.rows(5), "more rows never cost less");
    let mut after = found;
    after.observe(4, 100, 1.0);
    let expected = PlainStep { unconfirmed: found.unconfirmed + 1, ..found };
    assert_eq!(after, expected, "an interruption says nothing about rows");
}

#[test]
fn a_point_gives_way_to_one_that_more_passes_have_moved() {
    let mut step = STEP;
    let mut observe = |rows: usize, passes: usize, factor: f64| {
        (0..passes).for_each(|_| {
            step.observe(1, 100, pass(1, 1.0));
            step.observe(rows, 100, pass(rows, factor));
        });
        assert!(step.is_plausible(), "{step:?}");
        [step.rows(2), step.rows(3)]
    };
    let [two, three] = observe(2, 300, 1.8);
    assert!(
        (two - 1.8).abs() < 0.05 && three >= two,
        "takes along what nothing has moved: {two} {three}"
    );
    let [two, three] = observe(3, 100, 1.5);
    assert!(two > 1.7 && three == two, "stops there: {two} {three}");
    let [two, three] = observe(3, 900, 1.5);
    assert!(
        (three - 1.5).abs() < 0.02 && two <= three,
        "by now there is more to it: {two} {three}"
    );
}

#[test]
fn a_machine_that_slows_down_does_not_make_rows_dearer() {
    let mut step = STEP;
    (0..300).for_each(|_| step.observe(2, 100, pass(2, 1.2)));
    for index in 0..300 {
        // Only verify passes tell that everything takes twice as long.
        step.observe(2, 100, 2.0 * pass(2, 1.2));
        assert!(step.rows(2) < 1.2 * 1.5, "pass {index}: {step:?}");
    }
    (0..50).for_each(|_| step.observe(1, 100, 0.022));
    (0..50).for_each(|_| {
        step.observe(1, 100, 0.022);
        step.observe(2, 100, 2.0 * pass(2, 1.2));
    });
    assert!((step.rows(2) / 1.2 - 1.0).abs() < 0.05, "{step:?}");
    assert!((step.seconds(100, 1) / 0.022 - 1.0).abs() < 0.05, "{step:?}");
}

#[test]
fn verify_passes_alone_hardly_move_what_a_plain_step_is_taken_to_last() {
    for factor in [0.5, 1.1, 2.0] {
        let mut step = STEP;
        (0..1000).for_each(|_| step.observe(2, 100, factor * pass(2, 1.2)));
        let found = step.seconds(100, 1) / 0.011;
        assert!((0.84..1.16).contains(&found), "rows {factor} as dear: {found}");
    }
}

#[test]
fn plain_steps_confirm_the_pace_less_and_less_often_until_it_changes() {
    let mut step = STEP;
    let mut due = |passes: usize, plain: f64| {
        let mut due = Vec::new();
        let mut since = 0;
        for _ in 0..passes {
            step.observe(2, 100, pass(2, 1.2));
            since += 1;
            if step.takes_due() {
                due.push(since);
                since = 0;
                step.observe(1, 100, plain);
            }
        }
        due
    };
    assert_eq!(due(1000, 0.011), [4, 8, 16, 32, 64, 128, 256, 256]);
    let changed = due(300, 0.022);
    assert_eq!(changed[..2], [CONFIRMED_EVERY.1 - 236, CONFIRMED_EVERY.0], "{changed:?}");
}

#[test]
fn the_first_plain_steps_correct_what_was_measured_at_a_better_moment() {
    let mut step = STEP;
    for _ in 0..60 {
        step.observe(2, 100, 0.0138 / 0.011 * pass(2, 1.2));
        if step.takes_due() {
            step.observe(1, 100, 0.0138);
        }
    }
    assert!((step.seconds(100, 1) / 0.0138 - 1.0).abs() < 0.06, "{step:?}");
    assert!((step.rows(2) / 1.2 - 1.0).abs() < 0.1, "{step:?}");
}

#[test]
fn each_row_attends_on_its_own() {
    for context in [0, 100, 1000] {
        let costs = STEP.costs(context, 0);
        let plain = STEP.seconds(context, 1);
        for rows in [1, 2, 4, 8] {
            let expected = (0.010 * STEP.rows(rows) + 0.00001 * (context * rows) as f64) / plain;
            assert!(
                (costs.rows[rows] - expected).abs() < 1e-9,
                "{rows} rows at {context}: {costs:?}"
            );
        }
    }
    let mut step = STEP;
    (0..1000).for_each(|_| step.observe(4, 3000, STEP.pass_seconds(3000, 4)));
    assert!(
        (step.seconds(0, 1) / 0.010 - 1.0).abs() < 1e-6,
        "a long context is no slow machine: {step:?}"
    );
}

#[test]
fn follows_steps_and_ignores_interruptions() {
    let mut step = STEP;
    for _ in 0..100 {
        step.observe(1, 100, 0.0132);
    }
    assert!((step.seconds(100, 1) - 0.0132).abs() < 1e-5, "{step:?}");
    let before = step;
    step.observe(1, 100, 1.0);
    assert_eq!(step, PlainStep { interrupted: 1, ..before });
}

#[test]
fn a_stream_in_a_batch_is_measured_against_that_batch() {
    for (streams, expected) in
        [(0, 0.010), (1, 0.010), (2, 0.006), (3, 0.014 / 3.0), (8, 0.003), (128, 0.0025)]
    {
        let found = STEP.seconds(0, streams);
        assert!((found - expected).abs() < 1e-9, "{streams} streams: {found}, expected {expected}");
    }
}

#[test]
fn a_machine_that_slows_down_for_good_is_believed_in_the_end() {
    let mut step = STEP;
    for _ in 0..7 {
        step.observe(1, 100, 0.044);
        step.observe(1, 100, 0.011);
    }
    assert!((step.seconds(100, 1) - 0.011).abs() < 1e-4, "interruptions: {step:?}");
    (0..7).for_each(|_| step.observe(1, 100, 0.044));
    assert!((step.seconds(100, 1) - 0.011).abs() < 1e-4, "perhaps an interruption: {step:?}");
    (0..100).for_each(|_| step.observe(1, 100, 0.044));
    assert!((step.seconds(100, 1) - 0.044).abs() < 2e-3, "for good: {step:?}");
}

#[test]
fn where_drafting_always_wins_a_lasting_change_is_noticed_too() {
    let mut step = STEP;
    for _ in 0..600 {
        let rows = if step.takes_due() { 1 } else { 4 };
        step.observe(rows, 100, 4.0 * pass(rows, STEP.rows(rows)));
    }
    let change = step.seconds(100, 1) / STEP.seconds(100, 1);
    assert!((3.2..4.2).contains(&change), "{change} for 4: {step:?}");
}
