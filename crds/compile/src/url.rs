//! `spec.url` read strictly. In: text. Out: scheme, host, port and base path, each in the one
//! form the table has, or what to change.

use std::net::Ipv6Addr;

use dataplane_protocol::{check::is_path, table::Scheme};
use http::Uri;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub scheme: Scheme,
    /// Lower case, without brackets.
    pub host: String,
    pub port: u16,
    /// Empty, or starting with `/` and not ending with it.
    pub base_path: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a URL; write it like http://host:8000")]
    Malformed,
    #[error("must start with http:// or https://")]
    Scheme,
    #[error("contains credentials (or an `@`); remove them and use auth")]
    Credentials,
    #[error("has no valid host; write it like http://host:8000, with IPv6 like http://[::1]:8000")]
    Host,
    #[error("the port must be a number from 1 to 65535")]
    Port,
    #[error("must not have a query (`?`) or fragment (`#`)")]
    Query,
}

impl Url {
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (scheme, rest) = split_scheme(text)?;
        // Before all else: `Uri` drops a fragment, and would quote credentials in no error of
        // ours, but take them.
        if text.contains(['#', '?']) {
            return Err(Error::Query);
        }
        let authority = rest.split('/').next().unwrap_or_default();
        // Anywhere, as the CRD's pattern has it.
        if text.contains('@') {
            return Err(Error::Credentials);
        }
        let (host, port) = split_port(authority)?;
        let host = checked_host(host)?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|p| *p > 0).ok_or(Error::Port)?,
            None if scheme == Scheme::Https => 443,
            None => 80,
        };
        let uri: Uri = text.parse().map_err(|_| Error::Malformed)?;
        if !is_path(uri.path()) {
            return Err(Error::Malformed);
        }
        Ok(Self {
            scheme,
            host,
            port,
            base_path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), Error> {
    if let Some(rest) = text.strip_prefix("http://") {
        Ok((Scheme::Http, rest))
    } else if let Some(rest) = text.strip_prefix("https://") {
        Ok((Scheme::Https, rest))
    } else {
        Err(Error::Scheme)
    }
}

/// Brackets stay on the host, as the sign that it must be IPv6.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), Error> {
    if let Some(end) = authority.find(']') {
        let (host, rest) = authority.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(Error::Host),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(Error::Host),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

fn checked_host(host: &str) -> Result<String, Error> {
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let address: Ipv6Addr = inner.parse().map_err(|_| Error::Host)?;
        return Ok(address.to_string());
    }
    // Underscores are no part of host names, but of Docker Compose's.
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if host.is_empty() || host.len() > 253 || !host.chars().all(fits) {
        return Err(Error::Host);
    }
    Ok(host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Scheme, String, u16, String) {
        let url = Url::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        (url.scheme, url.host, url.port, url.base_path)
    }

    #[test]
    fn the_parts_come_out_in_one_form() {
        for (text, scheme, host, port, base_path) in [
            ("http://gpu:8000", Scheme::Http, "gpu", 8000, ""),
            ("http://gpu", Scheme::Http, "gpu", 80, ""),
            (
                "https://API.Example.com/",
                Scheme::Https,
                "api.example.com",
                443,
                "",
            ),
            (
                "https://h/openai/v1/",
                Scheme::Https,
                "h",
                443,
                "/openai/v1",
            ),
            (
                "http://[2001:DB8::1]:8000/x",
                Scheme::Http,
                "2001:db8::1",
                8000,
                "/x",
            ),
            ("http://[::1]", Scheme::Http, "::1", 80, ""),
            (
                "http://my_ollama:11434",
                Scheme::Http,
                "my_ollama",
                11434,
                "",
            ),
        ] {
            let expected = (scheme, host.to_owned(), port, base_path.to_owned());
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_plain_base_url_is_refused() {
        for (text, error) in [
            ("", Error::Scheme),
            ("gpu:8000", Error::Scheme),
            ("ftp://gpu", Error::Scheme),
            ("http://", Error::Host),
            ("http://:80", Error::Host),
            ("http:///v1", Error::Host),
            ("http://a b", Error::Host),
            ("http://::1:80", Error::Host),
            ("http://[::1", Error::Host),
            ("http://[gpu]:80", Error::Host),
            ("http://gpu:0", Error::Port),
            ("http://gpu:", Error::Port),
            ("http://gpu:65536", Error::Port),
            ("http://gpu:eighty", Error::Port),
            ("http://user:pass@gpu", Error::Credentials),
            ("http://gpu/v1?key=1", Error::Query),
            ("http://gpu#x", Error::Query),
            ("http://gpu/a b", Error::Malformed),
        ] {
            assert_eq!(Url::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn no_error_repeats_a_password() {
        let error = Url::parse("http://user:hunter2@gpu").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }
}
