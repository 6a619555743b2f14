//! Amounts as Kubernetes writes them: `10m`, `16Mi`, `1.5`, `2e3`. Kept as text; read only to refuse
//! what the API server would refuse, and to compare two of them.

/// Longer ones are nobody's: numbers stay far below where comparing them loses its sense.
const MAX_LENGTH: usize = 20;

const SUFFIXES: [(&str, f64); 16] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
    ("Ei", 1_152_921_504_606_846_976.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("", 1.0),
];

/// Not negative.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Quantity {
    text: String,
    value: f64,
}

impl Quantity {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
        let digits = number.bytes().filter(u8::is_ascii_digit).count();
        if digits == 0 || number.len() - digits > 1 {
            return None;
        }
        let number: f64 = number.parse().ok()?;
        let value = number * scale(suffix)?;
        Some(Self {
            text: text.to_owned(),
            value,
        })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn exceeds(&self, other: &Self) -> bool {
        self.value > other.value
    }
}

fn scale(suffix: &str) -> Option<f64> {
    let known = SUFFIXES.iter().find(|(name, _)| *name == suffix);
    known.map(|(_, factor)| *factor).or_else(|| {
        let exponent = suffix.strip_prefix(['e', 'E'])?;
        let exponent: i32 = exponent.parse().ok()?;
        (-9..=18).contains(&exponent).then(|| 10_f64.powi(exponent))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        Quantity::parse(text).unwrap()
    }

    #[test]
    fn amounts_are_compared_by_what_they_mean() {
        for (more, less) in [
            ("16Mi", "16M"),
            ("1", "999m"),
            ("1k", "0.9k"),
            ("2e3", "1999"),
            ("2E3", "1999"),
            ("1Ei", "1E"),
            ("1.5", "1"),
        ] {
            assert!(quantity(more).exceeds(&quantity(less)), "{more} > {less}");
            assert!(!quantity(less).exceeds(&quantity(more)), "{less} < {more}");
        }
        assert!(!quantity("1000m").exceeds(&quantity("1")));
    }

    #[test]
    fn what_the_api_server_would_refuse_is_no_amount() {
        for text in [
            "",
            "m",
            "-1",
            "+1",
            "1 Mi",
            "16mi",
            "16MB",
            "1.2.3",
            ".",
            "1e",
            "1e99",
            "lots",
            "1Kib",
            "111111111111111111111",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text:?}");
        }
    }
}
