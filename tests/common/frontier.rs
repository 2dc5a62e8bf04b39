//! Plans with bridges and a stand-in that are somewhat wrong, over a draft vocabulary that lacks
//! some tokens.

#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

use std::sync::Arc;

use skipstone::adapt::{PlanKnowledge, Seat};
use skipstone::drafting::{DraftPlan, Gap};
use skipstone::model::{Bridge, DraftVocabulary, Model, StandIn, TokenId};

use super::stand_in::{Shape, weights};
use super::weights::Random;

/// Three plans: without layer 1, with a bridge of low rank; without layers 1 and 2, with a bias;
/// and without any layer but the first, with a stand-in. All draft `tokens` and what is in the
/// stream.
pub fn frontier(model: &Model, tokens: &[TokenId]) -> Vec<Seat> {
    let (hidden, layers) = (model.config().hidden, model.config().layers);
    let vocabulary = Arc::new(DraftVocabulary::new(model, tokens, 1).unwrap());
    let mut random = Random(17);
    let mut plan = |name: &str, skipped: &[u32], rank: usize| {
        let span = 2 * skipped[0] as usize..2 * (skipped[skipped.len() - 1] as usize + 1);
        let (down, up) = (random.floats(2 * rank * hidden, 0.1), random.floats(rank * hidden, 0.1));
        let bridge = Bridge::new(span, hidden, random.floats(hidden, 0.1), &down, &up).unwrap();
        let plan = DraftPlan::new(vec![Gap::bridged(Arc::new(bridge))], layers)
            .unwrap()
            .with_vocabulary(Arc::clone(&vocabulary));
        let knowledge = PlanKnowledge::unknown(0.5);
        Seat { name: name.to_owned(), plan: Arc::new(plan), knowledge }
    };
    let bridged = [plan("one layer, low rank", &[1], 4), plan("two layers, bias", &[1, 2], 0)];
    let shape = Shape { first_layer: 1, layers: 2, width: 32 };
    let stand_in = StandIn::new(model, &weights(model, shape, &mut random), 1).unwrap();
    let plan = DraftPlan::new(vec![Gap::stand_in(Arc::new(stand_in))], layers).unwrap();
    let plan = Arc::new(plan.with_vocabulary(vocabulary));
    let knowledge = PlanKnowledge::unknown(0.2);
    let stand_in = Seat { name: "a stand-in".to_owned(), plan, knowledge };
    bridged.into_iter().chain([stand_in]).collect()
}
