//! `/internal/…` and `/version`: what people, probes and Prometheus look at. All of it is taken
//! from one view of the fleet, so that no two pages disagree.

pub(crate) mod explain;
mod server;
mod status;

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use dataplane_protocol::status::{ErrorDocument, Probe, Version};
use http::{HeaderValue, Method, Response, StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::{
    proxy::{Answered, Asker, OutBody, respond},
    state::Shared,
};

const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

pub(crate) use self::server::serve;

/// Whether the page is told. Where there is an admin listener, clients' port has no more than
/// probes of it need.
fn may_see(asker: Asker, shared: &Shared, path: &str) -> bool {
    asker == Asker::Admin
        || shared.settings.admin.is_none()
        || matches!(
            path,
            "/internal/health" | "/internal/ready" | "/internal/started" | "/version"
        )
}

pub(crate) fn answer(
    shared: &Arc<Shared>,
    asker: Asker,
    method: &Method,
    path: &str,
    query: &str,
) -> Answered {
    if method != Method::GET && method != Method::HEAD {
        return problem(StatusCode::METHOD_NOT_ALLOWED, "GET only".to_owned());
    }
    if !may_see(asker, shared, path) {
        let error = format!("{path} is at the admin listener (--admin-listen)");
        return problem(StatusCode::NOT_FOUND, error);
    }
    match path {
        // Alive is alive: what the backends do is told elsewhere.
        "/internal/health" => document(StatusCode::OK, &probe("healthy", None)),
        "/internal/ready" => ready(shared),
        "/internal/started" => started(shared),
        "/internal/status" => document(StatusCode::OK, &status::system(shared, asker)),
        "/internal/status/endpoints" => document(StatusCode::OK, &status::endpoints(shared, asker)),
        "/internal/status/models" => document(StatusCode::OK, &status::models(shared)),
        "/internal/metrics" => metrics(shared),
        "/internal/explain" => explain(shared, query),
        "/version" => document(
            StatusCode::OK,
            &Version {
                name: "olla-dataplane".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
        ),
        _ => problem(
            StatusCode::NOT_FOUND,
            format!(
                "there is nothing at {path}: see /internal/health, ready, started, status, \
                 status/endpoints, status/models, metrics, explain?model=M&path=P, and /version"
            ),
        ),
    }
}

/// Members in alphabetical order, whatever order the types have.
fn document(status: StatusCode, document: &impl Serialize) -> Answered {
    // They are made of maps with string keys and plain values: that cannot fail.
    let document = serde_json::to_value(document).unwrap_or_default();
    respond::json(status, document.to_string().into_bytes())
}

fn problem(status: StatusCode, error: String) -> Answered {
    document(status, &ErrorDocument { error })
}

fn probe(status: &str, reason: Option<String>) -> Probe {
    Probe {
        status: status.to_owned(),
        reason,
    }
}

/// Ready once there is a table and each instance of the first one has been looked at once.
fn ready(shared: &Arc<Shared>) -> Answered {
    match shared.not_ready(&shared.view()) {
        None => document(StatusCode::OK, &probe("ready", None)),
        reason => document(StatusCode::SERVICE_UNAVAILABLE, &probe("not ready", reason)),
    }
}

/// What a pod's other containers wait for: ready, or waited long enough.
fn started(shared: &Arc<Shared>) -> Answered {
    match shared.not_started(&shared.view()) {
        None => {
            if let Some(file) = shared.started_file() {
                // Nobody waits for it; the runtime's end does, for a second.
                spawn_blocking(move || remember_start(&file));
            }
            document(StatusCode::OK, &probe("started", None))
        }
        reason => document(
            StatusCode::SERVICE_UNAVAILABLE,
            &probe("not started", reason),
        ),
    }
}

fn remember_start(file: &Path) {
    if let Err(error) = fs::write(file, b"") {
        let file = file.display();
        tracing::debug!(%file, %error, "the next process will not know that this one has started");
    }
}

fn metrics(shared: &Arc<Shared>) -> Answered {
    let uptime = shared.clock.now().as_micros() as f64 / 1e6;
    let text = shared
        .metrics
        .render(&shared.view(), shared.kept.now(), uptime);
    let mut rsp = Response::new(OutBody::whole(Bytes::from(text)));
    rsp.headers_mut().insert(CONTENT_TYPE, OPENMETRICS);
    rsp
}

/// `?model=M&path=P`: where such a request would go, and why nowhere else.
fn explain(shared: &Arc<Shared>, query: &str) -> Answered {
    let value = |name: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    };
    let (model, path) = (value("model"), value("path"));
    let path = path.unwrap_or_else(|| "/v1/chat/completions".to_owned());
    let explanation = explain::ask(shared, &path, model.as_deref());
    document(StatusCode::OK, &explanation)
}

#[cfg(test)]
mod tests {
    use dataplane_protocol::{
        Revision,
        status::{Endpoints, Explanation, Models, Status},
    };
    use manifest::Source;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::{config::Settings, source::file};

    #[test]
    fn only_clients_of_this_machine_and_operators_are_told_where_backends_are() {
        let text = "apiVersion: olla.dev/v1alpha1\nkind: LlmEndpoint\nmetadata: { name: a }\n\
                    spec: { url: \"http://10.9.8.7:1234\", type: vllm }\n";
        let source = Source {
            name: "a.yaml".into(),
            text: text.into(),
        };
        let table = file::usable(&[source], None).unwrap().compiled.table;
        let shared = Shared::new(Settings::default());
        shared.apply(Arc::new(table), Revision(1), "file");
        for (asker, told) in [
            (Asker::Admin, true),
            (Asker::Local, true),
            (Asker::Remote, false),
        ] {
            for path in [
                "/internal/status",
                "/internal/status/endpoints",
                "/internal/status/models",
                "/internal/explain",
                "/internal/metrics",
            ] {
                let rsp = answer(&shared, asker, &Method::GET, path, "");
                let OutBody::Whole(Some(body)) = rsp.into_body() else {
                    panic!("{path} is a document");
                };
                let body = String::from_utf8(body.to_vec()).unwrap();
                let shows = body.contains("10.9.8.7");
                assert!(told || !shows, "{path} for {asker:?}: {body}");
                if path.starts_with("/internal/status/e") {
                    assert_eq!(shows, told, "{asker:?}");
                }
            }
        }
    }

    /// As a reader's type, which loses nothing.
    fn read_back<T: Serialize + DeserializeOwned>(text: &str) {
        let read: T = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap().to_string(), text);
    }

    /// What readers of these documents were told before there were types for them; a member more
    /// is a line changed here on purpose.
    #[test]
    fn documents_are_as_they_were_and_can_be_read_back() {
        let text = "apiVersion: olla.dev/v1alpha1\nkind: LlmEndpoint\nmetadata: { name: a }\n\
                    spec: { url: \"http://10.9.8.7:1234\", type: vllm, models: { static: [m] } }\n\
                    ---\napiVersion: olla.dev/v1alpha1\nkind: OllaRoute\nmetadata: { name: r }\n\
                    spec: {}\n";
        let source = Source {
            name: "a.yaml".into(),
            text: text.into(),
        };
        let table = file::usable(&[source], None).unwrap().compiled.table;
        let shared = Shared::new(Settings::default());
        let told = |path: &str| {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            let rsp = answer(&shared, Asker::Admin, &Method::GET, path, query);
            let OutBody::Whole(Some(body)) = rsp.into_body() else {
                panic!("{path} is a document");
            };
            String::from_utf8(body.to_vec()).unwrap()
        };
        let mut all = Vec::new();
        for path in ["/internal/status", "/internal/ready", "/internal/started"] {
            let text = told(path);
            all.push(format!("before the first table {path}\n{text}\n"));
        }
        shared.apply(Arc::new(table), Revision(1), "file");
        for (path, reads) in [
            ("/internal/health", read_back::<Probe> as fn(&str)),
            ("/internal/ready", read_back::<Probe>),
            ("/internal/started", read_back::<Probe>),
            ("/internal/status", read_back::<Status>),
            ("/internal/status/endpoints", read_back::<Endpoints>),
            ("/internal/status/models", read_back::<Models>),
            ("/internal/explain?model=m", read_back::<Explanation>),
            ("/internal/explain?model=other", read_back::<Explanation>),
            (
                "/internal/explain?path=/internal/status",
                read_back::<Explanation>,
            ),
            (
                "/internal/explain?path=/nothing/here",
                read_back::<Explanation>,
            ),
            ("/version", read_back::<Version>),
            ("/internal/nothing", read_back::<ErrorDocument>),
        ] {
            let text = told(path);
            reads(&text);
            all.push(format!("{path}\n{text}\n"));
        }
        let version = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
        let all = all.concat().replace(&version, "\"version\":\"V\"");
        assert_eq!(all, include_str!("documents.txt"));
    }
}
