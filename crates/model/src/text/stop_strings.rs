//! Ends a stream at a text that may span many tokens.

/// Watches the text of a stream for stop strings.
///
/// One Knuth-Morris-Pratt automaton per stop string, so each byte is looked at a bounded number of
/// times, however the text is cut into pushes. The match that *ends* first wins, the longest of
/// those that end together; this choice is what makes the result independent of the cuts.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    patterns: Vec<Pattern>,
    include_matched: bool,
    // Text that may be the beginning of a stop string.
    held: String,
    matched: bool,
}

/// Result of a push of text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StopStep {
    /// Text that is safe to emit: no part of it belongs to a stop string (save the match itself, if
    /// that was asked for).
    pub text: String,
    /// The stop string that ended the stream; later pushes yield nothing.
    pub matched: Option<String>,
}

#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    // borders[i] is the length of the longest proper prefix of text[..=i] that is also its suffix.
    borders: Vec<usize>,
    // Bytes of the pattern that the stream's end equals at this time.
    state: usize,
}

// === impl StopMatcher ===

impl StopMatcher {
    /// Watches for any of the stop strings; empty ones are ignored. `include_matched` keeps the
    /// match in the text.
    pub fn new(stop_strings: Vec<String>, include_matched: bool) -> Self {
        let patterns =
            stop_strings.into_iter().filter(|text| !text.is_empty()).map(Pattern::new).collect();
        Self { patterns, include_matched, held: String::new(), matched: false }
    }

    /// Takes the next text of the stream and returns what can be emitted of it and of the text held
    /// back before.
    pub fn push(&mut self, text: &str) -> StopStep {
        if self.matched {
            return StopStep::default();
        }
        if self.patterns.is_empty() {
            return StopStep { text: text.to_owned(), matched: None };
        }
        let held_before = self.held.len();
        self.held.push_str(text);
        for (index, byte) in text.bytes().enumerate() {
            if let Some(stop) = self.advance(byte) {
                let end = held_before + index + 1;
                let cut = if self.include_matched { end } else { end - stop.len() };
                self.matched = true;
                self.held.truncate(cut);
                return StopStep { text: std::mem::take(&mut self.held), matched: Some(stop) };
            }
        }
        // Stop strings start with a whole character, so the text that may begin one does too.
        let keep = self.patterns.iter().map(|pattern| pattern.state).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        StopStep { text: std::mem::replace(&mut self.held, rest), matched: None }
    }

    /// Ends the stream and returns the text that was held back.
    pub fn finish(&mut self) -> String {
        for pattern in &mut self.patterns {
            pattern.state = 0;
        }
        std::mem::take(&mut self.held)
    }

    /// Feeds one byte to every pattern; the longest stop string that it completes.
    fn advance(&mut self, byte: u8) -> Option<String> {
        let mut complete: Option<&str> = None;
        for pattern in &mut self.patterns {
            if pattern.advance(byte) && complete.is_none_or(|text| text.len() < pattern.text.len())
            {
                complete = Some(&pattern.text);
            }
        }
        complete.map(str::to_owned)
    }
}

// === impl Pattern ===

impl Pattern {
    fn new(text: String) -> Self {
        let bytes = text.as_bytes();
        let mut borders = vec![0; bytes.len()];
        let mut border = 0;
        for index in 1..bytes.len() {
            while border > 0 && bytes[index] != bytes[border] {
                border = borders[border - 1];
            }
            border += usize::from(bytes[index] == bytes[border]);
            borders[index] = border;
        }
        Self { text, borders, state: 0 }
    }

    /// Whether the byte completes the pattern. A complete pattern ends the stream, so it is never
    /// advanced again.
    fn advance(&mut self, byte: u8) -> bool {
        let bytes = self.text.as_bytes();
        while self.state > 0 && bytes[self.state] != byte {
            self.state = self.borders[self.state - 1];
        }
        self.state += usize::from(bytes[self.state] == byte);
        self.state == bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(
        stops: &[&str],
        include: bool,
        pushes: &[&str],
    ) -> (Vec<String>, Option<String>, String) {
        let mut matcher =
            StopMatcher::new(stops.iter().map(|stop| (*stop).to_owned()).collect(), include);
        let mut matched = None;
        let mut texts = Vec::new();
        for push in pushes {
            let step = matcher.push(push);
            texts.push(step.text);
            matched = matched.or(step.matched);
        }
        let rest = matcher.finish();
        (texts, matched, rest)
    }

    #[test]
    fn text_is_held_back_only_while_it_may_begin_a_stop_string() {
        type Case = (
            &'static [&'static str],
            bool,
            &'static [&'static str],
            &'static [&'static str],
            Option<&'static str>,
            &'static str,
        );
        let cases: &[Case] = &[
            (&[], false, &["ab", "c"], &["ab", "c"], None, ""),
            (&[""], false, &["ab"], &["ab"], None, ""),
            (&["STOP"], false, &["a S", "T", "O", "x"], &["a ", "", "", "STOx"], None, ""),
            (&["STOP"], false, &["a S", "TO", "P b", "c"], &["a ", "", "", ""], Some("STOP"), ""),
            (
                &["STOP"],
                true,
                &["a S", "TO", "P b", "c"],
                &["a ", "", "STOP", ""],
                Some("STOP"),
                "",
            ),
            (&["STOP"], false, &["a S", "TO"], &["a ", ""], None, "STO"),
            (&["aab"], false, &["a", "a", "a", "b"], &["", "", "a", ""], Some("aab"), ""),
            (&["bc", "abcd"], false, &["abcd"], &["a"], Some("bc"), ""),
            (&["bc", "abcd"], false, &["a", "b", "c", "d"], &["", "", "a", ""], Some("bc"), ""),
            (&["c", "abc"], false, &["xabc"], &["x"], Some("abc"), ""),
            (&["\n\n"], false, &["a\n", "b\n", "\nc"], &["a", "\nb", ""], Some("\n\n"), ""),
            (&["é你"], false, &["né", "你好"], &["n", ""], Some("é你"), ""),
            (&["é你"], false, &["né", "!"], &["n", "é!"], None, ""),
        ];
        let mut wrong = Vec::new();
        for case in cases {
            let (stops, include, pushes, texts, matched, rest) = *case;
            let got = run(stops, include, pushes);
            if got.0 != texts || got.1.as_deref() != matched || got.2 != rest {
                wrong.push((case, got));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter_and_nothing_is_lost(
            text in "[abé]{0,24}",
            stops in proptest::collection::vec("[abé]{1,4}", 1..4),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
            include in any::<bool>(),
        ) {
            // The naive answer: try every end, then every stop string, the longest first.
            let ends = (0..=text.len()).filter(|&end| text.is_char_boundary(end));
            let mut longest_first = stops.clone();
            longest_first.sort_by_key(|stop| std::cmp::Reverse(stop.len()));
            let expected = ends
                .flat_map(|end| longest_first.iter().map(move |stop| (end, stop)))
                .find(|(end, stop)| text[..*end].ends_with(stop.as_str()));
            let want = match expected {
                Some((end, stop)) => &text[..if include { end } else { end - stop.len() }],
                None => &text[..],
            };

            let mut at: Vec<usize> = cuts
                .iter()
                .map(|cut| cut.index(text.len() + 1))
                .filter(|&cut| text.is_char_boundary(cut))
                .chain([0, text.len()])
                .collect();
            at.sort_unstable();
            let pushes: Vec<&str> = at.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (texts, matched, rest) = run(&stops, include, &pushes);
            prop_assert_eq!(texts.concat() + &rest, want);
            prop_assert_eq!(matched.as_ref(), expected.map(|(_, stop)| stop));
        }
    }
}
