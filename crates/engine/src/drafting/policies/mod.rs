//! One file a policy.

pub(super) mod adaptive;
pub(super) mod fixed;
pub(super) mod swift;
pub(super) mod unified;
