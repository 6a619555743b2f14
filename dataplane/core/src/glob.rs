//! Patterns for model names: `*` is any run of characters, `?` is one. Case is ignored, as it is
//! when models are looked up. No allocation: this runs for each request.

/// Whether `name` as a whole fits `pattern`.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    let mut pattern = pattern.chars();
    let mut name = name.chars();
    // Where to go on when the text after the last `*` did not fit: that `*` takes one more.
    let mut resume = None;
    loop {
        let rest = name.clone();
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                resume = Some((pattern.clone(), rest.clone()));
                name = rest;
            }
            (Some(p), Some(n)) if p == '?' || same(p, n) => {}
            _ => {
                let Some((after_star, taken)) = &mut resume else {
                    return false;
                };
                if taken.next().is_none() {
                    return false;
                }
                pattern = after_star.clone();
                name = taken.clone();
            }
        }
    }
}

/// Whether any of `patterns` fits.
pub(crate) fn any_fits(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| fits(pattern, name))
}

fn same(a: char, b: char) -> bool {
    a.eq_ignore_ascii_case(&b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_and_question_marks_fit_as_users_expect() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "llama3:8b", true),
            ("llama*", "Llama3:8b", true),
            ("llama*", "codellama", false),
            ("*llama*", "codellama:7b", true),
            ("gpt-?", "gpt-4", true),
            ("gpt-?", "gpt-4o", false),
            ("gpt-?", "gpt-", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("*:latest", "phi:latest", true),
            ("**", "x", true),
            ("a", "", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern:?} on {name:?}");
        }
    }

    /// The same by plain recursion, slow and obvious.
    fn obvious(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), None) => obvious(rest, name),
            (Some(('*', rest)), Some((_, tail))) => obvious(rest, name) || obvious(pattern, tail),
            (Some((p, rest)), Some((n, tail))) => (*p == '?' || p == n) && obvious(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn globs_agree_with_plain_recursion(pattern in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            let (p, n): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(fits(&pattern, &name), obvious(&p, &n));
        }
    }
}
