//! Runs a closure on a thread with a large stack.

use super::TextError;

/// The parser bounds how deep brackets and blocks nest, but not how long a chain such as `1+1+1...`
/// gets, and a chain is a deep tree for the compiler. 64 KiB of template hold 32,768 operators; at
/// under 4 KiB a level they fit, and the memory is only touched as far as it is used.
const STACK_BYTES: usize = 128 << 20;

/// Runs the work and waits for it. A panic in it is an error here.
pub(super) fn on_large_stack<T: Send>(
    work: impl FnOnce() -> Result<T, TextError> + Send,
) -> Result<T, TextError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("chat-template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|error| TextError::TemplateFailed {
                reason: format!("no thread for it: {error}"),
            })?
            .join()
            .unwrap_or_else(|_| {
                Err(TextError::TemplateFailed { reason: "it made the renderer panic".to_owned() })
            })
    })
}
