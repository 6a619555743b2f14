//! Durations of a spec as the milliseconds of the table. In: a field path and its text. Out: a
//! number above 0, or what to write instead.

use crds::Duration;

use crate::Problem;

/// Milliseconds of `text`. Zero means nothing anywhere it is used, so it is refused.
pub(crate) fn millis(field: &str, text: &Duration) -> Result<u64, Problem> {
    let parsed = text.parse().ok_or_else(|| {
        Problem::invalid(
            field,
            format!("`{text}` is not a duration; write it like 500ms, 10s, 1m30s"),
        )
    })?;
    match parsed.as_millis() as u64 {
        0 => Err(Problem::invalid(field, "must be longer than 0s")),
        ms => Ok(ms),
    }
}

/// The same for an optional field.
pub(crate) fn optional_millis(
    field: &str,
    text: Option<&Duration>,
) -> Result<Option<u64>, Problem> {
    text.map(|text| millis(field, text)).transpose()
}
