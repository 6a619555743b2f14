//! A data plane in this process, around YAML as a user would write it.

use std::net::{Ipv4Addr, SocketAddr};

use dataplane::{
    app::{App, From, Running},
    config::Settings,
};
use manifest::Source;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use super::{
    backend::Backend,
    client::{Answer, Client},
    wait_for,
};

/// YAML of some endpoints and one route.
#[derive(Clone, Debug, Default)]
pub(crate) struct Yaml {
    endpoints: String,
    route: String,
}

impl Yaml {
    /// All `endpoints`, each in a tier of its own, in this order.
    pub(crate) fn tiers(endpoints: &[(&str, &Backend)]) -> Self {
        let mut yaml = Self::default();
        for (number, (name, backend)) in endpoints.iter().enumerate() {
            yaml = yaml.endpoint(name, &backend.url(), &[&format!("priority: {number}")]);
        }
        yaml
    }

    /// All in one tier.
    pub(crate) fn equal(endpoints: &[(&str, &Backend)]) -> Self {
        endpoints.iter().fold(Self::default(), |yaml, (name, it)| {
            yaml.endpoint(name, &it.url(), &[])
        })
    }

    /// `lines` are members of the spec. Without a word about them: type vllm, probed each 200 ms.
    pub(crate) fn endpoint(mut self, name: &str, url: &str, lines: &[&str]) -> Self {
        let has = |member: &str| lines.iter().any(|line| line.starts_with(member));
        let mut spec = vec![format!("url: {url}")];
        if !has("type:") {
            spec.push("type: vllm".to_owned());
        }
        if !has("health:") {
            spec.push("health: { interval: 200ms, timeout: 10s }".to_owned());
        }
        spec.extend(lines.iter().map(ToString::to_string));
        self.endpoints.push_str(&format!(
            "---\napiVersion: olla.dev/v1alpha1\nkind: LlmEndpoint\n\
             metadata: {{ name: {name} }}\nspec:\n  {}\n",
            spec.join("\n  ")
        ));
        self
    }

    /// A member of the route's spec.
    pub(crate) fn route(mut self, line: &str) -> Self {
        self.route.push_str(&format!("  {line}\n"));
        self
    }

    pub(crate) fn secret(mut self, name: &str, key: &str, value: &str) -> Self {
        self.endpoints.push_str(&format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: {name} }}\n\
             stringData: {{ {key}: \"{value}\" }}\n"
        ));
        self
    }

    pub(crate) fn text(&self) -> String {
        let spec = if self.route.is_empty() {
            "  engine: olla\n"
        } else {
            &self.route
        };
        format!(
            "{}---\napiVersion: olla.dev/v1alpha1\nkind: OllaRoute\n\
             metadata: {{ name: chats }}\nspec:\n{spec}",
            self.endpoints
        )
    }

    /// Started with it, and ready.
    pub(crate) async fn start(&self) -> Plane {
        Plane::with(Plane::settings(), &self.text()).await
    }
}

pub(crate) struct Plane {
    pub(crate) addr: SocketAddr,
    pub(crate) running: Running,
}

impl Plane {
    pub(crate) fn settings() -> Settings {
        Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            workers: 1,
            access_log: false,
            ..Settings::default()
        }
    }

    pub(crate) async fn with(settings: Settings, yaml: &str) -> Self {
        Self::from(settings, text(yaml)).await
    }

    /// Started, whatever the endpoints do.
    pub(crate) async fn unready(yaml: &str) -> Self {
        Self::at_once(Self::settings(), text(yaml)).await
    }

    /// Returns when all endpoints have been looked at.
    pub(crate) async fn from(settings: Settings, from: From) -> Self {
        let plane = Self::at_once(settings, from).await;
        plane.settled().await;
        plane
    }

    pub(crate) async fn at_once(settings: Settings, from: From) -> Self {
        let running = App::start(settings, from).await.unwrap();
        Self {
            addr: running.addr,
            running,
        }
    }

    /// Each instance was probed, and listed if it can be.
    pub(crate) async fn settled(&self) {
        wait_for("all endpoints are probed and listed", async || {
            let ready = self.get("/internal/ready").await.status == 200;
            ready
                && self.instances().await.iter().all(|instance| {
                    instance["health"] != "Healthy" || instance["models_reason"] != "not listed yet"
                })
        })
        .await;
    }

    // --- requests ---

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.addr).await
    }

    /// A connection of a client that has another address than all others here. Only where any
    /// address of 127.0.0.0/8 is this machine's.
    pub(crate) async fn stranger(&self) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        let address = Ipv4Addr::new(127, 0, 0, 2);
        socket.bind(SocketAddr::from((address, 0))).unwrap();
        Client::on(socket.connect(self.addr).await.unwrap())
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut client = self.client().await;
        client.request(method, target, headers, body).await
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[], b"").await
    }

    pub(crate) async fn post(&self, target: &str, document: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        let body = document.to_string();
        self.request("POST", target, &headers, body.as_bytes())
            .await
    }

    pub(crate) async fn chat(&self, model: &str) -> Answer {
        self.post("/v1/chat/completions", &chat(model)).await
    }

    /// A streamed chat, its head read.
    pub(crate) async fn stream(&self, model: &str) -> (Client, Answer) {
        self.stream_at("/v1/chat/completions", model).await
    }

    pub(crate) async fn stream_at(&self, target: &str, model: &str) -> (Client, Answer) {
        let mut client = self.send_stream(target, model).await;
        let answer = client.head().await.expect("an answer");
        (client, answer)
    }

    pub(crate) async fn send_stream(&self, target: &str, model: &str) -> Client {
        let mut client = self.client().await;
        let body = streamed(model).to_string();
        client.send("POST", target, &[], body.as_bytes()).await;
        client
    }

    // --- what it says of itself ---

    pub(crate) async fn status(&self) -> Value {
        self.get("/internal/status").await.json()
    }

    pub(crate) async fn instances(&self) -> Vec<Value> {
        let document = self.get("/internal/status/endpoints").await.json();
        document["endpoints"].as_array().unwrap().clone()
    }

    /// What status says of the first instance of `endpoint`.
    pub(crate) async fn instance(&self, endpoint: &str) -> Value {
        let instances = self.instances().await;
        let found = instances.into_iter().find(|i| i["endpoint"] == endpoint);
        found.unwrap_or_else(|| panic!("no {endpoint} in the status"))
    }

    pub(crate) async fn wait_instance(
        &self,
        endpoint: &str,
        member: &str,
        value: impl Into<Value>,
    ) {
        let value = value.into();
        let what = format!("{member} of {endpoint} is {value}");
        wait_for(&what, async || {
            self.instance(endpoint).await[member] == value
        })
        .await;
    }

    pub(crate) async fn metrics(&self) -> String {
        self.get("/internal/metrics").await.text()
    }

    /// The sample of `family` whose labels hold all of `labels`; 0 when there is none.
    pub(crate) async fn metric(&self, family: &str, labels: &[&str]) -> f64 {
        let text = self.metrics().await;
        let fits = |line: &&str| {
            let name = line.split(['{', ' ']).next();
            name == Some(family) && labels.iter().all(|label| line.contains(label))
        };
        let values = text
            .lines()
            .filter(fits)
            .filter_map(|l| l.rsplit(' ').next());
        values.map(|value| value.parse::<f64>().unwrap()).sum()
    }
}

pub(crate) fn text(yaml: &str) -> From {
    let sources = vec![Source {
        name: "test.yaml".to_owned(),
        text: yaml.to_owned(),
    }];
    From::Text {
        sources,
        namespace: None,
    }
}

pub(crate) fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "hi" }] })
}

pub(crate) fn streamed(model: &str) -> Value {
    let mut document = chat(model);
    document["stream"] = Value::Bool(true);
    document
}
