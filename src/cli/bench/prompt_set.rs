//! Prompt files of the benches.

use std::path::Path;

use anyhow::ensure;

use super::super::prompts::{PromptRecord, read_prompts};
use super::super::runtime::Runtime;
use crate::bench::decode::DecodePrompt;
use skipstone_model::text::{ChatMessage, Role};

/// Category of a prompt that names none.
const NO_CATEGORY: &str = "other";

/// The prompts of the file, rendered with the model's chat template; each must leave room for
/// `max_new_tokens`.
pub(super) fn load(
    path: &Path,
    limit: Option<usize>,
    runtime: &Runtime,
    max_new_tokens: usize,
) -> anyhow::Result<Vec<DecodePrompt>> {
    let mut records = read_prompts(path)?;
    if let Some(limit) = limit {
        records = first_of_each(records, limit);
    }
    ensure!(!records.is_empty(), "{} leaves no prompts", path.display());
    let prompt = |record: &PromptRecord| {
        let id = record.id.as_str().map_or_else(|| record.id.to_string(), str::to_owned);
        let tokens =
            runtime.encode_chat(&[ChatMessage::new(Role::User, record.prompt.as_str())])?;
        ensure!(
            tokens.len() + max_new_tokens <= runtime.context_length,
            "prompt {id}: {} tokens and {max_new_tokens} new ones don't fit the context of {}",
            tokens.len(),
            runtime.context_length
        );
        let category = record.category.clone().unwrap_or_else(|| NO_CATEGORY.to_owned());
        Ok(DecodePrompt { id, category, tokens })
    };
    records.iter().map(prompt).collect()
}

/// The first `limit` prompts of each category, in their order.
fn first_of_each(records: Vec<PromptRecord>, limit: usize) -> Vec<PromptRecord> {
    let mut kept: Vec<PromptRecord> = Vec::new();
    for record in records {
        if kept.iter().filter(|other| other.category == record.category).count() < limit {
            kept.push(record);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_keeps_the_first_prompts_of_each_category() {
        let record = |(id, category): (u32, &str)| PromptRecord {
            id: id.into(),
            category: (!category.is_empty()).then(|| category.to_owned()),
            prompt: String::new(),
        };
        let records = || {
            [(1, "a"), (2, "b"), (3, "a"), (4, ""), (5, "a"), (6, ""), (7, "")].map(record).to_vec()
        };
        for (limit, expected) in
            [(0, &[][..]), (1, &[1, 2, 4]), (2, &[1, 2, 3, 4, 6]), (9, &[1, 2, 3, 4, 5, 6, 7])]
        {
            let kept: Vec<u64> = first_of_each(records(), limit)
                .iter()
                .filter_map(|record| record.id.as_u64())
                .collect();
            assert_eq!(kept, expected, "limit {limit}");
        }
    }
}
