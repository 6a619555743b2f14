//! Files → table: our YAML or Olla's `config.yaml`, read anew when they change. A file that
//! does not compile changes nothing but a log line and the status.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use compile::{Compiled, Problem, compile};
use manifest::{Loaded, Severity, Source};

use crate::state::Shared;

/// Between two looks at the files. Content is compared, so that editors' and ConfigMaps' ways of
/// replacing files do not matter.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most bytes read of one file.
const MAX_FILE: u64 = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its text tells the cause, which is therefore no `source` that printers of chains would
    /// tell again.
    #[error("read {path}: {cause}")]
    Read { path: PathBuf, cause: io::Error },
    #[error("{path} has no .yaml, .yml or .json file")]
    Empty { path: PathBuf },
    #[error("{path} is over {MAX_FILE} bytes")]
    TooLarge { path: PathBuf },
    #[error("nothing to serve: no LlmEndpoint in these files")]
    Nothing,
    #[error("these files hold several namespaces ({found}): say which with --namespace")]
    WhichNamespace { found: String },
    #[error("there is nothing in namespace {wanted}; these files hold: {found}")]
    NoSuchNamespace { wanted: String, found: String },
    #[error("{0}")]
    Invalid(String),
}

/// What files mean, and what there is to say about them.
#[derive(Debug)]
pub struct Understood {
    pub namespace: String,
    pub compiled: Compiled,
    pub loaded: Loaded,
}

/// Reads `paths`; of folders, the YAML and JSON files in them, by name.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    for path in paths {
        let failed = |cause| Error::Read {
            path: path.clone(),
            cause,
        };
        if !fs::metadata(path).map_err(failed)?.is_dir() {
            sources.push(read_file(path)?);
            continue;
        }
        let entries = fs::read_dir(path).map_err(failed)?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.is_file() && is_manifest(path))
            .collect();
        files.sort();
        if files.is_empty() {
            return Err(Error::Empty { path: path.clone() });
        }
        for file in files {
            sources.push(read_file(&file)?);
        }
    }
    Ok(sources)
}

fn read_file(path: &Path) -> Result<Source, Error> {
    let failed = |cause| Error::Read {
        path: path.to_owned(),
        cause,
    };
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(Error::TooLarge {
            path: path.to_owned(),
        });
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    Ok(Source {
        name: path.display().to_string(),
        text,
    })
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

/// What `sources` mean for one namespace: the wanted one, or the only one there is.
pub fn understand(sources: &[Source], wanted: Option<&str>) -> Result<Understood, Error> {
    let env = |name: &str| std::env::var(name).ok();
    let loaded = manifest::load(sources, wanted.unwrap_or("default"), &env);
    let found = || {
        loaded
            .namespaces
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .join(", ")
    };
    let namespace = match (wanted, loaded.namespaces.len()) {
        (Some(wanted), _) if loaded.namespaces.contains_key(wanted) => wanted.to_owned(),
        (_, 0) => {
            // Errors in the files tell more than that nothing is left of them.
            let errors = errors(&loaded);
            return Err(if errors.is_empty() {
                Error::Nothing
            } else {
                Error::Invalid(errors.join("\n"))
            });
        }
        (Some(wanted), _) => {
            return Err(Error::NoSuchNamespace {
                wanted: wanted.to_owned(),
                found: found(),
            });
        }
        (None, 1) => found(),
        (None, _) => return Err(Error::WhichNamespace { found: found() }),
    };
    let compiled = match loaded.namespaces.get(&namespace) {
        Some(input) => compile(&namespace, &input.objects, &input.facts),
        None => return Err(Error::Nothing),
    };
    Ok(Understood {
        namespace,
        compiled,
        loaded,
    })
}

impl Understood {
    /// Logs what is odd about files that are taken into use, once for each time they are.
    pub fn warn(&self) {
        for note in &self.loaded.notes {
            if note.severity == Severity::Warning {
                tracing::warn!("{note}");
            }
        }
        let held = self.loaded.namespaces.keys();
        let others: Vec<&str> = held
            .map(String::as_str)
            .filter(|held| *held != self.namespace)
            .collect();
        if !others.is_empty() {
            tracing::warn!(
                served = self.namespace,
                not_served = others.join(", "),
                "the files hold objects of namespaces that are not served"
            );
        }
    }

    /// Everything that keeps these files from being used as they stand; `None` when nothing does.
    pub fn problems(&self) -> Option<String> {
        let mut problems = errors(&self.loaded);
        problems.extend(self.refusals());
        if problems.is_empty() {
            problems.extend(self.compiled.table.check().err());
        }
        (!problems.is_empty()).then(|| problems.join("\n"))
    }

    /// What compiling found wrong, each as `file:line: KIND NAME: field: message`; without a
    /// place for what no file holds.
    pub fn refusals(&self) -> Vec<String> {
        let mut refusals = Vec::new();
        for verdict in &self.compiled.verdicts {
            let (kind, name) = (verdict.kind, &verdict.name);
            let place = self.loaded.place(kind, &self.namespace, name);
            let place = place.map_or_else(String::new, |place| format!("{place}: "));
            for problem in [&verdict.accepted, &verdict.resolved_refs] {
                let all = problem.as_ref().err().into_iter();
                for problem in all.flat_map(Problem::each) {
                    refusals.push(format!("{place}{kind} {name}: {problem}"));
                }
            }
        }
        refusals
    }
}

fn errors(loaded: &Loaded) -> Vec<String> {
    let errors = loaded.notes.iter();
    errors
        .filter(|note| note.severity == Severity::Error)
        .map(ToString::to_string)
        .collect()
}

/// Applies the table of `first`, then watches the files until the process drains.
pub async fn follow(
    shared: Arc<Shared>,
    paths: Vec<PathBuf>,
    wanted: Option<String>,
    first: Vec<Source>,
) {
    let mut seen = first;
    loop {
        tokio::select! {
            () = shared.life.drain.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shared.life.look_at_files.notified() => {}
        }
        let sources = match read(&paths) {
            Ok(sources) => sources,
            Err(error) => {
                report(&shared, error.to_string());
                // What comes back is looked at anew, also where it is what it was.
                seen = Vec::new();
                continue;
            }
        };
        if same(&sources, &seen) {
            continue;
        }
        match usable(&sources, wanted.as_deref()) {
            Ok(understood) => {
                understood.warn();
                let table = Arc::new(understood.compiled.table);
                shared.apply(table.clone(), table.revision(), "file");
            }
            Err(error) => report(&shared, error.to_string()),
        }
        seen = sources;
    }
}

/// What `sources` mean, if all of it can be used.
pub fn usable(sources: &[Source], wanted: Option<&str>) -> Result<Understood, Error> {
    let understood = understand(sources, wanted)?;
    match understood.problems() {
        Some(problems) => Err(Error::Invalid(problems)),
        None => Ok(understood),
    }
}

fn report(shared: &Shared, problem: String) {
    if shared.source().problem != problem {
        tracing::warn!(
            problem,
            "configuration invalid: the last good table stays in use"
        );
        shared.source_problem(problem);
    }
}

fn same(a: &[Source], b: &[Source]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a.name == b.name && a.text == b.text)
}
