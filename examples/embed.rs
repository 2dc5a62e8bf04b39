//! The library without the server: loads a model, streams the answer to a question with drafts, and
//! prints what they brought.
//!
//!     cargo run --release -p skipstone-engine --example embed -- MODEL.gguf "Why is the sky blue?"
//!
//! A profile beside the model (MODEL.profile) brings plans; without one only n-gram matches and
//! evenly spaced layers are bet on.

use std::error::Error;
use std::io::{Write, stdout};
use std::path::Path;
use std::sync::Arc;

use skipstone_engine::adapt::{Profile, frontier};
use skipstone_engine::{Engine, EngineOptions, Event, Submit, ValidRequest};
use skipstone_gguf::GgufFile;
use skipstone_model::Model;
use skipstone_model::text::{ChatMessage, Role, TextModel};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("name a GGUF file")?;
    let question = arguments.next().unwrap_or_else(|| "Why is the sky blue?".to_owned());

    let file = Arc::new(GgufFile::open(Path::new(&path))?);
    let text = Arc::new(TextModel::from_gguf(&file)?);
    let model = Arc::new(Model::load(file, 2, &mut |_, _| {})?);
    let mut options = EngineOptions::new(&model);
    let profile = Path::new(&path).with_extension("profile");
    if profile.exists() {
        options.frontier = frontier(&Profile::read(&profile)?, &model, options.threads)?;
    }
    let engine = Engine::start(model, Arc::clone(&text), options)?;

    let prompt = text.encode_chat(&[ChatMessage::new(Role::User, question)], true)?;
    let mut stream = engine.submit(ValidRequest::greedy(prompt, 128)?)?;
    while let Some(event) = stream.blocking_next() {
        match event? {
            Event::Started(_) => {}
            Event::Delta(delta) => write!(stdout(), "{}", delta.text)?,
            Event::Finished(finished) => {
                let stats = finished.speculation;
                let (drafted, accepted) = (stats.draft_tokens, stats.accepted_tokens);
                let speedup = stats.estimated_speedup.unwrap_or(1.0);
                println!("\n\n{drafted} drafted, {accepted} accepted, speedup {speedup:.2}");
            }
        }
        stdout().flush()?;
    }
    Ok(())
}
