//! The CA's way into the namespaces: the API server is played by the test, the clock stands still
//! unless everybody waits.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by them")]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper::{Request, Response};
use kube::{Client, client::Body};
use operator::{
    config::Config,
    tls::{self, PemBundle, ServingCertificate},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tower_test::mock;

/// The certificate of somebody else's making, as the operator reads it.
fn write(folder: &Path, material: &PemBundle) {
    fs::write(folder.join("ca.crt"), &material.ca).unwrap();
    fs::write(folder.join("tls.crt"), &material.certificate).unwrap();
    fs::write(folder.join("tls.key"), &material.key).unwrap();
}

struct World {
    /// Namespaces that were asked to take the CA, in order.
    asked: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    namespaces: watch::Sender<BTreeSet<String>>,
}

impl World {
    /// Twenty namespaces, of which those that start with a word of `silent` never answer.
    fn start(silent: &'static [&'static str]) -> Self {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let log = asked.clone();
        tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some((request, answer)) = handle.next_request().await {
                let namespace = request.uri().path().split('/').nth(4).unwrap().to_owned();
                log.lock().unwrap().push(namespace.clone());
                if silent.iter().any(|word| namespace.starts_with(word)) {
                    unanswered.push(answer);
                } else {
                    answer.send_response(Response::new(Body::from(b"{}".to_vec())));
                }
            }
        });
        let names = (0..20).map(|n| format!("n{n:02}")).collect();
        let (namespaces_tx, namespaces) = watch::channel(names);
        let stop = CancellationToken::new();
        let client = Client::new(service, "default");
        Self {
            asked,
            task: tokio::spawn(tls::publish_ca(
                client,
                certificate(),
                namespaces,
                stop.clone(),
            )),
            stop,
            namespaces: namespaces_tx,
        }
    }

    fn asked(&self) -> BTreeSet<String> {
        self.asked.lock().unwrap().iter().cloned().collect()
    }
}

fn material() -> PemBundle {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    PemBundle {
        ca: made.cert.pem(),
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
    }
}

fn certificate() -> Arc<ServingCertificate> {
    ServingCertificate::new(&material()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_does_not_take_the_ca_holds_up_no_other() {
    let world = World::start(&["n00", "n01", "n02"]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.asked().len(), 20);
    // And it is asked again, the others are not.
    sleep(Duration::from_secs(19)).await;
    assert_eq!(world.asked.lock().unwrap().len(), 23);
    world.stop.cancel();
    world.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_namespaces_that_do_not_take_the_ca_hold_up_no_new_one() {
    let world = World::start(&["n"]);
    // Until each of the twenty has been asked.
    sleep(Duration::from_secs(60)).await;
    for n in 0..10 {
        let new = format!("good-{n}");
        world.namespaces.send_modify(|all| {
            all.insert(new.clone());
        });
        sleep(Duration::from_secs(1)).await;
        assert!(world.asked().contains(&new), "{new}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_an_api_server_that_is_silent() {
    let world = World::start(&["n"]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.asked().len(), 8, "at a time");
    world.stop.cancel();
    let stopped = Instant::now();
    world.task.await.unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_certificate_in_files_is_read_anew_within_a_minute_and_a_broken_one_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (material(), material());
    write(folder.path(), &first);
    let config = Config {
        cert_dir: Some(folder.path().to_owned()),
        ..Config::default()
    };
    let (service, _handle) = mock::pair::<Request<Body>, Response<Body>>();
    let client = Client::new(service, "default");
    let loaded = tls::load(&config, &client).await.unwrap();
    let certificate = ServingCertificate::new(&loaded).unwrap();
    let stop = CancellationToken::new();
    let fresh = tls::keep_fresh(config, client, certificate.clone(), stop.clone());
    let task = tokio::spawn(fresh);
    // Half of a renewal: the key is not the certificate's.
    fs::write(folder.path().join("tls.key"), &second.key).unwrap();
    sleep(Duration::from_secs(61)).await;
    assert_eq!(certificate.ca(), first.ca);
    write(folder.path(), &second);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(certificate.ca(), second.ca);
    stop.cancel();
    task.await.unwrap();
}
