//! The generation service of gRPC: takes calls in, and words the replies.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tonic::{Code, Request, Response, Status};

use super::calls::OpenCalls;
use super::intake::{Head, Intake};
use super::metadata::RequestId;
use super::request::parse_tokenize;
use super::running::Running;
use super::status::{self, CallError};
use super::wire;
use super::wire::generation_service_server::GenerationService;

/// The service.
pub(super) struct Generation {
    /// Destination of calls.
    pub(super) intake: Intake,
    /// Counts the calls.
    pub(super) calls: OpenCalls,
}

type Item = Result<wire::GenerateStreamResponse, Status>;

// === impl Generation ===

impl Generation {
    fn refuse(&self, error: &CallError, id: &RequestId) -> Status {
        status::status(error, id, self.intake.options.limits.retry_after)
    }
}

#[tonic::async_trait]
impl GenerationService for Generation {
    /// It owns the running request, so a client that goes away cancels it at once, also while the
    /// engine has nothing to send.
    type GenerateStreamStream = BoxStream<'static, Item>;

    async fn generate(
        &self,
        request: Request<wire::GenerateRequest>,
    ) -> Result<Response<wire::GenerateResponse>, Status> {
        let (head, message) = split(request);
        let call = self.calls.open("Generate", &head);
        let id = head.id.clone();
        let result = match self.intake.begin(call, head, message.spec).await {
            Ok(mut running) => running.collect().await,
            Err(error) => Err(error),
        };
        result.map(|response| named(response, &id)).map_err(|error| self.refuse(&error, &id))
    }

    async fn generate_stream(
        &self,
        request: Request<wire::GenerateStreamRequest>,
    ) -> Result<Response<Self::GenerateStreamStream>, Status> {
        let (head, message) = split(request);
        let call = self.calls.open("GenerateStream", &head);
        let id = head.id.clone();
        let running = self.intake.begin(call, head, message.spec).await;
        let running = running.map_err(|error| self.refuse(&error, &id))?;
        let retry_after = self.intake.options.limits.retry_after;
        let messages = stream::unfold(running, move |mut running: Running| async move {
            let item = match running.next().await? {
                Ok(event) => Ok(running.reply.message(event)),
                Err(error) => Err(status::status(&error, &running.reply.id, retry_after)),
            };
            Some((item, running))
        });
        Ok(named(messages.boxed(), &id))
    }

    async fn tokenize(
        &self,
        request: Request<wire::TokenizeRequest>,
    ) -> Result<Response<wire::TokenizeResponse>, Status> {
        let (head, message) = split(request);
        let mut call = self.calls.open("Tokenize", &head);
        let (model, options) = (Arc::clone(&self.intake.model), Arc::clone(&self.intake.options));
        let tokens = self
            .intake
            .off_thread(move || {
                parse_tokenize(message, &model)?.into_tokens(&model, &options.limits)
            })
            .await
            .map_err(CallError::from);
        match tokens {
            Ok(tokens) => {
                call.end(Code::Ok);
                let response = wire::TokenizeResponse {
                    token_count: tokens.len() as u32,
                    token_ids: tokens.into_iter().map(|token| token.0).collect(),
                    context_length: self.intake.model.context_length as u32,
                };
                Ok(named(response, &head.id))
            }
            Err(error) => {
                call.end(error.code());
                Err(self.refuse(&error, &head.id))
            }
        }
    }
}

fn split<T>(request: Request<T>) -> (Head, T) {
    let (metadata, _, message) = request.into_parts();
    (Head::new(metadata), message)
}

fn named<T>(message: T, id: &RequestId) -> Response<T> {
    let mut response = Response::new(message);
    id.write_to(response.metadata_mut());
    response
}
