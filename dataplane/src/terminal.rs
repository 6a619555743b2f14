//! What commands share towards the person or the script that runs them: lines, and how to log.

use clap::Args;

#[derive(Args, Clone, Debug)]
pub(crate) struct LogArgs {
    /// What to log, as `level` or `target=level,…`.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info")]
    pub(crate) log_level: String,
    /// `json`, or `text` (the default on a terminal).
    #[arg(long, env = "OLLA_LOG_FORMAT")]
    pub(crate) log_format: Option<crate::logging::Format>,
}

impl LogArgs {
    /// Warnings only, as text: where a person looks at a picture of the fleet. What the picture
    /// shows by itself is no warning: a line of it would come between one picture and the next.
    pub(crate) fn quiet() -> (String, Option<crate::logging::Format>) {
        let filter = "warn,dataplane::backend::pool=error";
        (filter.to_owned(), Some(crate::logging::Format::Text))
    }
}

#[expect(clippy::print_stdout, reason = "the command line speaks to its user")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "the command line speaks to its user")]
pub(crate) fn complain(text: &str) {
    eprintln!("{text}");
}
