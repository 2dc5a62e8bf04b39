//! The bench against an engine that says what the test tells it to.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::mpsc;

use super::*;
use skipstone_engine::{
    CancelFlag, CommittedToken, Delta, Event, FinishReason, Finished, GenerationStream,
    Speculation, SpeculationStats, Started, StreamMessage, Submit, SubmitError, Timing, Usage,
    ValidRequest,
};
use skipstone_model::TokenId;

/// Says 0, 1, 2...; one token a message when it doesn't draft, three otherwise and twice as fast.
struct Counting {
    /// Place where a drafting stream says something else, for prompts that start with token 7.
    wrong_at: Option<usize>,
    seen: Mutex<Vec<String>>,
    /// Temperatures and seeds asked for.
    seeds: Mutex<Vec<(f32, u64)>>,
}

// === impl Counting ===

impl Counting {
    fn new(wrong_at: Option<usize>) -> Self {
        Self { wrong_at, seen: Mutex::default(), seeds: Mutex::default() }
    }
}

impl Submit for Counting {
    fn submit(&self, request: ValidRequest) -> Result<GenerationStream, SubmitError> {
        self.seen.lock().unwrap().push(request.id.clone());
        let sampling = request.sampling.settings();
        self.seeds.lock().unwrap().push((sampling.temperature, sampling.seed));
        let drafts = request.speculation != Speculation::Off;
        let count = request.stop.max_new_tokens;
        let wrong_at = self.wrong_at.filter(|_| drafts && request.prompt[0] == TokenId(7));
        let token = |index: usize| CommittedToken {
            id: TokenId(if wrong_at == Some(index) { 999 } else { index as u32 }),
            logprob: None,
            top_logprobs: Vec::new(),
            drafted: false,
        };
        let tokens: Vec<CommittedToken> = (0..count).map(token).collect();
        let delta = |tokens: &[CommittedToken]| {
            Ok(Event::Delta(Delta { tokens: tokens.to_vec(), ..Delta::default() }))
        };
        let mut messages: Vec<StreamMessage> =
            vec![Ok(Event::Started(Started { prompt_tokens: 1, plan: None })), delta(&tokens[..1])];
        let (each, seconds) = if drafts { (3, 0.05) } else { (1, 0.1) };
        messages.extend(tokens[1..].chunks(each).map(delta));
        messages.push(Ok(Event::Finished(Box::new(Finished {
            reason: FinishReason::Length,
            usage: Usage { prompt_tokens: 1, completion_tokens: count },
            speculation: SpeculationStats {
                draft_tokens: if drafts { count } else { 0 },
                accepted_tokens: if drafts { count / 2 } else { 0 },
                ..SpeculationStats::default()
            },
            timing: Timing {
                decode: Duration::from_secs_f64(seconds * (count - 1) as f64),
                ..Timing::default()
            },
        }))));
        let (sender, receiver) = mpsc::channel(messages.len());
        messages.into_iter().for_each(|message| sender.try_send(message).unwrap());
        Ok(GenerationStream::new(receiver, CancelFlag::default()))
    }

    fn drain(&self) {}

    fn in_flight(&self) -> usize {
        0
    }
}

fn bench(repeats: usize) -> DecodeBench {
    let prompt = |(id, category, first): (&str, &str, u32)| DecodePrompt {
        id: id.to_owned(),
        category: category.to_owned(),
        tokens: vec![TokenId(first)],
    };
    let mode = |(name, speculation): (&str, Speculation)| DecodeMode {
        name: name.to_owned(),
        speculation,
    };
    DecodeBench {
        modes: [
            ("adaptive", Speculation::adaptive(None)),
            ("off", Speculation::Off),
            ("unified", Speculation::fixed(None, None)),
        ]
        .map(mode)
        .to_vec(),
        prompts: [("p1", "chat", 1), ("p2", "code", 7), ("p3", "chat", 3)].map(prompt).to_vec(),
        max_new_tokens: 10,
        repeats,
        temperature: 0.0,
    }
}

#[test]
fn every_mode_takes_its_turn_with_every_prompt_in_changing_order() {
    let (bench, engine, mut turns) = (bench(4), Counting::new(None), 0);
    let run = bench.run(&engine, None, &mut || turns += 1).unwrap();
    assert_eq!((turns, run.measurements.len()), (bench.turns(false), 3 * 4 * 3));
    let seen = engine.seen.into_inner().unwrap();
    let rounds: Vec<Vec<&str>> =
        seen[3..].chunks(3).map(|round| round.iter().map(String::as_str).collect()).collect();
    let mut orders = std::collections::HashSet::new();
    for (index, round) in rounds.iter().enumerate() {
        let prompt = &bench.prompts[index / 4].id;
        let mut modes: Vec<&str> =
            round.iter().map(|id| id.strip_prefix(prompt.as_str()).unwrap().trim()).collect();
        orders.insert(modes.clone());
        modes.sort_unstable();
        assert_eq!(modes, ["adaptive", "off", "unified"], "round {index}");
    }
    assert!(orders.len() > 2, "{orders:?}");
}

#[test]
fn a_mode_that_says_something_else_is_an_error_with_names() {
    let error = bench(2).run(&Counting::new(Some(5)), None, &mut || {}).unwrap_err().to_string();
    for part in ["prompt p2", "differs from off", "token 5"] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn sampled_modes_may_say_other_things_and_take_seeds_in_turn() {
    let (bench, engine) = (DecodeBench { temperature: 0.7, ..bench(2) }, Counting::new(Some(5)));
    bench.run(&engine, None, &mut || {}).unwrap();
    let seeds = engine.seeds.into_inner().unwrap();
    assert_eq!(
        seeds[3..].iter().map(|seed| seed.1).collect::<Vec<_>>(),
        [0, 0, 0, 1, 1, 1].repeat(3)
    );
    assert!(seeds.iter().all(|seed| seed.0 == 0.7));
}

#[test]
fn the_report_has_the_documented_fields() {
    let bench = bench(1);
    let run = bench.run(&Counting::new(None), None, &mut || {}).unwrap();
    let report = DecodeReport::new(&bench, &run, "m.gguf".to_owned(), 2);
    let json = serde_json::to_value(&report).unwrap();
    for (pointer, expected) in [
        ("/modes/off/overall/ratio_to_off", 1.0),
        ("/modes/off/overall/tokens_per_second", 10.0),
        ("/modes/off/overall/tokens_per_cycle", 1.0),
        ("/modes/unified/overall/tokens_per_second", 20.0),
        ("/modes/unified/overall/ratio_to_off", 2.0),
        ("/modes/unified/overall/ratio_low", 2.0),
        ("/modes/unified/overall/ratio_high", 2.0),
        ("/modes/unified/overall/acceptance", 0.5),
        ("/modes/unified/categories/code/tokens_per_cycle", 3.0),
        ("/modes/adaptive/categories/chat/ratio_to_off", 2.0),
    ] {
        let found = json.pointer(pointer).and_then(serde_json::Value::as_f64);
        assert!(
            found.is_some_and(|found| (found - expected).abs() < 1e-9),
            "{pointer}: {found:?} in {json}"
        );
    }
    assert_eq!(json.pointer("/modes/off/overall/acceptance"), Some(&serde_json::Value::Null));
    assert_eq!(json.pointer("/peer"), Some(&serde_json::Value::Null));
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.find("\"adaptive\":") < text.find("\"off\":"), "modes are in the order asked for");
}

#[test]
fn without_plain_decoding_there_are_no_ratios() {
    let mut bench = bench(1);
    bench.modes.remove(1);
    let run = bench.run(&Counting::new(None), None, &mut || {}).unwrap();
    let report = DecodeReport::new(&bench, &run, "m.gguf".to_owned(), 2);
    assert_eq!(report.reference, None);
    for (name, mode) in &report.modes.0 {
        assert_eq!((mode.overall.ratio_to_off, mode.overall.draft_cost), (None, None), "{name}");
        assert!(mode.overall.tokens_per_second.is_some(), "{name}");
    }
}

#[test]
fn measurements_and_picture_reach_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let bench = bench(1);
    let run = bench.run(&Counting::new(None), None, &mut || {}).unwrap();
    let csv = folder.path().join("a.csv");
    write_csv(&csv, &bench, &run).unwrap();
    let lines: Vec<String> =
        std::fs::read_to_string(&csv).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 1 + 9);
    assert!(
        lines[0].starts_with("prompt,category,mode,repeat,tokens,seconds,passes,"),
        "{}",
        lines[0]
    );
    assert!(lines.iter().any(|line| line.starts_with("p2,code,off,0,9,0.9,9,0,0,")), "{lines:?}");

    let picture = folder.path().join("a.svg");
    draw(&DecodeReport::new(&bench, &run, "m.gguf".to_owned(), 2), &picture).unwrap();
    let svg = std::fs::read_to_string(&picture).unwrap();
    for part in ["m.gguf", "chat", "code", "overall", "unified", "adaptive", "2.00"] {
        assert!(svg.contains(part), "{part} is not in the picture");
    }
    let nowhere = folder.path().join("none").join("a.svg");
    let report = DecodeReport::new(&bench, &run, "m.gguf".to_owned(), 2);
    let error = draw(&report, &nowhere).unwrap_err().to_string();
    assert!(error.contains("none"), "{error}");
}
