//! Changes to single logits before the temperature: penalties, then bias.

use super::history::TokenHistory;
use super::params::SamplingSettings;

/// Whether the settings change any logit.
pub(super) fn changes_logits(settings: &SamplingSettings) -> bool {
    is_penalised(settings) || !settings.logit_bias.is_empty()
}

fn is_penalised(settings: &SamplingSettings) -> bool {
    settings.repetition_penalty != 1.0
        || settings.presence_penalty != 0.0
        || settings.frequency_penalty != 0.0
}

/// Writes the row with penalties and bias into `adjusted`; returns `false`, and writes nothing, if
/// there are none. Tokens outside the row are left out.
pub(super) fn adjust(
    logits: &[f32],
    settings: &SamplingSettings,
    history: &TokenHistory,
    adjusted: &mut Vec<f32>,
) -> bool {
    if !changes_logits(settings) {
        return false;
    }
    let SamplingSettings { repetition_penalty, presence_penalty, frequency_penalty, .. } =
        *settings;
    adjusted.clear();
    adjusted.extend_from_slice(logits);
    if is_penalised(settings) {
        for (token, generated) in history.occurrences() {
            let Some(logit) = adjusted.get_mut(token.index()) else { continue };
            // Away from the other tokens on either side of zero; a plain division would favour
            // negative logits.
            *logit = if *logit > 0.0 {
                *logit / repetition_penalty
            } else {
                *logit * repetition_penalty
            };
            if generated > 0 {
                *logit -= frequency_penalty * generated as f32 + presence_penalty;
            }
        }
    }
    for &(token, bias) in &settings.logit_bias {
        adjusted.get_mut(token.index()).into_iter().for_each(|logit| *logit += bias);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TokenId;

    /// Logits 2, -2, 0, 1, -inf; the prompt is 0 1 4, the output 3 3 0.
    fn adjusted(change: impl FnOnce(&mut SamplingSettings)) -> Vec<f32> {
        let mut settings = SamplingSettings::default();
        change(&mut settings);
        let mut history = TokenHistory::new(&[TokenId(0), TokenId(1), TokenId(4), TokenId(99)]);
        for token in [3, 3, 0] {
            history.push(TokenId(token));
        }
        let logits = [2.0, -2.0, 0.0, 1.0, f32::NEG_INFINITY];
        let mut adjusted = Vec::new();
        let changed = adjust(&logits, &settings, &history, &mut adjusted);
        if changed { adjusted } else { logits.to_vec() }
    }

    #[test]
    fn hand_computed_cases() {
        const BANNED: f32 = f32::NEG_INFINITY;
        let mut failures = Vec::new();
        let mut case = |name: &str, expected: [f32; 5], change: fn(&mut SamplingSettings)| {
            let found = adjusted(change);
            if found != expected {
                failures.push(format!("{name}: {found:?}, not {expected:?}"));
            }
        };
        case("neutral", [2.0, -2.0, 0.0, 1.0, BANNED], |_| ());
        case(
            "repetition: positive logits divide, negative multiply",
            [1.0, -4.0, 0.0, 0.5, BANNED],
            |s| {
                s.repetition_penalty = 2.0;
            },
        );
        case("repetition below 1 rewards", [4.0, -1.0, 0.0, 2.0, BANNED], |s| {
            s.repetition_penalty = 0.5
        });
        case("presence: once, the output alone", [1.5, -2.0, 0.0, 0.5, BANNED], |s| {
            s.presence_penalty = 0.5
        });
        case("frequency: each time, the output alone", [1.75, -2.0, 0.0, 0.5, BANNED], |s| {
            s.frequency_penalty = 0.25;
        });
        case("bias, also to banned and unseen tokens", [2.0, 1.0, -5.0, 1.0, BANNED], |s| {
            s.logit_bias = vec![(TokenId(1), 3.0), (TokenId(2), -5.0), (TokenId(4), 100.0)];
        });
        // (2 / 2 - .25 - .5) + 1 and (1 / 2 - .5 - .5) - 1: neither the penalties nor the bias
        // scale each other.
        case("all, in order", [1.25, -4.0, 0.0, -1.5, BANNED], |s| {
            s.repetition_penalty = 2.0;
            (s.frequency_penalty, s.presence_penalty) = (0.25, 0.5);
            s.logit_bias = vec![(TokenId(0), 1.0), (TokenId(3), -1.0)];
        });
        assert!(failures.is_empty(), "{failures:#?}");
    }
}
