//! Roles of tokens: which are control tokens, which mark places in chats, and which end the output.

use super::TokenType;
use super::token_table::TokenRole;

/// Names that end a turn or a text in the models of this field. Converters miss some: the metadata
/// has room for few.
const END_NAMES: &[&str] = &[
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<|endofturn|>",
    "<|eot|>",
    "<|return|>",
    "</s>",
    "<eos>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// Whether a control token of this name ends the output.
pub(super) fn ends_output(text: &str) -> bool {
    END_NAMES.contains(&text)
}

/// The role of a token in text.
///
/// A user-defined token counts as a marker when it has the shape of one, or is a bracketed word
/// that the chat template writes out itself: then it tells the model where a part begins, which
/// message contents must not be able to fake.
pub(super) fn role_of(text: &str, kind: TokenType, templates: &[String]) -> TokenRole {
    match kind {
        TokenType::Control | TokenType::Unknown => TokenRole::Control,
        TokenType::UserDefined if ends_output(text) => TokenRole::Control,
        TokenType::UserDefined if is_marker(text, templates) => TokenRole::Marker,
        TokenType::UserDefined => TokenRole::Added,
        TokenType::Normal | TokenType::Unused | TokenType::Byte => TokenRole::Ordinary,
    }
}

fn is_marker(text: &str, templates: &[String]) -> bool {
    let within = |open: &str, close: &str| {
        text.len() > open.len() + close.len() && text.starts_with(open) && text.ends_with(close)
    };
    within("<|", "|>")
        || (within("<", ">") || within("[", "]"))
            && templates.iter().any(|template| template.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_follow_type_shape_and_template() {
        use TokenRole::{Added, Control, Marker, Ordinary};
        use TokenType::{Normal, Unknown, UserDefined};
        let template = "{{ '<think>\n' }}[INST]\n\n";
        let cases = [
            ("<|im_start|>", TokenType::Control, "", Control),
            ("<unk>", Unknown, "", Control),
            ("<|im_end|>", UserDefined, "", Control),
            ("<|user|>", UserDefined, "", Marker),
            ("<think>", UserDefined, template, Marker),
            ("<think>", UserDefined, "", Added),
            ("[INST]", UserDefined, template, Marker),
            ("\n\n", UserDefined, template, Added),
            ("<table>", UserDefined, template, Added),
            ("<>", UserDefined, "<>", Added),
            ("<|im_end|>", Normal, template, Ordinary),
        ];
        let wrong: Vec<_> = cases
            .iter()
            .filter(|(text, kind, template, want)| {
                role_of(text, *kind, &[(*template).to_owned()]) != *want
            })
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
