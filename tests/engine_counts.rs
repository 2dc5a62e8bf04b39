//! Promise: a stream that has ended is counted once, and no longer as running, however late its
//! reader fetches what is left.
#![allow(clippy::unwrap_used, reason = "helpers of tests may assert by panicking, as tests do")]

mod common;

use common::engine::{options, request, start, wait_until};
use common::tiny_model::TinyModel;
use metrics_exporter_prometheus::PrometheusBuilder;
use skipstone::engine::{EngineOptions, Event, FinishReason, Speculation, Submit};
use skipstone::model::TokenId;

const ANSWER: usize = 4;

#[test]
fn a_late_reader_is_neither_running_nor_counted_again() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    metrics::set_global_recorder(recorder).unwrap();
    let sum = |name: &str| -> f64 {
        let page = page.render();
        let lines = page.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let loaded = TinyModel::default().load();
    // Room for `Started` and all tokens, but not for what comes last.
    let options = EngineOptions { event_buffer: 1 + ANSWER, ..options(&loaded) };
    let engine = start(&loaded, options);
    let wanted = request(&[TokenId(5); 3], ANSWER, Speculation::Off);
    let mut late = engine.submit(wanted.clone()).unwrap();
    let mut later = engine.submit(wanted).unwrap();
    wait_until("both have ended", || sum("skipstone_request_finished_total") == 2.0);
    wait_until("none runs", || sum("skipstone_requests_running") == 0.0);
    assert_eq!(engine.in_flight(), 2, "their readers have not come yet");
    // Now there is room for the last message of one of them.
    late.blocking_next().unwrap().unwrap();
    drop(engine);
    let mut last = None;
    while let Some(message) = late.blocking_next() {
        last = Some(message.unwrap());
    }
    let Some(Event::Finished(finished)) = last else { panic!("it ended with {last:?}") };
    assert_eq!(finished.reason, FinishReason::Length);
    let mut last = None;
    while let Some(message) = later.blocking_next() {
        last = Some(message);
    }
    assert!(matches!(last, Some(Err(_))), "who comes too late is told so: {last:?}");
    let page = page.render();
    let ended = page.lines().filter(|line| line.starts_with("skipstone_request_finished_total"));
    let ended: Vec<&str> = ended.collect();
    assert_eq!(ended, ["skipstone_request_finished_total{reason=\"length\"} 2"]);
}
