//! What is in the images that `deploy/images/build` makes.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

const NAMES: [&str; 2] = ["olla-operator", "olla-dataplane"];

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().context("start it")?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {complaint}");
    String::from_utf8(output.stdout).context("it prints no text")
}

/// Builds them into `folder`; out: `NAME DIGEST` lines.
fn build(folder: &Path) -> Result<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/images/build");
    let binaries = std::env::var("OLLA_E2E_STATIC_DIR").context("run by ./e2e/test node")?;
    let options = ["--registry", "olla.test", "--binaries", &binaries];
    let mut command = Command::new(script);
    command.args(options).arg("--archive").arg(folder);
    run(&mut command)
}

/// A JSON document of an unpacked archive, by its digest.
fn blob(folder: &Path, digest: &Value) -> Result<Value> {
    let digest = digest.as_str().context("a digest")?;
    let path = folder.join("blobs").join(digest.replace(':', "/"));
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

#[test]
fn the_same_tree_makes_the_same_images_with_one_program_in_each_and_its_labels() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let first = build(folder.path())?;
    assert_eq!(build(folder.path())?, first);
    for name in NAMES {
        let unpacked = folder.path().join(name);
        std::fs::create_dir(&unpacked)?;
        let archive = folder.path().join(format!("{name}.tar"));
        run(Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(&unpacked))?;
        let index: Value =
            serde_json::from_str(&std::fs::read_to_string(unpacked.join("index.json"))?)?;
        let digest = &index["manifests"][0]["digest"];
        assert!(first.contains(digest.as_str().unwrap_or("?")), "{first}");
        let manifest = blob(&unpacked, digest)?;
        let config = blob(&unpacked, &manifest["config"]["digest"])?["config"].clone();
        let program = format!("/bin/{name}");
        assert_eq!(config["Entrypoint"], serde_json::json!([program]));
        assert_eq!(config["User"], "65532:65532");
        let label =
            |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].clone();
        assert_eq!(label("title"), name);
        assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(label("licenses"), "Apache-2.0");
        assert!(label("revision").as_str().is_some_and(|it| it.len() >= 40));

        let mut held = Vec::new();
        for layer in manifest["layers"].as_array().context("layers")? {
            let digest = layer["digest"].as_str().context("a digest")?;
            let path = unpacked.join("blobs").join(digest.replace(':', "/"));
            let listed = run(Command::new("tar").arg("-tzf").arg(path))?;
            let files = listed.lines().filter(|name| !name.ends_with('/'));
            held.extend(files.map(|name| format!("/{name}")));
        }
        held.sort();
        let mut wanted = [
            &program,
            "/etc/passwd",
            "/etc/ssl/certs/ca-certificates.crt",
        ];
        wanted.sort_unstable();
        assert_eq!(held, wanted);
    }
    Ok(())
}
