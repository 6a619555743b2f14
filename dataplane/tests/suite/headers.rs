//! What passes between client and backend, and what does not.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};

use dataplane::config::Settings;

use crate::support::{
    backend::Backend,
    plane::{Plane, Yaml, chat},
    reply::Reply,
    text::values,
};

async fn one() -> (Backend, Plane) {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    (a, plane)
}

async fn chat_with(plane: &Plane, headers: &[(&str, &str)]) -> crate::support::client::Answer {
    let body = chat("m").to_string();
    let target = "/v1/chat/completions";
    plane
        .request("POST", target, headers, body.as_bytes())
        .await
}

#[tokio::test]
async fn hop_by_hop_headers_of_a_client_stay_here() {
    let (a, plane) = one().await;
    let dropped = [
        ("connection", "X-Hop-One, keep-alive"),
        ("connection", "X-Hop-Two"),
        ("x-hop-one", "1"),
        ("x-hop-two", "2"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("trailer", "x-t"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("upgrade", "foo/2"),
    ];
    let mut sent = dropped.to_vec();
    sent.push(("x-kept", "yes"));
    assert_eq!(chat_with(&plane, &sent).await.status, 200);
    let got = a.last();
    for (name, _) in dropped {
        assert!(!got.has(name), "{name}");
    }
    assert_eq!(got.header("x-kept"), Some("yes"));
}

#[tokio::test]
async fn hop_by_hop_headers_of_a_backend_stay_there() {
    let (a, plane) = one().await;
    let headers = [
        ("connection", "x-internal"),
        ("connection", "x-internal-too"),
        ("x-internal", "10.0.0.1"),
        ("x-internal-too", "10.0.0.2"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("x-kept", "yes"),
    ];
    a.answer(Reply::whole(200, &headers, "ok"));
    let answer = plane.chat("m").await;
    for name in [
        "x-internal",
        "x-internal-too",
        "keep-alive",
        "proxy-authenticate",
    ] {
        assert!(!answer.has(name), "{name}");
    }
    assert_eq!(answer.header("x-kept"), Some("yes"));
}

#[tokio::test]
async fn a_clients_credentials_never_reach_a_backend() {
    let (a, plane) = one().await;
    let credentials = [
        ("authorization", "Bearer clients-own"),
        ("x-api-key", "clients-own"),
        ("cookie", "session=clients-own"),
        ("proxy-authorization", "Basic clients-own"),
        ("x-auth-token", "clients-own"),
        ("API-Key", "clients-own"),
        ("X-Goog-Api-Key", "clients-own"),
    ];
    assert_eq!(chat_with(&plane, &credentials).await.status, 200);
    assert!(!format!("{:?}", a.last().headers).contains("clients-own"));
}

#[tokio::test]
async fn a_key_of_the_endpoint_takes_the_place_of_the_clients() {
    for name in ["API-Key", "X-Goog-Api-Key"] {
        let a = Backend::start("a", &["m"]).await;
        let auth = format!(
            "auth: {{ header: {{ name: {name}, valueFrom: {{ secretKeyRef: {{ name: keys, key: key }} }} }} }}"
        );
        let plane = Yaml::default()
            .secret("keys", "key", "endpoints-own")
            .endpoint("a", &a.url(), &[&auth])
            .start()
            .await;
        let sent = [("api-key", "clients"), ("x-goog-api-key", "clients")];
        assert_eq!(chat_with(&plane, &sent).await.status, 200);
        let got = a.last().headers;
        assert_eq!(values(&got, &name.to_ascii_lowercase()), ["endpoints-own"]);
        assert!(!format!("{got:?}").contains("clients"));
    }
}

#[tokio::test]
async fn what_a_backend_says_of_cookies_and_of_olla_is_dropped_or_replaced() {
    let (a, plane) = one().await;
    let headers = [
        ("set-cookie", "backend=1"),
        ("x-olla-endpoint", "liar"),
        ("x-olla-attempts", "99"),
        ("x-olla-invented", "1"),
        ("authorization", "Bearer echoed"),
    ];
    a.answer(Reply::whole(200, &headers, "ok"));
    let answer = plane.chat("m").await;
    for name in ["set-cookie", "x-olla-invented", "authorization"] {
        assert!(!answer.has(name), "{name}");
    }
    assert_eq!(values(&answer.headers, "x-olla-endpoint"), ["a"]);
    assert_eq!(values(&answer.headers, "x-olla-attempts"), ["1"]);
}

#[tokio::test]
async fn headers_nobody_knows_pass_both_ways_with_all_their_values() {
    let (a, plane) = one().await;
    let odd = [
        ("x-multi", "one"),
        ("x-multi", "two, three"),
        ("x-empty", ""),
        ("openai-beta", "assistants=v2"),
    ];
    a.answer(Reply::whole(418, &odd, "ok"));
    let answer = chat_with(&plane, &odd).await;
    assert_eq!(answer.status, 418);
    for headers in [&a.last().headers, &answer.headers] {
        assert_eq!(values(headers, "x-multi"), ["one", "two, three"]);
        assert_eq!(values(headers, "x-empty"), [""]);
        assert_eq!(values(headers, "openai-beta"), ["assistants=v2"]);
    }
}

#[tokio::test]
async fn long_heads_of_backends_pass() {
    let (a, plane) = one().await;
    let long = "x".repeat(4000);
    let headers = [
        ("x-first", &*long),
        ("x-second", &*long),
        ("x-third", &*long),
    ];
    a.answer(Reply::whole(200, &headers, "ok"));
    let answer = plane.chat("m").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-third"), Some(&*long));
}

#[tokio::test]
async fn one_address_serves_ipv4_and_ipv6() {
    let a = Backend::start("a", &["m"]).await;
    let settings = Settings {
        listen: (Ipv6Addr::UNSPECIFIED, 0).into(),
        ..Plane::settings()
    };
    let mut plane = Plane::with(settings, &Yaml::tiers(&[("a", &a)]).text()).await;
    let port = plane.addr.port();
    plane.addr = SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(plane.chat("m").await.status, 200);
    assert_eq!(a.last().header("x-forwarded-for"), Some("127.0.0.1"));
    // A machine without IPv6 has no such address.
    if TcpListener::bind("[::1]:0").is_ok() {
        plane.addr = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        assert_eq!(plane.chat("m").await.status, 200);
        assert_eq!(a.last().header("x-forwarded-for"), Some("::1"));
    }
}

#[tokio::test]
async fn the_backend_learns_who_asked_and_which_way_it_came() {
    let (a, plane) = one().await;
    chat_with(&plane, &[]).await;
    let got = a.last();
    assert_eq!(got.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(got.header("x-forwarded-host"), Some("olla.test"));
    assert_eq!(got.header("x-forwarded-proto"), Some("http"));
    assert_eq!(got.header("via"), Some("1.1 olla"));
    assert_eq!(got.header("host"), Some(a.addr.to_string().as_str()));
}

#[tokio::test]
async fn what_earlier_hops_said_is_kept() {
    let (a, plane) = one().await;
    let earlier = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-for", "10.1.1.1"),
        ("x-forwarded-host", "public.example"),
        ("x-forwarded-proto", "https"),
        ("via", "2 edge"),
    ];
    chat_with(&plane, &earlier).await;
    let got = a.last();
    let hops = values(&got.headers, "x-forwarded-for").join(", ");
    assert_eq!(hops, "203.0.113.7, 10.1.1.1, 127.0.0.1");
    assert_eq!(got.header("x-forwarded-host"), Some("public.example"));
    assert_eq!(got.header("x-forwarded-proto"), Some("https"));
    assert_eq!(got.header("via"), Some("2 edge, 1.1 olla"));
}

#[tokio::test]
async fn a_request_id_is_adopted_or_made_and_everybody_sees_the_same() {
    let (a, plane) = one().await;
    let answer = chat_with(&plane, &[("x-request-id", "mine-7")]).await;
    for name in ["x-request-id", "x-olla-request-id"] {
        assert_eq!(answer.header(name), Some("mine-7"));
    }
    assert_eq!(a.last().header("x-request-id"), Some("mine-7"));

    let too_long = "x".repeat(200);
    for unusable in ["", "with space", &too_long] {
        let answer = chat_with(&plane, &[("x-request-id", unusable)]).await;
        let made = answer.header("x-olla-request-id").unwrap().to_owned();
        assert_eq!(made.len(), 32, "{made}");
        assert_eq!(a.last().header("x-request-id"), Some(&*made));
        assert_eq!(values(&answer.headers, "x-request-id"), [made]);
    }
}

#[tokio::test]
async fn an_answer_tells_how_it_came_about() {
    let (_a, plane) = one().await;
    let answer = plane.chat("m").await;
    for (name, value) in [
        ("x-olla-endpoint", "a"),
        ("x-olla-backend-type", "vllm"),
        ("x-olla-model", "m"),
        ("x-olla-attempts", "1"),
        ("x-olla-tier", "0"),
        ("x-olla-routing-strategy", "strict"),
        ("x-olla-routing-decision", "routed"),
        ("x-olla-routing-reason", "model_found"),
    ] {
        assert_eq!(values(&answer.headers, name), [value], "{name}");
    }
    assert!(
        answer
            .header("x-olla-response-time")
            .unwrap()
            .ends_with("ms")
    );
    assert!(answer.header("x-served-by").unwrap().starts_with("olla/"));
}

#[tokio::test]
async fn a_redirect_to_the_backend_comes_back_here() {
    let a = Backend::start("a", &["m"]).await;
    let url = format!("{}/base", a.url());
    let plane =
        Yaml::default().endpoint("a", &url, &["type: openai", "health: { mode: Disabled }"]);
    let plane = plane.start().await;
    for (theirs, ours) in [
        (format!("{}/base/v1/x/", a.url()), "/olla/openai/v1/x/"),
        ("/base/v1/x/?a=1".to_owned(), "/olla/openai/v1/x/?a=1"),
        (
            "https://elsewhere.example/y".to_owned(),
            "https://elsewhere.example/y",
        ),
    ] {
        a.answer(Reply::whole(307, &[("location", &theirs)], ""));
        let answer = plane.get("/olla/openai/v1/x").await;
        assert_eq!(answer.header("location"), Some(ours), "{theirs}");
    }
}

#[tokio::test]
async fn forwarded_is_extended_where_a_client_has_it() {
    let a = Backend::start("a", &["m"]).await;
    let plane = Yaml::tiers(&[("a", &a)]).start().await;
    let headers = [("forwarded", "for=9.9.9.9")];
    plane.request("GET", "/v1/x", &headers, b"").await;
    assert_eq!(
        a.last().header("forwarded"),
        Some("for=9.9.9.9, for=127.0.0.1")
    );
    plane.get("/v1/x").await;
    assert!(!a.last().has("forwarded"));
}
