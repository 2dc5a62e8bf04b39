//! Sources of the prompts of `generate`: a flag, standard input, token ids, or a file of many.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;

use skipstone_model::TokenId;

/// One prompt. In a prompts file, one JSON object a line.
#[derive(Clone, PartialEq, Deserialize, Debug)]
pub(super) struct PromptRecord {
    /// Names the prompt in the output; any JSON value.
    pub(super) id: serde_json::Value,
    /// Kind of prompt; handed through.
    #[serde(default)]
    pub(super) category: Option<String>,
    /// The text.
    pub(super) prompt: String,
}

/// The text itself, or standard input for `-`, without its last line end.
pub(super) fn prompt_text(argument: &str) -> anyhow::Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("can't read the prompt from standard input")?;
    Ok(without_last_line_end(&text).to_owned())
}

/// Token ids as in `1,2,3`.
pub(super) fn token_ids(argument: &str) -> Result<Vec<TokenId>, String> {
    let parse = |id: &str| {
        id.trim()
            .parse()
            .map(TokenId)
            .map_err(|_| format!("{id:?} is not a token id; write numbers, as in 1,2,3"))
    };
    argument.split(',').map(parse).collect()
}

/// Reads a prompts file: one JSON object a line with `id`, `prompt` and perhaps `category`. Empty
/// lines are passed over.
pub(super) fn read_prompts(path: &Path) -> anyhow::Result<Vec<PromptRecord>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("can't read the prompts file {}", path.display()))?;
    let records = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| {
            serde_json::from_str(line).with_context(|| {
                format!(
                    "line {} of {} is not a prompt, as in {{\"id\": 1, \"prompt\": \"Hi\"}}",
                    index + 1,
                    path.display()
                )
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!records.is_empty(), "the prompts file {} holds no prompts", path.display());
    Ok(records)
}

/// The text without the line end that `echo` and editors append; further line ends are part of the
/// prompt.
fn without_last_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_end_is_dropped() {
        for (text, prompt) in [("a\n", "a"), ("a\n\n", "a\n"), ("a\r\n", "a"), ("a", "a"), ("", "")]
        {
            assert_eq!(without_last_line_end(text), prompt, "{text:?}");
        }
    }

    #[test]
    fn token_ids_are_numbers() {
        assert_eq!(token_ids("1, 2,3"), Ok(vec![TokenId(1), TokenId(2), TokenId(3)]));
        for wrong in ["", "1,", "1,-2", "a", "4294967296"] {
            assert!(token_ids(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_prompts_file_is_read_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.jsonl");
        fs::write(
            &path,
            "{\"id\": 82, \"category\": \"qa\", \"prompt\": \"Hi\"}\n\n{\"id\": \"b\", \
             \"prompt\": \"\"}\n",
        )
        .unwrap();
        let records = read_prompts(&path).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!(
            (&records[0].id, records[0].category.as_deref()),
            (&serde_json::json!(82), Some("qa"))
        );
        assert_eq!(
            (&records[1].id, records[1].category.as_deref()),
            (&serde_json::json!("b"), None)
        );

        fs::write(&path, "{\"id\": 1, \"prompt\": \"a\"}\n{\"id\": 2}\n").unwrap();
        let error = format!("{:#}", read_prompts(&path).unwrap_err());
        assert!(
            error.contains("line 2 of ") && error.contains("missing field `prompt`"),
            "{error}"
        );
        fs::write(&path, "\n").unwrap();
        assert!(read_prompts(&path).unwrap_err().to_string().contains("holds no prompts"));
    }
}
