//! Paths as all readers read them. Backends decode percent-escapes before they look, so whoever
//! decides by a path must look at what they will see.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The path without empty segments: a base URL that ends with a slash makes two of one, and some
/// readers take them for one. Backends get it so, too.
pub fn folded(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut plain = String::with_capacity(path.len());
    for letter in path.chars() {
        if letter != '/' || !plain.ends_with('/') {
            plain.push(letter);
        }
    }
    Cow::Owned(plain)
}

/// The same path with nothing escaped that need not be (RFC 3986, 6.2.2.2): what is decided by.
pub fn normalised(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, escaped)) = rest.split_once('%') {
        plain.push_str(before);
        let byte = escaped
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .filter(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte));
        match byte {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = escaped.get(2..).unwrap_or_default();
            }
            None => {
                plain.push('%');
                rest = escaped;
            }
        }
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// The end of `path`, as it came, that `end` is in its normalised form.
pub fn as_it_came<'a>(path: &'a str, end: &'a str) -> &'a str {
    if !path.contains('%') || end == "/" {
        return end;
    }
    // Slashes are what normalising neither makes nor takes.
    let slashes = end.matches('/').count();
    let start = path.rmatch_indices('/').nth(slashes.saturating_sub(1));
    start.and_then(|(at, _)| path.get(at..)).unwrap_or(end)
}

/// What a backend sees that decodes all of it.
pub fn decoded(path: &str) -> Cow<'_, str> {
    percent_decode_str(path).decode_utf8_lossy()
}

/// What a backend sees that forgives everything: escapes, parameters after `;`, backslashes and
/// empty segments.
pub fn as_the_laxest_reads(path: &str) -> Cow<'_, str> {
    let decoded = decoded(path);
    if !decoded.contains([';', '\\']) && !decoded.contains("//") {
        return decoded;
    }
    let mut plain = String::with_capacity(decoded.len());
    for segment in decoded.split(['/', '\\']) {
        let segment = without_parameters(segment);
        if !segment.is_empty() {
            plain.push('/');
            plain.push_str(segment);
        }
    }
    Cow::Owned(plain)
}

fn without_parameters(segment: &str) -> &str {
    segment.split(';').next().unwrap_or_default()
}

/// Whether the path means different things to different readers: dot segments, however they and the
/// slashes around them are written, could leave the prefix that a route matched.
pub fn is_ambiguous(path: &str) -> bool {
    if !path.contains(['.', '%']) {
        return false;
    }
    decoded(path)
        .split(['/', '\\'])
        .map(without_parameters)
        .any(|segment| segment == "." || segment == "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_seen_in_any_spelling() {
        for path in [
            "/olla/openai/../x",
            "/a/%2e%2E/b",
            "/a/.",
            "/a/.%2e",
            "/a/..%2fb",
            "/a%2F../b",
            "/a/..\\b",
            "/a/..%5Cb",
            "/a/..;/b",
            "/a/%2e.;x=1/b",
        ] {
            assert!(is_ambiguous(path), "{path}");
        }
        assert!(!is_ambiguous("/v1/models/a..b/c.d"));
        assert!(!is_ambiguous("/v1/files/50%25"));
    }

    #[test]
    fn empty_segments_are_folded() {
        for (path, plain) in [
            ("//v1/chat", "/v1/chat"),
            ("/olla/openai///v1//chat/", "/olla/openai/v1/chat/"),
            ("/v1/a%2F%2Fb", "/v1/a%2F%2Fb"),
            ("//", "/"),
        ] {
            assert_eq!(folded(path), plain);
        }
    }

    #[test]
    fn the_end_of_a_path_is_found_as_it_came() {
        for (path, end, came) in [
            ("/v1/chat", "/v1/chat", "/v1/chat"),
            ("/olla/pro%78y/v1/%7ex%2Fy", "/v1/~x%2Fy", "/v1/%7ex%2Fy"),
            ("/%61pi/chat", "/api/chat", "/%61pi/chat"),
            ("/olla/pro%78y", "/", "/"),
            ("/olla/pro%78y/", "/", "/"),
        ] {
            assert_eq!(as_it_came(path, end), came);
        }
    }

    #[test]
    fn only_what_need_not_be_escaped_is_not() {
        for (path, plain) in [
            ("/v1/chat", "/v1/chat"),
            ("/v1/%63hat%2Dx%7e", "/v1/chat-x~"),
            ("/v1/a%2Fb%3A%20", "/v1/a%2Fb%3A%20"),
            ("/v1/%", "/v1/%"),
            ("/v1/%4", "/v1/%4"),
            ("/v1/%zz%2", "/v1/%zz%2"),
            ("/v1/%é1", "/v1/%é1"),
            ("/v1/%2561", "/v1/%2561"),
        ] {
            assert_eq!(normalised(path), plain);
        }
    }
}
