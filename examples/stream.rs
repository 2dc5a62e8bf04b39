//! A small client: streams one chat completion over gRPC, asks again with drafting off, and
//! compares.
//!
//! `cargo run --example stream -- http://127.0.0.1:50051 "Why is the sky blue?"`

use std::io::{self, Write};

use skipstone::server::wire::generate_stream_response::Event;
use skipstone::server::wire::generation_service_client::GenerationServiceClient;
use skipstone::server::wire::generation_spec::Input;
use skipstone::server::wire::{
    ChatInput, ChatMessage, GenerateStreamRequest, GenerationSpec, OutputOptions, Role,
    SpeculationMode, SpeculationParams, StopCriteria, StreamFinished,
};
use tonic::transport::Channel;

const MAX_NEW_TOKENS: u32 = 160;

/// A finished stream.
struct Answer {
    token_ids: Vec<u32>,
    finished: StreamFinished,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(question)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: stream http://ADDRESS QUESTION");
    };
    let mut client = GenerationServiceClient::connect(address).await?;
    let drafted = ask(&mut client, &question, SpeculationMode::Adaptive, &mut io::stdout()).await?;
    let plain = ask(&mut client, &question, SpeculationMode::Off, &mut io::sink()).await?;

    let mut out = io::stdout();
    print_drafts(&mut out, &drafted)?;
    writeln!(
        out,
        "tokens a second: {:.0} drafting, {:.0} plainly",
        speed(&drafted),
        speed(&plain)
    )?;
    let same = drafted.token_ids == plain.token_ids;
    writeln!(out, "the same {} tokens as without drafting: {same}", plain.token_ids.len())?;
    anyhow::ensure!(same, "drafting changed the output: this is a defect, please report it");
    Ok(())
}

async fn ask(
    client: &mut GenerationServiceClient<Channel>,
    question: &str,
    mode: SpeculationMode,
    out: &mut impl Write,
) -> anyhow::Result<Answer> {
    let message = ChatMessage { role: Role::User.into(), content: question.to_owned() };
    let spec = GenerationSpec {
        input: Some(Input::Chat(ChatInput {
            messages: vec![message],
            add_generation_prompt: None,
        })),
        stop: Some(StopCriteria {
            max_new_tokens: Some(MAX_NEW_TOKENS),
            ..StopCriteria::default()
        }),
        output: Some(OutputOptions { tokens: true, ..OutputOptions::default() }),
        speculation: Some(SpeculationParams { mode: mode.into(), ..SpeculationParams::default() }),
        ..GenerationSpec::default()
    };
    let request = GenerateStreamRequest { spec: Some(spec) };
    let mut stream = client.generate_stream(request).await?.into_inner();
    let mut token_ids = Vec::new();
    let mut finished = None;
    while let Some(reply) = stream.message().await? {
        match reply.event {
            Some(Event::Delta(delta)) => {
                write!(out, "{}", delta.text)?;
                out.flush()?;
                token_ids.extend(delta.tokens.iter().map(|token| token.id));
            }
            Some(Event::Finished(end)) => finished = Some(end),
            Some(Event::Started(_)) | None => {}
        }
    }
    writeln!(out)?;
    let finished =
        finished.ok_or_else(|| anyhow::anyhow!("the stream ended without its last message"))?;
    Ok(Answer { token_ids, finished })
}

fn print_drafts(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    let Some(speculation) = &answer.finished.speculation else { return Ok(()) };
    let (drafted, accepted) = (speculation.draft_tokens, speculation.accepted_tokens);
    if let Some(skipped) = speculation.final_plan.as_ref().and_then(|plan| plan.skip_set.as_ref()) {
        let layers = &skipped.mlp_layers;
        writeln!(
            out,
            "\ndrafts at the end skip the MLPs of layers {layers:?}; the whole model confirmed \
             each token"
        )?;
    }
    for arm in &speculation.arms {
        writeln!(out, "{} cycles drafted by: {}", arm.cycles, arm.name)?;
    }
    for off in &speculation.off_times {
        writeln!(out, "{} plain steps, because: {}", off.steps, off.reason)?;
    }
    writeln!(out, "{} drafts, {drafted} tokens drafted, {accepted} accepted", speculation.drafts)?;
    writeln!(out, "accepted at each draft position: {:?}", speculation.accepted_per_position)?;
    match speculation.estimated_speedup {
        Some(speedup) => {
            writeln!(out, "estimated speedup over the measured plain step: {speedup:.2}")
        }
        None => Ok(()),
    }
}

/// Tokens a second after the first.
fn speed(answer: &Answer) -> f64 {
    let decode = answer.finished.timing.and_then(|timing| timing.decode).unwrap_or_default();
    let seconds = decode.seconds as f64 + f64::from(decode.nanos) / 1e9;
    (answer.token_ids.len() as f64 - 1.0) / seconds
}
