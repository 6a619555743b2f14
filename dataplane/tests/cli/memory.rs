//! What one client can take of a data plane's memory, whatever it does.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::support::{Files, Serving, endpoint, wait_for};

/// For the worst client, everything together.
const MOST_MIB: usize = 64;

/// Longer than what all buffers between it and a client hold.
const ANSWER: usize = 900_000;

/// Connections after which a client is done, if nobody stops it.
const ENOUGH: usize = 64;

/// A backend that is always ahead of its clients.
#[derive(Clone, Default)]
struct Flood {
    asked: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
}

impl Flood {
    fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let flood = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let flood = flood.clone();
                thread::spawn(move || flood.answer(stream));
            }
        });
        addr
    }

    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        if head.starts_with("POST") {
            // It waits for an end that does not come.
            return std::io::copy(&mut reader, &mut std::io::sink())
                .ok()
                .map(|_| ());
        }
        let chat = head.starts_with("GET /v1/x");
        let length = if chat { ANSWER } else { 2 };
        let stream = reader.get_mut();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        if !chat {
            return stream.write_all(b"{}").ok();
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        for _ in 0..ANSWER / 1000 {
            stream.write_all(&[b'x'; 1000]).ok()?;
            self.sent.fetch_add(1000, Ordering::Relaxed);
        }
        Some(())
    }

    /// Returns once nobody takes any more of it.
    fn stalls(&self) {
        let (mut sent, mut same) = (0, 0);
        wait_for("nothing is taken any more", || {
            let now = self.sent.load(Ordering::Relaxed);
            same = if now == sent { same + 1 } else { 0 };
            sent = now;
            same > 50 && now > 0
        });
    }
}

/// Opens all windows, asks for as much as it may on one connection, and reads nothing.
fn ask_by_http2(addr: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(addr).unwrap();
    let frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags];
        [&head[..], &id.to_be_bytes(), payload].concat()
    };
    let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE, and the window of the connection.
    all.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    all.extend(frame(8, 0, 0, &[0x7f, 0, 0, 0]));
    // GET, http, then authority and path as literals.
    let headers = [&[0x82, 0x86, 0x41, 1, b'a', 0x44, 5][..], b"/v1/x"].concat();
    for number in 0..1000 {
        all.extend(frame(1, 5, number * 2 + 1, &headers));
    }
    stream.write_all(&all).ok().map(|()| stream)
}

fn ask_by_http1(addr: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream
        .write_all(b"GET /v1/x HTTP/1.1\r\nhost: a\r\n\r\n")
        .ok()?;
    Some(stream)
}

/// Stops after the first half of a body, as long as one may be to be kept.
fn upload(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    let head = "POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 16000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b'x'; 15_000_000]).unwrap();
    stream
}

#[test]
#[cfg(target_os = "linux")]
fn a_client_that_takes_all_it_can_get_costs_no_more_than_64_mib() {
    for (way, ask) in [
        (
            "HTTP/2",
            ask_by_http2 as fn(SocketAddr) -> Option<TcpStream>,
        ),
        ("HTTP/1.1", ask_by_http1),
    ] {
        let flood = Flood::default();
        let files = Files::new();
        let url = format!("http://{}", flood.start());
        let path = files.write("a.yaml", &endpoint("a", &url, 1));
        let plane = Serving::start(&["-f", &path, "--access-log", "false"]);
        wait_for("it is ready", || {
            plane.get("/internal/ready")["status"] == "ready"
        });
        let before = plane.resident_mib();
        let mut held: Vec<_> = (0..4).map(|_| upload(plane.addr)).collect();
        for _ in 0..ENOUGH {
            held.extend(ask(plane.addr));
        }
        flood.stalls();
        let asked = flood.asked.load(Ordering::Relaxed);
        assert!(asked >= ENOUGH, "{way}: only {asked} reached the backend");
        let cost = plane.resident_mib().saturating_sub(before);
        println!("{way}: {cost} MiB for {asked} answers");
        assert!(cost <= MOST_MIB, "{way}: {cost} MiB for {asked} answers");
        // It still answers.
        assert_eq!(plane.get("/internal/health")["status"], "healthy");
    }
}
