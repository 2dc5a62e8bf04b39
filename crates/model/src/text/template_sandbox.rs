//! The Jinja environment of chat templates: what a template may call, and what it may cost.
//!
//! Templates come with model files, so they are untrusted. The engine has no access to files or to
//! the host; source size, instructions, output and recursion are bounded here. Memory is not: a
//! template can build a long string by doubling it within its instructions, so a process that loads
//! models of strangers belongs in a memory-limited container.

use std::fmt;
use std::io::{self, Write};
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;

use super::TextError;
use super::limits::{TEMPLATE_FUEL, TEMPLATE_RECURSION};
use super::strftime::format_time;

/// An environment as chat templates expect it: Python's methods, and blocks that swallow their
/// line.
pub(super) fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(TEMPLATE_FUEL));
    environment.set_recursion_limit(TEMPLATE_RECURSION);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| format_time(SystemTime::now(), format));
    environment.add_filter("tojson", to_json);
    Ok(environment)
}

/// The message that a template raised through `raise_exception`.
#[derive(Debug)]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// JSON as Python writes it, without the escapes for HTML that Jinja's own filter adds: models were
/// trained on this.
fn to_json(value: &Value, arguments: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = arguments.get("indent")?;
    let _: Option<bool> = arguments.get("ensure_ascii")?;
    arguments.assert_all_used()?;
    let failed =
        |error| Error::new(ErrorKind::BadSerialization, "not a JSON value").with_source(error);
    let mut json = Vec::new();
    match indent {
        Some(indent) => {
            let spaces = " ".repeat(indent.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value
                .serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter))
                .map_err(failed)?;
        }
        None => {
            value
                .serialize(&mut serde_json::Serializer::with_formatter(&mut json, PythonJson))
                .map_err(failed)?;
        }
    }
    Ok(Value::from(String::from_utf8_lossy(&json).into_owned()))
}

/// Compact JSON with a space after commas and colons.
struct PythonJson;

/// Collects output up to a limit.
pub(super) struct CappedOutput {
    bytes: Vec<u8>,
    max: usize,
    exceeded: bool,
}

// === impl Raised ===

impl fmt::Display for Raised {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

// === impl PythonJson ===

impl serde_json::ser::Formatter for PythonJson {
    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

// === impl CappedOutput ===

impl CappedOutput {
    pub(super) fn new(max: usize) -> Self {
        Self { bytes: Vec::new(), max, exceeded: false }
    }

    /// The output, or what the failure means for the caller.
    pub(super) fn finish(self, outcome: Result<(), Error>) -> Result<String, TextError> {
        match outcome {
            Ok(()) => Ok(String::from_utf8_lossy(&self.bytes).into_owned()),
            Err(_) if self.exceeded => Err(TextError::TemplateOutputTooLarge { max: self.max }),
            Err(error) => Err(failure(&error)),
        }
    }
}

impl Write for CappedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.max - self.bytes.len() {
            self.exceeded = true;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failure(error: &Error) -> TextError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(raised) = current.downcast_ref::<Raised>() {
            return TextError::TemplateRefused { message: raised.0.clone() };
        }
        let kind = current.downcast_ref::<Error>().map(Error::kind);
        if kind == Some(ErrorKind::OutOfFuel) {
            return TextError::TemplateOutOfFuel { max: TEMPLATE_FUEL };
        }
        cause = current.source();
    }
    TextError::TemplateFailed { reason: error.to_string() }
}
