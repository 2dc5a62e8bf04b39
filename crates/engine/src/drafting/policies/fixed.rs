//! The `static` policy: one plan for the whole stream, stopped before a token that is unsure.

use std::sync::Arc;

use skipstone_model::TokenId;

use crate::betting::Betting;
use crate::drafting::plan::DraftPlan;
use crate::drafting::policy::{Begin, Context, DraftPolicy, DraftStep, Next, PolicyRequest};
use crate::drafting::registry::PolicyEntry;
use crate::drafting::skip_set::SkipSet;
use crate::request::Speculation;

/// The skip set of the request, or the server's default one.
pub static ENTRY: PolicyEntry = PolicyEntry {
    name: "static",
    about: "one plan: the layers that the request or the settings name, or evenly spaced ones",
    takes_skip_set: true,
    start: |setup| {
        let skip_set = setup.request.skip_set.as_ref().unwrap_or(setup.default_skip_set);
        Fixed::boxed(DraftPlan::skipping(skip_set, setup.confidence_threshold))
    },
};

/// Drafts by one plan.
pub(super) struct Fixed {
    plan: Arc<DraftPlan>,
}

// === impl Speculation ===

impl Speculation {
    /// Drafting by one plan: what the skip set names, else the server's default.
    pub fn fixed(skip_set: Option<SkipSet>, max_draft_tokens: Option<usize>) -> Self {
        Self::Draft(PolicyRequest { skip_set, max_draft_tokens, ..PolicyRequest::new(&ENTRY) })
    }
}

// === impl Fixed ===

impl Fixed {
    pub(super) fn boxed(plan: DraftPlan) -> Box<dyn DraftPolicy> {
        Box::new(Self { plan: Arc::new(plan) })
    }
}

impl DraftPolicy for Fixed {
    fn begin(&mut self, _: &mut Context<'_>) -> Begin {
        Begin::Draft { plan: Arc::clone(&self.plan), arm: 0 }
    }

    fn keeps(&mut self, _: &mut Context<'_>, step: &DraftStep) -> bool {
        step.confidence >= self.plan.confidence_threshold
    }

    fn next(&mut self, _: &mut Context<'_>, _: &[TokenId]) -> Next {
        Next::Draft
    }

    fn plan(&self, _: &Betting) -> Option<Arc<DraftPlan>> {
        Some(Arc::clone(&self.plan))
    }

    fn arm_name(&self, _: &Betting, _: usize) -> String {
        "request".to_owned()
    }
}
