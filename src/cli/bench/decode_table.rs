//! The result of `bench decode` for people.

use std::io::{self, Write};

use crate::bench::decode::{DecodeReport, Figures, Interval, PeerReport};

/// A block of lines for each mode, one a category; then the peer.
pub(super) fn print_table(out: &mut impl Write, report: &DecodeReport) -> io::Result<()> {
    let DecodeReport { model, threads, max_new_tokens, prompts, repeats, temperature, .. } = report;
    let sampling = if *temperature == 0.0 {
        "greedy; all modes gave the same tokens".to_owned()
    } else {
        format!("temperature {temperature}, other tokens in each mode")
    };
    writeln!(
        out,
        "{model}, {threads} threads, {prompts} prompts x {repeats}, up to {max_new_tokens} new \
         tokens, {sampling}"
    )?;
    writeln!(
        out,
        "{:<10} {:<14} {:>8} {:>6} {:>13} {:>6} {:>7} {:>6} {:>6}  draft/verify/plain",
        "mode", "category", "tokens/s", "ratio", "95 %", "accept", "tok/cyc", "c", "v"
    )?;
    for (mode, figures) in &report.modes.0 {
        for (category, figures) in figures.rows() {
            writeln!(out, "{mode:<10} {category:<14} {}", line(figures))?;
        }
    }
    report.peer.as_ref().map_or(Ok(()), |peer| print_peer(out, peer))
}

/// Prints how much faster `adaptive` is with each mechanism than without.
pub(super) fn print_worth(out: &mut impl Write, worth: &[(String, Interval)]) -> io::Result<()> {
    for (mode, interval) in worth {
        writeln!(
            out,
            "adaptive / {mode:<22} {:.4} ({:.4} to {:.4})",
            interval.ratio, interval.ratio_low, interval.ratio_high
        )?;
    }
    Ok(())
}

fn print_peer(out: &mut impl Write, peer: &PeerReport) -> io::Result<()> {
    writeln!(out, "\n{}, and how much faster each mode is", peer.name)?;
    write!(out, "{:<14} {:>8}", "category", "tokens/s")?;
    for (mode, _) in &peer.ratios.0 {
        write!(out, " {mode:>20}")?;
    }
    writeln!(out)?;
    for (row, (category, figures)) in peer.figures.rows().enumerate() {
        write!(out, "{category:<14} {:>8}", number(figures.tokens_per_second, 1))?;
        for (_, ratios) in &peer.ratios.0 {
            let interval = ratios.rows().nth(row).and_then(|(_, interval)| *interval);
            write!(out, " {:>20}", interval.map_or("-".to_owned(), with_ends))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn line(figures: &Figures) -> String {
    let interval = match (figures.ratio_low, figures.ratio_high) {
        (Some(low), Some(high)) => format!("{low:.2} to {high:.2}"),
        _ => "-".to_owned(),
    };
    let share =
        |share: Option<f64>| share.map_or("-".to_owned(), |share| format!("{:.0}", 100.0 * share));
    format!(
        "{:>8} {:>6} {interval:>13} {:>6} {:>7} {:>6} {:>6}  {}/{}/{} %",
        number(figures.tokens_per_second, 1),
        number(figures.ratio_to_off, 3),
        number(figures.acceptance, 2),
        number(figures.tokens_per_cycle, 2),
        number(figures.draft_cost, 2),
        number(figures.verify_cost, 2),
        share(figures.draft_share),
        share(figures.verify_share),
        share(figures.plain_share),
    )
}

fn with_ends(interval: Interval) -> String {
    let Interval { ratio, ratio_low, ratio_high } = interval;
    format!("{ratio:.2} ({ratio_low:.2} to {ratio_high:.2})")
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}
