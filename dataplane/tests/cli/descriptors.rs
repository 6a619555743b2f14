//! What happens when the process may open no more files.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::Command,
};

use crate::support::{Backend, Files, Serving, endpoint, wait_for};

/// A chat on a connection that stays open: status and body.
fn chat(client: &mut BufReader<TcpStream>) -> (String, String) {
    let body = r#"{"model":"m","messages":[]}"#;
    let length = body.len();
    let req = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    client.get_mut().write_all(req.as_bytes()).unwrap();
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let mut line = String::new();
        assert_ne!(client.read_line(&mut line).unwrap(), 0, "{head}");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        head += &line;
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body).unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    (status, String::from_utf8(body).unwrap())
}

/// From now on the process may have so many files open.
fn limit(plane: &Serving, files: usize) {
    let status = Command::new("prlimit")
        .args(["--pid", &plane.id().to_string()])
        .arg(format!("--nofile={files}:"))
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn without_file_descriptors_a_request_is_refused_and_no_endpoint_is_blamed() {
    let backend = Backend::listing(&["m"]);
    let files = Files::new();
    let often = "  health: { interval: 100ms, unhealthyThreshold: 1 }\n---\n";
    let text = endpoint("a", &backend.url(), 1).replace("---\n", often);
    let plane = Serving::start(&["-f", &files.write("a.yaml", &text)]);
    wait_for("a chat is answered", || plane.chat("m") == "a");
    let mut client = BufReader::new(TcpStream::connect(plane.addr).unwrap());
    assert_eq!(chat(&mut client).0, "200");
    // What is open stays so.
    limit(&plane, 1);
    wait_for("a probe cannot be sent", || {
        !plane.logged("no health probe").is_empty()
    });
    let (status, body) = chat(&mut client);
    assert_eq!(status, "503", "{body}");
    assert!(body.contains("no_descriptors"), "{body}");
    limit(&plane, 1024);
    assert_eq!(chat(&mut client).0, "200");
    assert!(plane.logged("\"unhealthy\"").is_empty());
}
