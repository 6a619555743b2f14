//! Format and filter of the log.

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt::MakeWriter};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Json,
    Text,
}

/// Starts logging for the process. `filter`: a level, or directives of tracing's `EnvFilter`.
/// Without a `format` it is text on a terminal, else JSON.
pub fn start<W>(
    filter: &str,
    format: Option<Format>,
    terminal: bool,
    writer: W,
) -> Result<(), ParseError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter)?)
        .with_writer(writer);
    match format.unwrap_or(if terminal { Format::Text } else { Format::Json }) {
        Format::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .init(),
        Format::Text => builder.with_ansi(terminal).init(),
    }
    Ok(())
}
