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
        0 => Err(Problem::invalid(field, "must be greater than 0s")),
        ms => Ok(ms),
    }
}

/// The same, with a lower bound.
pub(crate) fn millis_from(field: &str, text: &Duration, least: &str) -> Result<u64, Problem> {
    let bound = Duration::new(least).parse().unwrap_or_default();
    let ms = millis(field, text)?;
    if u128::from(ms) < bound.as_millis() {
        return Err(Problem::invalid(field, format!("must be at least {least}")));
    }
    Ok(ms)
}

/// The same for an optional field.
pub(crate) fn optional_millis(
    field: &str,
    text: Option<&Duration>,
) -> Result<Option<u64>, Problem> {
    text.map(|text| millis(field, text)).transpose()
}
