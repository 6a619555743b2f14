//! `health`: what containers without a shell ask themselves.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use crate::support::{Files, Serving, endpoint, olla};

#[test]
fn a_data_plane_that_serves_is_healthy_by_its_exit_code() {
    let files = Files::new();
    let path = files.write("a.yaml", &endpoint("a", "http://127.0.0.1:9", 1));
    let plane = Serving::start(&["-f", &path]);
    let done = olla(&["health", "--listen", &plane.addr.to_string()]);
    assert_eq!((done.code, done.err.as_str()), (0, ""));
    let everywhere = format!("[::]:{}", plane.addr.port());
    assert_eq!(olla(&["health", "--listen", &everywhere]).code, 0);
}

#[test]
fn one_that_is_gone_is_not_and_the_error_says_what_was_asked() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = port.local_addr().unwrap().to_string();
    drop(port);
    let done = olla(&["health", "--listen", &addr]);
    assert_eq!(done.code, 1, "{done:?}");
    let told = format!("olla-dataplane: GET http://{addr}/internal/health: connect: ");
    assert!(done.err.starts_with(&told), "{}", done.err);
}

#[test]
fn one_that_accepts_and_says_nothing_is_not() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let done = olla(&["health", "--timeout-seconds", "1", "--listen", &addr]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.err.contains("read the answer"), "{}", done.err);
}

#[test]
fn one_that_is_not_ready_is_alive_and_not_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).unwrap() > 0);
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 9\r\n\r\nno table.";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let done = olla(&["health", "--ready", "--listen", &addr]);
    assert_eq!(done.code, 1, "{done:?}");
    let told = format!("GET http://{addr}/internal/ready: 503: no table.\n");
    assert!(done.err.ends_with(&told), "{}", done.err);
}
