//! The binary in the background, and a client of it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

use super::{PATIENCE, command, wait_for};

/// A data plane that serves in the background.
pub(crate) struct Serving {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    pub(crate) addr: SocketAddr,
}

impl Serving {
    /// `run` with `args`, on a port of its own.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(&[], args)
    }

    /// The same with these variables of the environment, and no others.
    pub(crate) fn start_in(environment: &[(&str, &str)], args: &[&str]) -> Self {
        Self::start_somewhere(environment, &[&["--listen", "127.0.0.1:0"], args].concat())
    }

    /// Listens where it is told to by what is given here.
    pub(crate) fn start_somewhere(environment: &[(&str, &str)], args: &[&str]) -> Self {
        let mut command = command(&[&["run"], args].concat());
        command.envs(environment.iter().copied());
        let mut serving = Self::spawn(command);
        let line = serving.first("\"listening\"");
        let line: Value = serde_json::from_str(&line).unwrap();
        serving.addr = line["addr"].as_str().unwrap().parse().unwrap();
        serving
    }

    /// `demo`, with keys from a pipe.
    pub(crate) fn demo() -> Self {
        let mut command = command(&["demo", "--listen", "127.0.0.1:0"]);
        command.stdin(Stdio::piped());
        let mut serving = Self::spawn(command);
        let line = serving.first("listens on http://");
        let addr = line.split("http://").nth(1).unwrap();
        let addr = addr.split(". ").next().unwrap();
        serving.addr = addr.parse().unwrap();
        serving
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let writes = log.clone();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                writes.lock().unwrap().push(line);
            }
        });
        Self {
            child,
            log,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }

    /// The first line that holds `text`, once it is there.
    fn first(&self, text: &str) -> String {
        let mut said = Vec::new();
        wait_for(&format!("it says {text}"), || {
            said = self.logged(text);
            !said.is_empty()
        });
        said.swap_remove(0)
    }

    /// Writes to its standard input.
    pub(crate) fn press(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Nothing more will be pressed.
    pub(crate) fn close_stdin(&mut self) {
        self.child.stdin.take();
    }

    /// Log lines that hold `text`.
    pub(crate) fn logged(&self, text: &str) -> Vec<String> {
        let log = self.log.lock().unwrap();
        log.iter()
            .filter(|line| line.contains(text))
            .cloned()
            .collect()
    }

    /// The endpoint that answers a chat; the status where none does.
    pub(crate) fn chat(&self, model: &str) -> String {
        let body = format!("{{\"model\":\"{model}\",\"messages\":[]}}");
        let rsp = self.post("/v1/chat/completions", "", &body);
        let named = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            (name.eq_ignore_ascii_case("x-olla-endpoint")).then(|| value.to_owned())
        };
        match status(&rsp) {
            "200" => rsp.lines().find_map(named).unwrap(),
            other => other.to_owned(),
        }
    }

    /// Head and body as they came; `headers` are lines that end with `\r\n`.
    pub(crate) fn post(&self, path: &str, headers: &str, body: &str) -> String {
        send(self.addr, "POST", path, headers, body)
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let rsp = self.get_raw(path);
        serde_json::from_str(rsp.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// Head and body as they came.
    pub(crate) fn get_raw(&self, path: &str) -> String {
        send(self.addr, "GET", path, "", "")
    }

    /// Of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Memory of the process that is in use.
    pub(crate) fn resident_mib(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.unwrap().trim().trim_end_matches(" kB");
        kib.parse::<usize>().unwrap() / 1024
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("/bin/sh").args(["-c", &kill]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_for("it ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of an answer as it came.
pub(crate) fn status(rsp: &str) -> &str {
    rsp.split(' ').nth(1).unwrap()
}

/// One exchange on a connection of its own: head and body as they came.
fn send(addr: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let req = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(req.as_bytes()).unwrap();
    let mut rsp = String::new();
    stream.read_to_string(&mut rsp).unwrap();
    rsp
}
