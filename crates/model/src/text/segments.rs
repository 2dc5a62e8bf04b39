//! Keeps message contents apart from what the chat template writes, so that no content can pose as
//! a control token.
//!
//! The template sees each content as it is, except that a written-out special token in it is
//! enclosed in two marker characters, and that a content whose edge is part of one (as `<` is of
//! `<s>`) is cut off by a third. After rendering the markers are taken out and their places noted:
//! no special token is read where they were. Ordinary contents hold no marker at all, so templates
//! that trim, split or inspect contents work on them as ever.

use std::collections::HashSet;
use std::ops::Range;

use super::special_tokens::TokenSet;
use super::{ChatMessage, TextError};

/// The private-use planes 15 and 16, which no text needs and no template changes (case, trimming,
/// JSON).
const MARKER_CANDIDATES: [std::ops::RangeInclusive<char>; 2] =
    ['\u{F0000}'..='\u{FFFFD}', '\u{100000}'..='\u{10FFFD}'];

/// Marks contents before rendering and finds them after.
#[derive(Debug)]
pub(super) struct ContentMarker {
    open: char,
    close: char,
    edge: char,
    marked: HashSet<String>,
}

/// Rendered text without markers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unmarked {
    pub(super) text: String,
    /// Ranges in which no special token may be read: sorted, disjoint. An empty range is a place
    /// that none may span.
    pub(super) closed: Vec<Range<usize>>,
}

// === impl ContentMarker ===

impl ContentMarker {
    /// Chooses markers that occur nowhere in the template or the messages.
    pub(super) fn new(template: &str, messages: &[ChatMessage]) -> Result<Self, TextError> {
        let texts = std::iter::once(template)
            .chain(messages.iter().map(|message| message.content.as_str()));
        let used: HashSet<char> =
            texts.flat_map(str::chars).filter(|&character| character >= '\u{F0000}').collect();
        let mut free =
            MARKER_CANDIDATES.into_iter().flatten().filter(|character| !used.contains(character));
        let (Some(open), Some(close), Some(edge)) = (free.next(), free.next(), free.next()) else {
            return Err(TextError::NoMarkerLeft);
        };
        Ok(Self { open, close, edge, marked: HashSet::new() })
    }

    /// A content with its special tokens enclosed. Markers go inside the white space around the
    /// content, which the template may trim.
    pub(super) fn mark(&mut self, content: &str, specials: &TokenSet) -> String {
        let core = content.trim();
        let spans = spans(core, specials);
        let starts_inside = specials.texts().iter().any(|special| starts_inside(core, special));
        let ends_inside = specials.texts().iter().any(|special| ends_inside(core, special));
        if core.is_empty() || spans.is_empty() && !starts_inside && !ends_inside {
            return content.to_owned();
        }
        let lead = content.len() - content.trim_start().len();
        let mut marked = content[..lead].to_owned();
        if starts_inside {
            marked.push(self.edge);
        }
        let mut at = 0;
        for span in spans {
            marked.push_str(&core[at..span.start]);
            marked.push(self.open);
            marked.push_str(&core[span.clone()]);
            marked.push(self.close);
            at = span.end;
            self.marked.insert(core[span].to_owned());
        }
        marked.push_str(&core[at..]);
        if ends_inside {
            marked.push(self.edge);
        }
        marked.push_str(&content[lead + core.len()..]);
        marked
    }

    /// Takes the markers out of rendered text.
    pub(super) fn unmark(&self, rendered: &str) -> Unmarked {
        let mut text = String::with_capacity(rendered.len());
        let mut closed = Vec::new();
        let mut opened = None;
        for character in rendered.chars() {
            let here = text.len();
            if character == self.open {
                // Alone, without its partner, a marker still closes the byte beside it: a template
                // that cut the content in the middle must not free what was enclosed.
                closed.push(here..here + 1);
                opened = Some(here);
            } else if character == self.close {
                closed.push(here.saturating_sub(1)..here);
                if let Some(start) =
                    opened.take().filter(|&start| self.marked.contains(&text[start..]))
                {
                    closed.push(start..here);
                }
            } else if character == self.edge {
                closed.push(here..here);
            } else {
                text.push(character);
            }
        }
        Unmarked { text, closed: merge(closed) }
    }
}

/// Ranges in which special tokens are written out, overlapping ones joined.
fn spans(text: &str, specials: &TokenSet) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for start in 0..text.len() {
        let Some((len, _)) = specials.longest_at(text.as_bytes(), start, |_| true) else {
            continue;
        };
        match spans.last_mut() {
            Some(last) if start < last.end => last.end = last.end.max(start + len),
            _ => spans.push(start..start + len),
        }
    }
    spans
}

/// Whether something before the content could make its beginning a part of the special token.
fn starts_inside(content: &str, special: &str) -> bool {
    special.char_indices().skip(1).any(|(at, _)| {
        let rest = &special[at..];
        content.starts_with(rest) || rest.starts_with(content)
    })
}

/// Whether something after the content could make its end a part of the special token.
fn ends_inside(content: &str, special: &str) -> bool {
    special.char_indices().skip(1).any(|(at, _)| {
        let head = &special[..at];
        content.ends_with(head) || head.ends_with(content)
    })
}

/// Sorts ranges and joins those that overlap; empty ones survive between others.
fn merge(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenId;
    use crate::text::Role;
    use crate::text::special_tokens::Piece;

    fn specials() -> TokenSet {
        TokenSet::new([("<s>", TokenId(1)), ("</s>", TokenId(2)), ("<s><x>", TokenId(3))]).unwrap()
    }

    fn marker(template: &str, contents: &[&str]) -> ContentMarker {
        let messages: Vec<_> =
            contents.iter().map(|content| ChatMessage::new(Role::User, *content)).collect();
        ContentMarker::new(template, &messages).unwrap()
    }

    /// Marks the contents, lets `render` do with them what it likes, and lists the tokens found.
    fn tokens(contents: &[&str], render: impl Fn(&[String]) -> String) -> (String, Vec<u32>) {
        let mut marker = marker("", contents);
        let marked: Vec<String> =
            contents.iter().map(|content| marker.mark(content, &specials())).collect();
        let unmarked = marker.unmark(&render(&marked));
        let tokens =
            specials().split(&unmarked.text, &unmarked.closed).into_iter().filter_map(|piece| {
                match piece {
                    Piece::Token(token) => Some(token.0),
                    Piece::Text(_) => None,
                }
            });
        let tokens = tokens.collect();
        (unmarked.text, tokens)
    }

    #[test]
    fn ordinary_contents_are_not_touched() {
        let mut marker = marker("", &[]);
        for content in ["", " \n", "Hello", " a > b && c < d ", "s", "a\u{F0000}b"] {
            let expected = if content == "s" { "\u{F0002}s\u{F0002}" } else { content };
            assert_eq!(marker.mark(content, &specials()), expected);
        }
    }

    #[test]
    fn only_the_template_writes_tokens() {
        let turn = |contents: &[String]| format!("<s>{}</s>", contents.concat());
        let contents: &[&[&str]] = &[
            &["hi"],
            &["<s>"],
            &["</s><s>"],
            &["<"],
            &["s>"],
            &["<s"],
            &[">"],
            &["<s><x>"],
            &["<<s>>"],
            &["<s><s>"],
            &["<", "s>"],
            &["<s", ">"],
            &["<", "s", ">"],
            &[" <s> "],
            &["</s", ">"],
            &[""],
            &["\u{F0000}<s>\u{F0001}"],
            &["<x>"],
            &["<s></s><s><x></s>"],
        ];
        let mut wrong = Vec::new();
        for contents in contents {
            let (text, tokens) = tokens(contents, turn);
            if text != format!("<s>{}</s>", contents.concat()) || tokens != [1, 2] {
                wrong.push((contents, text, tokens));
            }
        }
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn templates_may_trim_split_cut_and_quote() {
        assert_eq!(
            tokens(&["  <s>\n"], |contents| format!("<s>{}", contents[0].trim())),
            ("<s><s>".into(), vec![1])
        );
        let after = |contents: &[String]| {
            format!("<s>\n{}", contents[0].split("</s>").last().unwrap_or_default())
        };
        assert_eq!(tokens(&["a</s>b<s>"], after), ("<s>\nb<s>".into(), vec![1]));
        let cut = |contents: &[String]| contents[0].chars().take(5).collect();
        assert_eq!(
            tokens(&["a<s>b"], cut),
            ("a<s>".into(), vec![]),
            "the closing marker was cut off"
        );
        let cut_front = |contents: &[String]| contents[0].chars().skip(2).collect();
        assert_eq!(
            tokens(&["a<s>b"], cut_front),
            ("<s>b".into(), vec![]),
            "the opening marker was cut off"
        );
        let beside = |contents: &[String]| {
            format!("<s>{}", contents[0].split("</s>").last().unwrap_or_default())
        };
        assert_eq!(
            tokens(&["a</s>b"], beside).1,
            [0; 0],
            "looks the same as a cut: text is the safe choice"
        );
        let before = |contents: &[String]| {
            format!("{}<x></s>", contents[0].split('>').next().unwrap_or_default())
        };
        assert_eq!(
            tokens(&["a<s>b"], before).1,
            [2],
            "a marker that lost its partner hides no template token"
        );
    }

    #[test]
    fn the_inverse_without_markers_forges_tokens() {
        let plain = specials().split("<s><s></s>", &[]).len();
        assert_eq!(
            plain, 3,
            "unmarked contents would be read as tokens, so the tests above can fail"
        );
    }

    #[test]
    fn markers_avoid_what_is_in_use() {
        let marker = marker("\u{F0001}", &["\u{F0000}\u{F0003}"]);
        assert_eq!(
            (marker.open, marker.close, marker.edge),
            ('\u{F0002}', '\u{F0004}', '\u{F0005}')
        );
        let all: String = MARKER_CANDIDATES.into_iter().flatten().collect();
        let refused = ContentMarker::new("", &[ChatMessage::new(Role::User, all)]);
        assert!(matches!(refused, Err(TextError::NoMarkerLeft)));
    }

    #[test]
    fn ranges_merge() {
        assert_eq!(merge(vec![4..4, 0..1, 2..3, 0..3, 3..3]), [0..3, 3..3, 4..4]);
    }
}
