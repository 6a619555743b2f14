//! What the tests stand on: the binary run to its end or in the background, a folder of files, a
//! backend that lists models, and a client.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here should take, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the binary to its end.
pub(crate) fn olla(args: &[&str]) -> Done {
    let output = command(args).output().unwrap();
    Done {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Nothing of this process's environment changes what it does.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_olla-dataplane"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

/// Looks until `holds`.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A folder that is gone with its test.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Where the file is.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// An LlmEndpoint of type vllm, `priority` on its line 7.
pub(crate) fn endpoint(name: &str, url: &str, priority: u32) -> String {
    format!(
        "apiVersion: olla.dev/v1alpha1
kind: LlmEndpoint
metadata: {{ name: {name} }}
spec:
  type: vllm
  url: {url}
  priority: {priority}
---
"
    )
}

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
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let writes = log.clone();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                writes.lock().unwrap().push(line);
            }
        });
        let mut serving = Self {
            child,
            log,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        let mut said = Vec::new();
        wait_for("it listens", || {
            said = serving.logged("\"listening\"");
            !said.is_empty()
        });
        let line: Value = serde_json::from_str(&said[0]).unwrap();
        serving.addr = line["addr"].as_str().unwrap().parse().unwrap();
        serving
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

/// A backend that is healthy, answers every chat, and answers `/v1/models` as told. Lives as long
/// as the process.
pub(crate) struct Backend {
    addr: SocketAddr,
}

impl Backend {
    /// Lists `models`.
    pub(crate) fn listing(models: &[&str]) -> Self {
        let data: Vec<Value> = models
            .iter()
            .map(|model| serde_json::json!({ "id": model, "object": "model" }))
            .collect();
        let list = serde_json::json!({ "object": "list", "data": data });
        Self::start("200 OK", list.to_string())
    }

    /// Answers a listing with this status.
    pub(crate) fn unlisted(status: &'static str) -> Self {
        Self::start(status, "{}".to_owned())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn start(status: &'static str, models: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let models = models.clone();
                // A connection that breaks is its client's business.
                thread::spawn(move || answer(stream, status, &models));
            }
        });
        Self { addr }
    }
}

/// One answer on a connection of any kind.
pub(crate) fn answer(stream: impl Read + Write, status: &str, models: &str) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut start = String::new();
    reader.read_line(&mut start).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    let (status, body) = if start.contains(" /v1/models ") {
        (status, models)
    } else {
        ("200 OK", "{}")
    };
    let length = body.len();
    let rsp = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    reader.get_mut().write_all(rsp.as_bytes()).ok()
}
