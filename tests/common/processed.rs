//! The processed distribution of the next token, in double precision and without regard to speed:
//! what samplers are judged by.

use skipstone::model::TokenId;
use skipstone::sampling::SamplingSettings;

/// The distribution after `prompt` and `generated`, by the definition of each processor.
pub fn processed(
    logits: &[f32],
    prompt: &[TokenId],
    generated: &[TokenId],
    settings: &SamplingSettings,
) -> Vec<f64> {
    let mut logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    for (token, logit) in logits.iter_mut().enumerate() {
        let count = generated.iter().filter(|other| other.index() == token).count() as f64;
        if count > 0.0 || prompt.iter().any(|other| other.index() == token) {
            let penalty = f64::from(settings.repetition_penalty);
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        if count > 0.0 {
            *logit -= f64::from(settings.presence_penalty)
                + count * f64::from(settings.frequency_penalty);
        }
    }
    for &(token, bias) in &settings.logit_bias {
        logits[token.index()] += f64::from(bias);
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if settings.top_k > 0 {
        order.truncate(settings.top_k as usize);
    }
    let best = logits[order[0]];
    let weight = |token: usize| ((logits[token] - best) / f64::from(settings.temperature)).exp();
    let total: f64 = order.iter().map(|&token| weight(token)).sum();
    let mut before = 0.0;
    order.retain(|&token| {
        let kept = before / total < f64::from(settings.top_p)
            && weight(token) >= f64::from(settings.min_p);
        before += weight(token);
        kept
    });
    let total: f64 = order.iter().map(|&token| weight(token)).sum();
    let mut distribution = vec![0.0; logits.len()];
    order.iter().for_each(|&token| distribution[token] = weight(token) / total);
    distribution
}
