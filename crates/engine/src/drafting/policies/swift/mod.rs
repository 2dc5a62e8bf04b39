//! The `swift` policy: the published on-the-fly search for a skip set, as it was published, to
//! compare with. All streams that ask for it share one search.
//!
//! It drafts chains; the original verifies up to ten candidates for a place, which a row of the
//! verify pass does not pay for here.

mod gaussian_process;
mod search;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skipstone_model::TokenId;

use self::search::matchness;
pub use self::search::{SwiftOptions, SwiftSearch};
use crate::betting::Betting;
use crate::drafting::plan::DraftPlan;
use crate::drafting::policy::{Begin, Context, DraftPolicy, DraftStep, Next, Setup};
use crate::drafting::registry::PolicyEntry;
use crate::lab::Lab;

const NAME: &str = "swift";

/// The plan that the search stands at.
pub static ENTRY: PolicyEntry = PolicyEntry {
    name: NAME,
    about: "layers skipped by the published search of SWIFT, which all streams share",
    takes_skip_set: false,
    start: Swift::start,
};

/// Drafts by the best set of the search so far, and stops after a token that is unsure.
struct Swift {
    search: Arc<Mutex<SwiftSearch>>,
    plan: Arc<DraftPlan>,
    /// Whether the last draft step was sure.
    is_sure: bool,
}

// === impl Swift ===

impl Swift {
    fn start(setup: &mut Setup<'_>) -> Box<dyn DraftPolicy> {
        let layers = setup.model.config().layers;
        let make = || Mutex::new(SwiftSearch::new(layers, SwiftOptions::default()));
        let search = setup.shared.get(NAME, make);
        let plan = plan_of(&lock(&search));
        Box::new(Self { search, plan, is_sure: false })
    }
}

impl DraftPolicy for Swift {
    fn begin(&mut self, _: &mut Context<'_>) -> Begin {
        let search = lock(&self.search);
        if search.best() != self.plan.skip_set() {
            self.plan = plan_of(&search);
        }
        Begin::Draft { plan: Arc::clone(&self.plan), arm: 0 }
    }

    fn keeps(&mut self, _: &mut Context<'_>, step: &DraftStep) -> bool {
        self.is_sure = step.confidence >= self.plan.confidence_threshold;
        true
    }

    fn next(&mut self, _: &mut Context<'_>, _: &[TokenId]) -> Next {
        if self.is_sure { Next::Draft } else { Next::Verify }
    }

    /// One step of the search, on the first tokens of the response.
    fn study(&mut self, lab: &mut Lab<'_>) -> bool {
        let mut search = lock(&self.search);
        let window = search.options().window;
        let first = lab.prompt();
        if search.is_finished() || lab.tokens().len() <= first + window + 1 {
            return false;
        }
        let Some(mask) = search.propose().map(|skip_set| skip_set.mask()) else { return false };
        let drafted = lab.draft(first, window + 1, &mask);
        search.observe(matchness(&drafted, &lab.tokens()[first..]));
        true
    }

    fn max_draft_tokens(&self) -> Option<usize> {
        Some(lock(&self.search).options().max_draft_tokens)
    }

    fn plan(&self, _: &Betting) -> Option<Arc<DraftPlan>> {
        Some(Arc::clone(&self.plan))
    }

    fn arm_name(&self, _: &Betting, _: usize) -> String {
        NAME.to_owned()
    }
}

/// A search that panicked midway is still a search.
fn lock(search: &Mutex<SwiftSearch>) -> MutexGuard<'_, SwiftSearch> {
    search.lock().unwrap_or_else(PoisonError::into_inner)
}

fn plan_of(search: &SwiftSearch) -> Arc<DraftPlan> {
    Arc::new(DraftPlan::skipping(search.best(), search.options().stop_threshold))
}
