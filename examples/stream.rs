//! A small client: streams one chat completion over gRPC and says what drafting brought.
//!
//! `cargo run --example stream -- http://127.0.0.1:50051 "Why is the sky blue?"`

use std::io::{self, Write};

use skipstone::server::wire::generate_stream_response::Event;
use skipstone::server::wire::generation_service_client::GenerationServiceClient;
use skipstone::server::wire::generation_spec::Input;
use skipstone::server::wire::{
    ChatInput, ChatMessage, GenerateStreamRequest, GenerationSpec, Role, StopCriteria, StreamFinished,
};

const MAX_NEW_TOKENS: u32 = 160;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(question)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: stream http://ADDRESS QUESTION");
    };

    let message = ChatMessage { role: Role::User.into(), content: question };
    let spec = GenerationSpec {
        input: Some(Input::Chat(ChatInput { messages: vec![message], add_generation_prompt: None })),
        stop: Some(StopCriteria { max_new_tokens: Some(MAX_NEW_TOKENS), ..StopCriteria::default() }),
        ..GenerationSpec::default()
    };
    let mut client = GenerationServiceClient::connect(address).await?;
    let request = GenerateStreamRequest { spec: Some(spec) };
    let mut stream = client.generate_stream(request).await?.into_inner();

    let mut stdout = io::stdout();
    let mut finished = None;
    while let Some(reply) = stream.message().await? {
        match reply.event {
            Some(Event::Delta(delta)) => {
                write!(stdout, "{}", delta.text)?;
                stdout.flush()?;
            }
            Some(Event::Finished(end)) => finished = Some(end),
            Some(Event::Started(_)) | None => {}
        }
    }
    writeln!(stdout)?;
    match finished {
        Some(finished) => print_figures(&mut stdout, &finished),
        None => anyhow::bail!("the stream ended without its last message"),
    }
}

fn print_figures(out: &mut impl Write, finished: &StreamFinished) -> anyhow::Result<()> {
    let usage = finished.usage.unwrap_or_default();
    writeln!(out, "\nprompt {} tokens, output {} tokens", usage.prompt_tokens, usage.completion_tokens)?;
    if let Some(decode) = finished.timing.and_then(|timing| timing.decode) {
        let seconds = decode.seconds as f64 + f64::from(decode.nanos) / 1e9;
        let tokens = f64::from(usage.completion_tokens.saturating_sub(1));
        writeln!(out, "decoded in {seconds:.2} s, {:.1} tokens a second", tokens / seconds)?;
    }
    if let Some(speculation) = &finished.speculation {
        let (drafted, accepted) = (speculation.draft_tokens, speculation.accepted_tokens);
        writeln!(out, "drafts {}, drafted tokens {drafted}, accepted {accepted}", speculation.drafts)?;
        writeln!(out, "accepted by position {:?}", speculation.accepted_per_position)?;
        if let Some(speedup) = speculation.estimated_speedup {
            writeln!(out, "estimated speedup {speedup:.2}")?;
        }
        if let Some(skipped) = speculation.final_plan.as_ref().and_then(|plan| plan.skip_set.as_ref()) {
            let (attention, mlp) = (&skipped.attention_layers, &skipped.mlp_layers);
            writeln!(out, "skipped in the last plan: attention of {attention:?}, MLP of {mlp:?}")?;
        }
    }
    Ok(())
}
