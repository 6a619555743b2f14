//! A backend that does not speak HTTP/1.1 as it should.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
};

use crate::support::{Files, Serving, endpoint, wait_for};

/// Answers each connection with a head whose second line is folded, which readers take for
/// different things.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nx-a: 1\r\n 2\r\ncontent-length: 0\r\n\r\n");
        }
    });
    addr
}

#[test]
fn a_malformed_answer_is_logged_with_its_reason_once_not_for_each_request() {
    let files = Files::new();
    let spec = "  health: { mode: Disabled }\n  models: { static: [m], discovery: { enabled: false } }\n---";
    let yaml = endpoint("a", &format!("http://{}", backend()), 1);
    let path = files.write("a.yaml", &yaml.replace("---", spec));
    let plane = Serving::start(&["-f", &path, "--workers", "1"]);
    for _ in 0..3 {
        assert_eq!(plane.chat("m"), "502");
    }
    wait_for("three requests are logged", || {
        plane.logged("\"request\"").len() == 3
    });
    let told = plane.logged("the answer is malformed");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("does not speak HTTP/1.1"), "{told:?}");
}
