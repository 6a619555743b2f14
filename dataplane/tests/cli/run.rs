//! `run` on files: serve, follow changes, end.

use std::net::{Ipv4Addr, TcpListener};

use crate::support::{Backend, Files, Serving, endpoint, olla, wait_for};

#[test]
fn files_are_served_until_sigterm_and_the_exit_code_is_0() {
    let backend = Backend::listing(&["m"]);
    let files = Files::new();
    let path = files.write("a.yaml", &endpoint("a", &backend.url(), 1));
    let mut plane = Serving::start(&["-f", &path]);
    wait_for("a chat is answered", || plane.chat("m") == "a");
    assert_eq!(plane.terminate().code(), Some(0));
    assert_eq!(plane.logged("\"drained\"").len(), 1);
}

#[test]
fn a_port_in_use_is_told_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let files = Files::new();
    let path = files.write("a.yaml", &endpoint("a", "http://127.0.0.1:9", 1));
    let done = olla(&["run", "-f", &path, "--listen", &addr]);
    let told = format!("olla-dataplane: listen on {addr}: Address already in use (os error 98)\n");
    assert_eq!((done.code, &done.err), (1, &told));
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let done = olla(&["run", "-f", "a.yaml", "--tls-cert", "tls.crt"]);
    assert_eq!(done.code, 2, "{done:?}");
    assert!(done.err.contains("--tls-key <FILE>"), "{}", done.err);
}

#[test]
fn what_is_wrong_keeps_it_from_starting_and_is_told_with_its_place() {
    let files = Files::new();
    let broken = endpoint("a", "http://127.0.0.1:9", 1).replace("vllm", "vlllm");
    let path = files.write("a.yaml", &broken);
    let done = olla(&["run", "-f", &path, "--listen", "127.0.0.1:0"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert_eq!(done.err.matches("vlllm").count(), 1, "{}", done.err);
    let told = format!("olla-dataplane: {path}:");
    assert!(done.err.starts_with(&told), "{}", done.err);
    assert!(
        done.err.contains(": LlmEndpoint a: spec.type: "),
        "{}",
        done.err
    );
}

#[test]
fn a_changed_file_moves_traffic_and_a_broken_one_keeps_it() {
    let (a, b) = (Backend::listing(&["m"]), Backend::listing(&["m"]));
    let files = Files::new();
    let path = files.write("a.yaml", &endpoint("a", &a.url(), 1));
    let plane = Serving::start(&["-f", &path]);
    wait_for("a chat is answered", || plane.chat("m") == "a");

    files.write("a.yaml", &endpoint("b", &b.url(), 1));
    wait_for("traffic moves", || plane.chat("m") == "b");

    files.write(
        "a.yaml",
        &endpoint("a", &a.url(), 1).replace("vllm", "vlllm"),
    );
    let problem = || {
        let status = plane.get("/internal/status");
        status["config"]["problem"].as_str().unwrap().to_owned()
    };
    wait_for("the problem is told", || !problem().is_empty());
    assert!(problem().starts_with(&format!("{path}:")), "{}", problem());
    assert!(problem().contains("LlmEndpoint a: spec.type: "));
    assert_eq!(plane.chat("m"), "b");
    wait_for("and logged", || {
        !plane.logged("configuration invalid").is_empty()
    });
    assert_eq!(plane.logged("configuration invalid").len(), 1);
}

#[test]
fn warnings_are_logged_at_the_start_and_once_for_each_change() {
    let backend = Backend::listing(&["m"]);
    let config = |second: u32| {
        let url = backend.url();
        format!(
            "endpoints:
  - {{ name: a, url: '{url}', type: vllm, priority: 1 }}
  - {{ name: b, url: '{url}/b', type: vllm, priority: {second} }}
proxy: {{ load_balancer: priority }}
"
        )
    };
    let files = Files::new();
    let path = files.write("config.yaml", &config(2));
    let plane = Serving::start(&["-f", &path]);
    let warned = |text: &str| plane.logged(text).len();
    assert_eq!(warned("1 is preferred over 2"), 1);
    files.write("config.yaml", &config(3));
    wait_for("the change is warned of", || {
        warned("1 is preferred over 3") > 0
    });
    files.write("config.yaml", &config(4));
    wait_for("so is the next", || warned("1 is preferred over 4") > 0);
    assert_eq!(warned("is preferred over"), 3, "each once");
}

#[test]
fn several_namespaces_need_a_choice_and_the_others_are_warned_of() {
    let backend = Backend::listing(&["m"]);
    let in_namespace = |name: &str, namespace: &str| {
        let place = format!("name: {name}, namespace: {namespace}");
        endpoint(name, &backend.url(), 1).replace(&format!("name: {name}"), &place)
    };
    let files = Files::new();
    let path = files.write(
        "a.yaml",
        &(in_namespace("a", "red") + &in_namespace("b", "blue")),
    );
    let done = olla(&["run", "-f", &path, "--listen", "127.0.0.1:0"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.err.contains("(blue, red)"), "{}", done.err);
    assert!(done.err.contains("--namespace"), "{}", done.err);

    let plane = Serving::start(&["-f", &path, "--namespace", "red"]);
    wait_for("a chat is answered", || plane.chat("m") == "a");
    assert_eq!(plane.logged("\"not_served\":\"blue\"").len(), 1);
    files.write(
        "a.yaml",
        &(in_namespace("a", "red") + &in_namespace("b", "green")),
    );
    wait_for("the new stranger is warned of", || {
        plane.logged("\"not_served\":\"green\"").len() == 1
    });
}

#[test]
fn ollas_server_host_and_port_are_where_it_listens_unless_told_otherwise() {
    let backend = Backend::listing(&["m"]);
    // An address of its own, so that nobody takes the port meanwhile.
    let [.., high, low] = std::process::id().to_be_bytes();
    let free = TcpListener::bind((Ipv4Addr::new(127, 99, high, low), 0)).unwrap();
    let wanted = free.local_addr().unwrap();
    drop(free);
    let config = format!(
        "server: {{ host: {}, port: {} }}
discovery:
  type: static
  static:
    endpoints: [{{ name: a, url: '{}', type: vllm, priority: 1 }}]
",
        wanted.ip(),
        wanted.port(),
        backend.url()
    );
    let files = Files::new();
    let path = files.write("config.yaml", &config);
    let plane = Serving::start_somewhere(&[], &["-f", &path]);
    assert_eq!(plane.addr, wanted);
    wait_for("a chat is answered", || plane.chat("m") == "a");

    // Beside the first: it could not start where the file says.
    let elsewhere = "127.0.0.1:0";
    let by_flag = Serving::start_somewhere(&[], &["-f", &path, "--listen", elsewhere]);
    let by_environment = Serving::start_somewhere(&[("OLLA_LISTEN", elsewhere)], &["-f", &path]);
    for plane in [by_flag, by_environment] {
        assert_eq!(plane.addr.ip(), Ipv4Addr::LOCALHOST);
        wait_for("a chat is answered", || plane.chat("m") == "a");
    }
}
