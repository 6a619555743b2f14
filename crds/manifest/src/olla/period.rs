//! Durations as Go writes them (`1.5s`, `1h2m`, `250us`) ↔ milliseconds ↔ as Kubernetes writes
//! them.

use crds::Duration;

/// Milliseconds, anything above 0 at least 1; `None` for what Go would not take, and for
/// negative ones. A bare number counts nanoseconds, as in Go, so only 0 is taken without a unit.
pub(super) fn parse(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total_ms = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let length = unit
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(unit.len());
        let (unit, next) = unit.split_at(length);
        total_ms += number
            * match unit {
                "h" => 3_600_000.0,
                "m" => 60_000.0,
                "s" => 1_000.0,
                "ms" => 1.0,
                "us" | "µs" | "μs" => 0.001,
                "ns" => 0.000_001,
                _ => return None,
            };
        rest = next;
    }
    // Kubernetes' form ends at 99999h.
    let whole = total_ms.ceil();
    (whole <= 99_999.0 * 3_600_000.0).then_some(whole as u64)
}

pub(super) fn format(millis: u64) -> Duration {
    let parts = [
        (millis / 3_600_000, "h"),
        (millis / 60_000 % 60, "m"),
        (millis / 1_000 % 60, "s"),
        (millis % 1_000, "ms"),
    ];
    let parts = parts.into_iter().filter(|(number, _)| *number > 0);
    let parts: Vec<_> = parts
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    Duration::new(parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_come_out_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("5s", Some("5s")),
            ("1m30s", Some("1m30s")),
            ("90s", Some("1m30s")),
            ("1.5s", Some("1s500ms")),
            (".5s", Some("500ms")),
            ("250us", Some("1ms")),
            ("24h", Some("24h")),
            ("99999h", Some("99999h")),
            ("1e3s", None),
            ("100000h", None),
            ("5", None),
            ("s", None),
            ("-5s", None),
            ("5 s", None),
            ("5d", None),
            ("", None),
        ] {
            let read = parse(text).map(|millis| format(millis).to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
        assert_eq!((parse("0"), parse("0s")), (Some(0), Some(0)));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(millis in 1..359_996_400_000_u64) {
            let text = format(millis);
            proptest::prop_assert_eq!(parse(text.as_str()), Some(millis));
            proptest::prop_assert_eq!(text.parse().unwrap().as_millis(), u128::from(millis));
        }
    }
}
