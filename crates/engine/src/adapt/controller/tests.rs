//! The controller against made-up machines, plans and texts.

use super::super::acceptance::BINS;
use super::*;
use crate::adapt::{Costs, PlanKnowledge, is_accepted};

/// A machine on which each further row of a verify costs `row`.
fn costs(row: f64) -> Costs {
    Costs {
        rows: std::array::from_fn(
            |rows| if rows == 0 { 0.0 } else { 1.0 + row * (rows - 1) as f64 },
        ),
        others: 0,
        context: 0.0,
    }
}

/// A plan that is accepted with probability `acceptance` whatever its confidence.
fn plan(cost: f64, acceptance: f64) -> PlanKnowledge {
    PlanKnowledge::new(cost, [acceptance; BINS], [1.0; BINS])
}

fn choose(plans: Vec<PlanKnowledge>, row: f64, found: Match) -> Bet {
    let knowledge = Knowledge::new(plans);
    let odds = Odds { knowledge: &knowledge, costs: &costs(row) };
    Controller::new(knowledge.stream(None), Allowed::default()).choose(odds, Chain::new(8), found)
}

#[test]
fn a_plan_is_bet_on_exactly_where_it_pays() {
    // One drafted token pays if acceptance > cost + row.
    for (cost, acceptance, row, pays) in [
        (0.4, 0.7, 0.1, true),
        (0.4, 0.4, 0.1, false),
        (0.4, 0.7, 0.4, false),
        (0.9, 0.85, 0.1, false),
    ] {
        let bet = choose(vec![plan(cost, acceptance)], row, Match::default());
        let expected = if pays { Bet::Plan(0) } else { Bet::Plain(OffReason::NoGain) };
        assert_eq!(bet, expected, "cost {cost}, acceptance {acceptance}, row {row}");
    }
    let best = choose(vec![plan(0.6, 0.7), plan(0.4, 0.7), plan(0.3, 0.4)], 0.1, Match::default());
    assert_eq!(best, Bet::Plan(1));
}

#[test]
fn a_plan_that_nothing_was_judged_of_has_the_benefit_of_the_doubt() {
    let costs = costs(0.1);
    for (judged, expected) in [(0, Bet::Plan(0)), (2000, Bet::Plain(OffReason::NoGain))] {
        // One drafted token yields 1.48 tokens for 1.5 steps.
        let mut knowledge = Knowledge::new(vec![plan(0.4, 0.48)]);
        for index in 0..judged {
            let mut own = knowledge.stream(None);
            knowledge.observe_drafted(&mut own, 0, 0.9, is_accepted(index, 0.48));
        }
        let odds = Odds { knowledge: &knowledge, costs: &costs };
        let mut controller = Controller::new(knowledge.stream(None), Allowed::default());
        assert_eq!(controller.choose(odds, Chain::new(1), Match::default()), expected, "{judged}");
    }
}

#[test]
fn only_plans_near_the_best_are_tried() {
    let mut knowledge = Knowledge::new(vec![plan(0.4, 0.7), plan(0.6, 0.4), plan(0.4, 0.68)]);
    let costs = costs(0.1);
    let mut controller = Controller::new(knowledge.stream(None), Allowed::default());
    let mut placed = [0; 3];
    for _ in 0..2000 {
        let odds = Odds { knowledge: &knowledge, costs: &costs };
        let bet = controller.choose(odds, Chain::new(1), Match::default());
        if let Bet::Plan(index) = bet {
            placed[index] += 1;
        }
        // What is tried loses half a step.
        let steps = if controller.is_exploring() { 2.5 } else { 1.5 };
        controller.observe_cycle(knowledge.bank_mut(), bet, 2, steps);
    }
    assert!(placed[1] == 0 && placed[2] > 20 && placed[0] > 1800, "{placed:?}");
}

#[test]
fn what_is_tried_is_booked_against_the_best_bet_and_stays_within_the_budget_of_all_streams() {
    // The second plan wins, too, but less than the first.
    let mut knowledge = Knowledge::new(vec![plan(0.3, 0.8), plan(0.4, 0.75)]);
    let costs = costs(0.1);
    let (mut spent, mut explored, mut tries) = (0.0, 0.0, 0);
    for _ in 0..400 {
        // Short streams, each of which might think that it may try a bet.
        let mut controller = Controller::new(knowledge.stream(None), Allowed::default());
        for cycle in 0..10 {
            let odds = Odds { knowledge: &knowledge, costs: &costs };
            let bet = controller.choose(odds, Chain::new(1), Match::default());
            let (steps, share) = if bet == Bet::Plan(0) { (1.4, 0.8) } else { (1.5, 0.75) };
            tries += usize::from(controller.is_exploring());
            controller.observe_cycle(
                knowledge.bank_mut(),
                bet,
                1 + usize::from(is_accepted(cycle, share)),
                steps,
            );
            spent += steps;
        }
        explored += controller.explored();
    }
    assert!(tries > 20 && explored > 0.0, "{tries} tries lost {explored}");
    assert!(explored < 0.02 * spent, "{explored} of {spent}");
}

#[test]
fn a_match_that_looks_bad_is_tried_now_and_then() {
    let mut knowledge = Knowledge::new(Vec::new());
    let costs = costs(1.0);
    let found = Match { length: 2, tokens: 3 };
    let mut controller = Controller::new(knowledge.stream(None), Allowed::default());
    let mut tried = 0;
    for _ in 0..4000 {
        let odds = Odds { knowledge: &knowledge, costs: &costs };
        let bet = controller.choose(odds, Chain::new(8), found);
        tried += usize::from(bet == Bet::Ngram(1));
        controller.observe_cycle(
            knowledge.bank_mut(),
            bet,
            1,
            if bet == Bet::Ngram(1) { 2.0 } else { 1.0 },
        );
    }
    assert!((30..60).contains(&tried), "each loses a step: {tried}");
}

#[test]
fn a_match_is_verified_as_far_as_its_rows_pay() {
    let long = Match { length: 12, tokens: 8 };
    let Bet::Ngram(cheap) = choose(Vec::new(), 0.05, long) else { panic!("a long match pays") };
    let Bet::Ngram(dear) = choose(Vec::new(), 0.5, long) else { panic!("a long match pays") };
    assert!(cheap > dear && dear > 0, "{cheap} {dear}");
    assert_eq!(choose(Vec::new(), 1.0, long), Bet::Plain(OffReason::NoGain));
}

#[test]
fn a_losing_bet_is_folded_and_exploring_stays_within_its_budget() {
    let mut knowledge = Knowledge::new(vec![plan(0.4, 0.9)]);
    let costs = costs(0.1);
    let mut controller = Controller::new(knowledge.stream(None), Allowed::default());
    let (mut spent, mut folded) = (0.0, 0);
    for _ in 0..4000 {
        let odds = Odds { knowledge: &knowledge, costs: &costs };
        let bet = controller.choose(odds, Chain::new(8), Match::default());
        // Whatever is drafted is rejected.
        let cost = match bet {
            Bet::Plan(index) => {
                knowledge.observe_drafted(controller.offsets(), index, 0.9, false);
                1.5
            }
            _ => 1.0,
        };
        folded += usize::from(bet == Bet::Plain(OffReason::Folded));
        controller.observe_cycle(knowledge.bank_mut(), bet, 1, cost);
        spent += cost;
    }
    assert!(folded > 0);
    assert!(spent < 4000.0 * 1.03, "{spent}");
    assert!(controller.explored() <= 0.01 * spent + 1.0);
}

#[test]
fn the_plan_follows_the_text() {
    let mut knowledge = Knowledge::new(vec![plan(0.4, 0.6), plan(0.4, 0.6)]);
    let costs = costs(0.1);
    let mut controller = Controller::new(knowledge.stream(None), Allowed::default());
    let mut judged = [0; 2];
    // Three domains in one stream, each foretold by one of the plans.
    for (domain, shares) in [[0.85, 0.25], [0.25, 0.85], [0.85, 0.25]].iter().enumerate() {
        let (mut tokens, mut spent, mut settled_at) = (0, 0.0, None);
        let better = usize::from(shares[1] > shares[0]);
        let mut late = (0.0, 0.0);
        while tokens < 256 {
            let odds = Odds { knowledge: &knowledge, costs: &costs };
            let (mut committed, mut cost) = (1, 1.0);
            let bet = controller.choose(odds, Chain::new(1), Match::default());
            if let Bet::Plan(index) = bet {
                let accepted = is_accepted(judged[index], shares[index]);
                judged[index] += 1;
                knowledge.observe_drafted(controller.offsets(), index, 0.9, accepted);
                (committed, cost) = (1 + usize::from(accepted), 1.5);
                settled_at = match settled_at {
                    _ if index != better && !controller.exploring => None,
                    None => Some(tokens),
                    settled => settled,
                };
            }
            controller.observe_cycle(knowledge.bank_mut(), bet, committed, cost);
            tokens += committed;
            spent += cost;
            if tokens > 128 {
                late = (late.0 + committed as f64, late.1 + cost);
            }
        }
        let settled_at = settled_at.unwrap_or(usize::MAX);
        assert!(settled_at <= 64, "domain {domain}: settled after {settled_at} tokens");
        let recovered = late.0 / late.1;
        assert!(
            recovered > 1.1,
            "domain {domain}: {recovered} tokens a step, {spent} steps in all"
        );
    }
}

#[test]
fn no_room_means_no_draft() {
    let knowledge = Knowledge::new(vec![plan(0.1, 0.9)]);
    let odds = Odds { knowledge: &knowledge, costs: &costs(0.1) };
    let bet = Controller::new(knowledge.stream(None), Allowed::default()).choose(
        odds,
        Chain::new(0),
        Match::default(),
    );
    assert_eq!(bet, Bet::Plain(OffReason::Length));
}
