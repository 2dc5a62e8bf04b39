//! The controller against made-up machines, plans and texts.

use super::super::acceptance::BINS;
use super::super::knowledge::testing::seats;
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

/// Confidences of all bins, one after the other.
fn spread(index: usize) -> f32 {
    ((index % BINS) as f32 + 0.5) / BINS as f32
}

fn choose(plans: Vec<PlanKnowledge>, row: f64, found: Match) -> Bet {
    let knowledge = Knowledge::new(seats(&plans));
    let odds = Odds { knowledge: &knowledge, costs: &costs(row) };
    Controller::new(knowledge.stream(), Allowed::default()).choose(odds, Chain::new(8), found)
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
fn a_match_is_verified_as_far_as_its_rows_pay() {
    let long = Match { length: 12, tokens: 8 };
    let Bet::Ngram(cheap) = choose(Vec::new(), 0.05, long) else { panic!("a long match pays") };
    let Bet::Ngram(dear) = choose(Vec::new(), 0.5, long) else { panic!("a long match pays") };
    assert!(cheap > dear && dear > 0, "{cheap} {dear}");
    assert_eq!(choose(Vec::new(), 1.0, long), Bet::Plain(OffReason::NoGain));
}

#[test]
fn a_losing_bet_is_left_and_tried_again_when_it_is_forgotten() {
    let mut knowledge = Knowledge::new(seats(&[plan(0.4, 0.9)]));
    let costs = costs(0.1);
    let mut controller = Controller::new(knowledge.stream(), Allowed::default());
    let (mut spent, mut drafted) = (0.0, Vec::new());
    for token in 0..200_000 {
        let odds = Odds { knowledge: &knowledge, costs: &costs };
        let bet = controller.choose(odds, Chain::new(8), Match::default());
        // Whatever is drafted is rejected.
        if let Bet::Plan(index) = bet {
            let confidence = spread(drafted.len());
            knowledge.observe_drafted(controller.offsets(), index, confidence, false);
            drafted.push(token);
        }
        spent += if bet == Bet::Plan(0) { 1.5 } else { 1.0 };
        controller.commit(1);
        knowledge.forget(1);
    }
    assert!(spent < 200_000.0 * 1.005, "{spent}: {} drafts", drafted.len());
    assert!(drafted.iter().any(|&token| token > 100_000), "never tried again: {drafted:?}");
}

#[test]
fn the_plan_follows_the_text() {
    let mut knowledge = Knowledge::new(seats(&[plan(0.4, 0.6), plan(0.4, 0.6)]));
    let costs = costs(0.1);
    let mut controller = Controller::new(knowledge.stream(), Allowed::default());
    let mut judged = [0; 2];
    // Three domains in one stream, each predicted by one of the plans.
    for (domain, shares) in [[0.85, 0.25], [0.25, 0.85], [0.85, 0.25]].iter().enumerate() {
        let (mut tokens, mut spent, mut settled_at) = (0, 0.0, None);
        let better = usize::from(shares[1] > shares[0]);
        let mut late = (0.0, 0.0);
        while tokens < 2048 {
            let odds = Odds { knowledge: &knowledge, costs: &costs };
            let (mut committed, mut cost) = (1, 1.0);
            let bet = controller.choose(odds, Chain::new(1), Match::default());
            if let Bet::Plan(index) = bet {
                let accepted = is_accepted(judged[index], shares[index]);
                judged[index] += 1;
                let confidence = spread(judged[index]);
                knowledge.observe_drafted(controller.offsets(), index, confidence, accepted);
                (committed, cost) = (1 + usize::from(accepted), 1.5);
                settled_at = match settled_at {
                    _ if index != better => None,
                    None => Some(tokens),
                    settled => settled,
                };
            }
            controller.commit(committed);
            knowledge.forget(committed);
            tokens += committed;
            spent += cost;
            if tokens > 1536 {
                late = (late.0 + committed as f64, late.1 + cost);
            }
        }
        let settled_at = settled_at.unwrap_or(usize::MAX);
        assert!(settled_at <= 1024, "domain {domain}: settled after {settled_at} tokens");
        let recovered = late.0 / late.1;
        assert!(
            recovered > 1.1,
            "domain {domain}: {recovered} tokens a step, {spent} steps in all"
        );
    }
}

#[test]
fn no_room_means_no_draft() {
    let knowledge = Knowledge::new(seats(&[plan(0.1, 0.9)]));
    let odds = Odds { knowledge: &knowledge, costs: &costs(0.1) };
    let bet = Controller::new(knowledge.stream(), Allowed::default()).choose(
        odds,
        Chain::new(0),
        Match::default(),
    );
    assert_eq!(bet, Bet::Plain(OffReason::Length));
}
