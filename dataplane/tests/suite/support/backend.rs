//! A backend on an address of its own that does what a test says, and remembers what it was
//! asked.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    task::JoinSet,
};

use super::{
    reply::{Reply, Step},
    text::{self, Body, Headers, Length},
};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Recorded {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        text::value(&self.headers, name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.header(name).is_some()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A request in, what to do out.
type Script = Arc<dyn Fn(&Recorded) -> Reply + Send + Sync>;

struct Scripts {
    health: Reply,
    listing: Reply,
    /// Used up before `rest`.
    next: VecDeque<Reply>,
    rest: Script,
    /// Accepts connections and never reads from them.
    deaf: bool,
    ear: Ear,
}

/// How much of a request it reads before it answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ear {
    Whole,
    /// Its head; the body is taken and dropped meanwhile.
    Head,
    /// Its head, and nothing more is taken.
    HeadOnly,
}

struct State {
    scripts: Mutex<Scripts>,
    requests: Mutex<Vec<Recorded>>,
    /// Probes and listings.
    looks: Mutex<Vec<Recorded>>,
    /// Peers that left while they were being answered.
    left: AtomicUsize,
    open: AtomicUsize,
    accepted: AtomicUsize,
    answering: AtomicUsize,
}

pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    state: Arc<State>,
    serving: JoinSet<()>,
}

impl Backend {
    /// Of type vllm: healthy, lists `models`, answers with its name.
    pub(crate) async fn start(name: &str, models: &[&str]) -> Self {
        let chat = Reply::chat(name);
        let state = Arc::new(State {
            scripts: Mutex::new(Scripts {
                health: Reply::whole(200, &[], "ok"),
                listing: Reply::listing(models),
                next: VecDeque::new(),
                rest: Arc::new(move |_| chat.clone()),
                deaf: false,
                ear: Ear::Whole,
            }),
            requests: Mutex::default(),
            looks: Mutex::default(),
            left: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
        });
        let mut backend = Self {
            addr: own_address(),
            state,
            serving: JoinSet::new(),
        };
        backend.restart().await;
        backend
    }

    /// Of type ollama: as [`Self::start`], but for the listing.
    pub(crate) async fn ollama(name: &str, models: &[&str]) -> Self {
        let backend = Self::start(name, models).await;
        backend.listing(Reply::tags(models));
        backend
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    // --- what it does ---

    pub(crate) fn answer(&self, reply: Reply) {
        self.answer_with(move |_| reply.clone());
    }

    pub(crate) fn answer_with(&self, script: impl Fn(&Recorded) -> Reply + Send + Sync + 'static) {
        self.state.scripts.lock().rest = Arc::new(script);
    }

    /// For one request, before what [`Self::answer`] says.
    pub(crate) fn answer_next(&self, reply: Reply) {
        self.state.scripts.lock().next.push_back(reply);
    }

    pub(crate) fn health(&self, reply: Reply) {
        self.state.scripts.lock().health = reply;
    }

    pub(crate) fn listing(&self, reply: Reply) {
        self.state.scripts.lock().listing = reply;
    }

    /// The kernel takes connections, the process takes nothing from them.
    pub(crate) fn deaf(&self, deaf: bool) {
        self.state.scripts.lock().deaf = deaf;
    }

    /// How much of a POST it reads before it answers.
    pub(crate) fn reads(&self, ear: Ear) {
        self.state.scripts.lock().ear = ear;
    }

    /// Answers nothing any more, probes included.
    pub(crate) fn freeze(&self) {
        let hang = Reply::default().hang();
        let mut scripts = self.state.scripts.lock();
        scripts.health = hang.clone();
        scripts.listing = hang.clone();
        scripts.rest = Arc::new(move |_| hang.clone());
    }

    /// As if its process was killed: no listener, all connections gone.
    pub(crate) async fn stop(&mut self) {
        self.serving.shutdown().await;
    }

    /// On the same port.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        let listener = TcpListener::bind(self.addr).await.unwrap();
        self.addr = listener.local_addr().unwrap();
        self.serving.spawn(accept(listener, self.state.clone()));
    }

    // --- what it saw ---

    pub(crate) fn count(&self) -> usize {
        self.state.requests.lock().len()
    }

    pub(crate) fn last(&self) -> Recorded {
        self.state.requests.lock().last().unwrap().clone()
    }

    pub(crate) fn looks(&self) -> Vec<Recorded> {
        self.state.looks.lock().clone()
    }

    /// How often the peer closed before its answer was whole.
    pub(crate) fn left(&self) -> usize {
        self.state.left.load(Ordering::SeqCst)
    }

    /// Connections now.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Connections ever.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Requests being answered now.
    pub(crate) fn answering(&self) -> usize {
        self.state.answering.load(Ordering::SeqCst)
    }
}

/// Each backend has a loopback address of its own, so that nobody takes its port while it is
/// stopped, and an error that names it can be told from one that does not.
pub(crate) fn own_address() -> SocketAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    let byte = |number: usize| u8::try_from(number % 250).unwrap() + 1;
    let process = usize::try_from(std::process::id()).unwrap();
    SocketAddr::from(([127, byte(process), byte(number / 250), byte(number)], 0))
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        state.accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(connection(stream, state.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Counts for as long as it lives.
struct Count<'a>(&'a AtomicUsize);

impl<'a> Count<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Self(counter)
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn connection(mut stream: TcpStream, state: Arc<State>) {
    let _open = Count::new(&state.open);
    if state.scripts.lock().deaf {
        std::future::pending::<()>().await;
    }
    let reset = {
        let (mut reader, mut writer) = stream.split();
        let mut buffer = Vec::new();
        loop {
            let ear = state.scripts.lock().ear;
            let Some(request) = read(&mut reader, &mut buffer, ear).await else {
                return;
            };
            let takes_more = ear != Ear::HeadOnly || request.method == "GET";
            let reply = state.reply(request);
            let _answering = Count::new(&state.answering);
            let end = tokio::select! {
                biased;
                end = carry_out(reply, &mut writer) => end,
                () = peer_leaves(&mut reader, &mut buffer), if takes_more => End::Left,
            };
            match end {
                End::Keep => {}
                End::Close => break false,
                End::Reset => break true,
                End::Left => {
                    state.left.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
        }
    };
    if reset {
        let socket = socket2::SockRef::from(&stream);
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}

impl State {
    fn reply(&self, request: Recorded) -> Reply {
        let path = request.target.split('?').next().unwrap_or_default();
        let get = request.method == "GET";
        let mut scripts = self.scripts.lock();
        if get && (path == "/" || path.ends_with("/health")) {
            self.looks.lock().push(request);
            return scripts.health.clone();
        }
        if get && (path.ends_with("/v1/models") || path == "/api/tags") {
            self.looks.lock().push(request);
            return scripts.listing.clone();
        }
        let next = scripts.next.pop_front();
        let script = scripts.rest.clone();
        drop(scripts);
        let reply = next.unwrap_or_else(|| script(&request));
        self.requests.lock().push(request);
        reply
    }
}

enum End {
    Keep,
    Close,
    Reset,
    Left,
}

async fn carry_out(reply: Reply, writer: &mut WriteHalf<'_>) -> End {
    for step in reply.0 {
        match step {
            Step::Write(bytes) => {
                if writer.write_all(&bytes).await.is_err() {
                    return End::Left;
                }
            }
            Step::Pause(time) => tokio::time::sleep(time).await,
            Step::Wait(gate) => gate.cancelled().await,
            Step::Hang => std::future::pending().await,
            Step::Close => return End::Close,
            Step::Reset => return End::Reset,
        }
    }
    End::Keep
}

/// Resolves when the peer has closed; keeps what it sends meanwhile.
async fn peer_leaves(reader: &mut ReadHalf<'_>, buffer: &mut Vec<u8>) {
    while matches!(reader.read_buf(buffer).await, Ok(1..)) {}
}

/// The next request, or `None` when the peer closes.
async fn read(reader: &mut ReadHalf<'_>, buffer: &mut Vec<u8>, ear: Ear) -> Option<Recorded> {
    let (start, headers, length) = loop {
        if let Some(head) = text::head(buffer) {
            break head;
        }
        if !matches!(reader.read_buf(buffer).await, Ok(1..)) {
            return None;
        }
    };
    buffer.drain(..length);
    let mut framing = Body::new(Length::of(&headers, Length::Known(0)));
    let mut body = Vec::new();
    loop {
        body.extend(framing.take(buffer));
        if framing.ended || ear != Ear::Whole {
            break;
        }
        if !matches!(reader.read_buf(buffer).await, Ok(1..)) {
            return None;
        }
    }
    let mut words = start.split(' ');
    Some(Recorded {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        headers,
        body,
    })
}
