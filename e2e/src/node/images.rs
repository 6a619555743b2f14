//! Images for the node, which can pull none. In: archives that `deploy/images/build` made, and the
//! pause program that `e2e/setup` built. Out: images in containerd under the names that pods use.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::config::PAUSE_IMAGE;
use crate::process::run_dir;

/// What `e2e/test` builds our images for, and what charts are told as `image.registry`.
pub const REGISTRY: &str = "olla.test";

/// The pause image's archive: a file system of one program.
pub(super) fn pause(folder: &Path) -> Result<PathBuf> {
    let program = std::env::var_os("OLLA_E2E_PAUSE")
        .context("OLLA_E2E_PAUSE is not set: run the node's tests by ./e2e/test node")?;
    let context = folder.join("pause");
    std::fs::create_dir_all(&context).context("create the pause image's folder")?;
    std::fs::copy(program, context.join("pause")).context("copy the pause program")?;
    let containerfile = "FROM scratch\nCOPY pause /pause\nENTRYPOINT [\"/pause\"]\n";
    std::fs::write(context.join("Containerfile"), containerfile)
        .context("write the pause image's Containerfile")?;
    let archive = folder.join("pause.tar");
    buildah(
        folder,
        &["build", "-q", "-t", PAUSE_IMAGE, "-f"],
        &[&context.join("Containerfile"), &context],
    )?;
    let target = format!("oci-archive:{}:{PAUSE_IMAGE}", archive.display());
    buildah(folder, &["push", "-q", PAUSE_IMAGE, &target], &[])?;
    Ok(archive)
}

/// The archives of our own images.
pub(super) fn ours() -> Result<Vec<PathBuf>> {
    let folder = run_dir()?.join("images");
    let archives =
        ["olla-operator", "olla-dataplane"].map(|name| folder.join(format!("{name}.tar")));
    for archive in &archives {
        if !archive.is_file() {
            bail!("{} is not there: run by ./e2e/test node", archive.display());
        }
    }
    Ok(archives.into())
}

/// With a storage that goes away with the run.
fn buildah(folder: &Path, args: &[&str], paths: &[&Path]) -> Result<()> {
    let mut command = Command::new("buildah");
    command
        .arg("--root")
        .arg(folder.join("storage"))
        .arg("--runroot")
        .arg(folder.join("storage-run"))
        .args(["--storage-driver", "vfs"])
        .args(args)
        .args(paths);
    done("buildah", &mut command).map(|_| ())
}

/// Runs a tool to its end; out: its standard output.
pub(super) fn done(what: &str, command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| what.to_owned())?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}: {}", output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
