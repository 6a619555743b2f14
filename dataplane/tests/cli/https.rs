//! Backends behind TLS: whom the data plane trusts, and what it says where it does not.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::support::{Files, Serving, answer, endpoint, wait_for};

/// A company's own CA, in a file as `SSL_CERT_FILE` names it.
struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: String,
}

impl Ca {
    fn new(name: &str, files: &Files) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = files.write("ca.crt", &issuer.pem());
        Self { issuer, file }
    }

    /// A backend with a certificate for `name`; lives as long as the process.
    fn backend(&self, name: &str) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let config = config.clone();
                thread::spawn(move || serve(stream, config));
            }
        });
        addr
    }
}

/// A connection that breaks is its client's business.
fn serve(stream: TcpStream, config: Arc<ServerConfig>) -> Option<()> {
    let mut tls = StreamOwned::new(ServerConnection::new(config).ok()?, stream);
    answer(
        &mut tls,
        "200 OK",
        r#"{"object":"list","data":[{"id":"m"}]}"#,
    )?;
    tls.conn.send_close_notify();
    tls.flush().ok()
}

/// The endpoint is believed to be healthy until a request says otherwise: so the first one is
/// sent, whatever a probe would have seen.
fn trusting(addr: SocketAddr) -> String {
    let spec = "  health: { mode: Passive, interval: 1s }\n---";
    endpoint("a", &format!("https://localhost:{}", addr.port()), 1).replace("---", spec)
}

#[test]
fn a_backend_with_a_certificate_of_the_systems_ca_answers() {
    let files = Files::new();
    let ca = Ca::new("ours", &files);
    let path = files.write("a.yaml", &trusting(ca.backend("localhost")));
    let plane = Serving::start_in(&[("SSL_CERT_FILE", &ca.file)], &["-f", &path]);
    assert_eq!(plane.chat("m"), "a");
    wait_for("its models are listed", || {
        plane.get("/internal/status/models")["models"][0]["name"] == "m"
    });
}

#[test]
fn a_certificate_that_does_not_hold_is_a_502_and_says_why() {
    let files = Files::new();
    let ca = Ca::new("ours", &files);
    let stranger = Ca::new("a stranger", &Files::new());
    for (backend, why) in [
        (ca.backend("elsewhere.example"), "not valid for name"),
        (stranger.backend("localhost"), "UnknownIssuer"),
    ] {
        let path = files.write("a.yaml", &trusting(backend));
        let plane = Serving::start_in(&[("SSL_CERT_FILE", &ca.file)], &["-f", &path]);
        assert_eq!(plane.chat("m"), "502", "{why}");
        let endpoint = || plane.get("/internal/status/endpoints")["endpoints"][0].clone();
        wait_for("it is unhealthy", || endpoint()["health"] == "Unhealthy");
        let told = endpoint()["why_not"].as_str().unwrap().to_owned();
        assert!(told.contains(why), "{told}");
        wait_for("so does the log", || !plane.logged(why).is_empty());
    }
}

#[test]
fn a_backend_that_cannot_be_reached_is_logged_with_its_reason_once_not_for_each_request() {
    let files = Files::new();
    let stranger = Ca::new("a stranger", &Files::new());
    let ours = Ca::new("ours", &files);
    let addr = stranger.backend("localhost");
    let spec = "  health: { mode: Disabled }\n  models: { static: [m], discovery: { enabled: false } }\n---";
    let yaml = endpoint("a", &format!("https://localhost:{}", addr.port()), 1);
    let path = files.write("a.yaml", &yaml.replace("---", spec));
    let plane = Serving::start_in(
        &[("SSL_CERT_FILE", &ours.file)],
        &["-f", &path, "--workers", "1"],
    );
    for _ in 0..3 {
        assert_eq!(plane.chat("m"), "502");
    }
    wait_for("three requests are logged", || {
        plane.logged("\"request\"").len() == 3
    });
    let told = plane.logged("connect failed");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("UnknownIssuer"), "{told:?}");
}
