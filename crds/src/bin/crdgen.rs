//! Writes all CRDs as YAML files into the folder it is given (`just crds`).

use std::{env, fs, path::PathBuf, process::ExitCode};

use kube::ResourceExt as _;

#[expect(
    clippy::print_stderr,
    reason = "a command-line tool speaks to its user"
)]
fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: crdgen FOLDER");
        return ExitCode::FAILURE;
    };
    for crd in crds::all() {
        let path = folder.join(format!("{}.yaml", crd.name_any()));
        let written = crds::to_yaml(&crd).and_then(|yaml| Ok(fs::write(&path, yaml)?));
        if let Err(error) = written {
            eprintln!("write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
