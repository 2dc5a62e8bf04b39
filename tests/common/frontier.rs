//! Plans with bridges that are somewhat wrong, over a draft vocabulary that lacks some tokens.

#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

use std::sync::Arc;

use skipstone::adapt::{PlanKnowledge, Seat};
use skipstone::drafting::{DraftPlan, Gap};
use skipstone::model::{Bridge, DraftVocabulary, Model, TokenId};

use super::weights::Random;

/// Two plans: without layer 1, with a bridge of low rank, and without layers 1 and 2, with a bias.
/// Both draft `tokens` and what is in the stream.
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
    vec![plan("one layer, low rank", &[1], 4), plan("two layers, bias", &[1, 2], 0)]
}
