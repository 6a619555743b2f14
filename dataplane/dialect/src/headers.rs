//! Which headers pass between clients and backends: the border that credentials must not cross.

/// What becomes of a client's header on its way to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    Pass,
    Drop,
    /// It tells of earlier hops, and goes on with ours added.
    Hops,
}

/// `name` in lower case.
pub fn towards_backend(name: &str) -> Towards {
    match name {
        _ if is_hop_by_hop(name) => Towards::Drop,
        // A client's credentials are for us, if for anyone: backends get those of their endpoint.
        _ if is_credential(name) => Towards::Drop,
        // Written anew for each backend.
        "host" | "expect" | "content-length" | "x-request-id" => Towards::Drop,
        "via" | "forwarded" | "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" => {
            Towards::Hops
        }
        _ => Towards::Pass,
    }
}

/// Between two hops only (RFC 9110, 7.6.1).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn is_credential(name: &str) -> bool {
    matches!(
        name,
        "authorization"
            | "proxy-authorization"
            | "cookie"
            | "api-key"
            | "x-api-key"
            | "x-auth-token"
            | "x-goog-api-key"
    )
}

/// Whether a backend's header may reach a client; `name` in lower case.
pub fn reaches_client(name: &str) -> bool {
    !(is_hop_by_hop(name)
        || is_credential(name)
        || name == "set-cookie"
        // A backend that is itself an Olla must not speak for us.
        || name.starts_with("x-olla-")
        || matches!(name, "x-request-id" | "x-served-by"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credential_and_nothing_of_one_hop_crosses_in_either_direction() {
        for name in [
            "authorization",
            "x-api-key",
            "api-key",
            "x-goog-api-key",
            "proxy-authorization",
            "cookie",
            "connection",
            "te",
            "upgrade",
            "transfer-encoding",
        ] {
            assert_eq!(towards_backend(name), Towards::Drop, "{name}");
            assert!(!reaches_client(name), "{name}");
        }
        assert!(!reaches_client("set-cookie"));
        assert!(!reaches_client("x-olla-endpoint"));
    }

    #[test]
    fn what_an_application_says_passes_and_hops_are_added_to() {
        for name in [
            "anthropic-version",
            "openai-organization",
            "accept",
            "traceparent",
        ] {
            assert_eq!(towards_backend(name), Towards::Pass, "{name}");
            assert!(reaches_client(name), "{name}");
        }
        for name in ["via", "forwarded", "x-forwarded-for"] {
            assert_eq!(towards_backend(name), Towards::Hops, "{name}");
        }
    }
}
