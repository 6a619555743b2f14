//! "Did you mean …?". In: a misspelt word and the known ones. Out: the one that is near enough
//! to be meant.

/// The known word with the fewest single-letter edits, case and `_`/`-` not counted; none when
/// over a third of the letters would have to change. Among equals the first.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = simplified(word);
    known
        .map(|known| (distance(&plain, &simplified(known)), known))
        .filter(|(distance, known)| *distance <= known.len().max(word.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

fn simplified(word: &str) -> Vec<char> {
    let letters = word.chars().filter(|c| !matches!(c, '_' | '-'));
    letters.flat_map(char::to_lowercase).collect()
}

/// Levenshtein's.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        let mut left = i + 1;
        for (to, above) in b.iter().zip(row.windows(2)) {
            let [diagonal, above] = above else { continue };
            left = (diagonal + usize::from(from != to))
                .min(above + 1)
                .min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_word_and_other_words_do_not() {
        let known = ["firstToken", "streamIdle", "url", "type"];
        for (word, expected) in [
            ("firsttoken", Some("firstToken")),
            ("first_token", Some("firstToken")),
            ("frstTokn", Some("firstToken")),
            ("streamIdel", Some("streamIdle")),
            ("uri", Some("url")),
            ("weight", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), expected, "{word}");
        }
    }
}
