//! The only place that sleeps. In: a look at the world that may not have changed yet. Out: what
//! the look found, or an error that says what was awaited and what was seen last.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Long enough that looking costs little next to what is looked at, short enough not to be felt.
const PERIOD: Duration = Duration::from_millis(50);

/// Looks until `look` finds something. `Ok(None)` and errors mean "not yet"; the last error
/// becomes the cause when time is up, so a look that can say what it saw should fail with it.
pub fn wait<T>(
    what: &str,
    timeout: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        let seen = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => anyhow!("seen last: nothing yet"),
            Err(error) => error.context("seen last"),
        };
        if Instant::now() >= deadline {
            return Err(seen.context(format!("waited {timeout:?} in vain until {what}")));
        }
        std::thread::sleep(PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_tells_what_was_awaited_and_seen_last() {
        let mut looks = 0;
        let error = wait::<()>("pigs fly", Duration::from_millis(60), || {
            looks += 1;
            Err(anyhow!("pig {looks} on the ground"))
        })
        .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("until pigs fly"), "{text}");
        assert!(text.contains("seen last: pig"), "{text}");
        assert!(looks >= 2);
    }
}
