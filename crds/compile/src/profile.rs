//! Backend types. In: the YAML files of `profiles/`, built in. Out: a typed [`Profile`] by name.
//! Prefixes, dialects, paths and listings of a type stand in its file and nowhere in code.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use dataplane_protocol::{
    Dialect,
    table::{Listing, Profile},
};
use serde::Deserialize;

/// All built-in types by name. Aliases are not in it.
pub fn profiles() -> &'static BTreeMap<String, Arc<Profile>> {
    &CATALOGUE.profiles
}

/// The type that a user's `type` names, directly or by an alias that Olla has for it.
pub(crate) fn find(name: &str) -> Option<Arc<Profile>> {
    let name = CATALOGUE.aliases.get(name).map_or(name, String::as_str);
    CATALOGUE.profiles.get(name).cloned()
}

/// Every word that `type` may be, sorted.
pub(crate) fn known_types() -> Vec<&'static str> {
    let names: BTreeSet<_> = CATALOGUE
        .profiles
        .keys()
        .chain(CATALOGUE.aliases.keys())
        .map(String::as_str)
        .collect();
    names.into_iter().collect()
}

/// What to say about a probe of `path` that would cost tokens each time; none for others.
pub fn cost_of_probe(type_: &str, path: &str) -> Option<String> {
    let profile = find(type_)?;
    let costly = CATALOGUE.costly_paths.get(&profile.name)?;
    let free = profile.health_paths.first()?;
    costly.iter().any(|costly| costly == path).then(|| {
        format!(
            "{path} of {} sends a request to each model, so every probe costs tokens; omit it to probe {free}",
            profile.name
        )
    })
}

/// `profile` and the types that it may turn out to be.
pub(crate) fn with_detected(profile: &Arc<Profile>) -> impl Iterator<Item = Arc<Profile>> {
    let detected = profile
        .listings
        .iter()
        .filter_map(|listing| listing.detects.as_deref())
        .filter_map(find);
    std::iter::once(profile.clone()).chain(detected)
}

const FILES: [&str; 10] = [
    include_str!("../profiles/auto.yaml"),
    include_str!("../profiles/gpustack.yaml"),
    include_str!("../profiles/litellm.yaml"),
    include_str!("../profiles/llamacpp.yaml"),
    include_str!("../profiles/lm-studio.yaml"),
    include_str!("../profiles/localai.yaml"),
    include_str!("../profiles/ollama.yaml"),
    include_str!("../profiles/openai.yaml"),
    include_str!("../profiles/sglang.yaml"),
    include_str!("../profiles/vllm.yaml"),
];

/// A file of `profiles/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    prefixes: Vec<String>,
    dialects: Vec<Dialect>,
    health_paths: Vec<String>,
    /// Paths that look like health paths but cost tokens.
    #[serde(default)]
    costly_paths: Vec<String>,
    listings: Vec<Listing>,
}

#[derive(Default)]
struct Catalogue {
    profiles: BTreeMap<String, Arc<Profile>>,
    aliases: BTreeMap<String, String>,
    costly_paths: BTreeMap<String, Vec<String>>,
}

/// A file that does not parse is left out here, and fails a test below: the files are part of
/// the build.
static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
    let mut catalogue = Catalogue::default();
    for file in FILES
        .iter()
        .filter_map(|text| serde_saphyr::from_str::<File>(text).ok())
    {
        for alias in file.aliases {
            catalogue.aliases.insert(alias, file.name.clone());
        }
        catalogue
            .costly_paths
            .insert(file.name.clone(), file.costly_paths);
        let profile = Profile {
            name: file.name.clone(),
            prefixes: file.prefixes,
            dialects: file.dialects,
            health_paths: file.health_paths,
            listings: file.listings,
        };
        catalogue.profiles.insert(file.name, Arc::new(profile));
    }
    catalogue
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_parses_and_is_complete() {
        for text in FILES {
            let file: File = serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{text}\n{e}"));
            assert!(!file.health_paths.is_empty(), "{}", file.name);
            assert!(!file.listings.is_empty(), "{}", file.name);
            assert!(
                file.health_paths
                    .iter()
                    .all(|path| !file.costly_paths.contains(path)),
                "{}",
                file.name
            );
            let paths = file.listings.iter().map(|listing| &listing.path);
            for path in file.health_paths.iter().chain(paths) {
                assert!(path.starts_with('/'), "{}: {path}", file.name);
            }
        }
        assert_eq!(profiles().len(), FILES.len());
    }

    #[test]
    fn every_file_of_the_folder_is_built_in() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/profiles");
        let mut on_disk: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        on_disk.sort();
        assert_eq!(on_disk, profiles().keys().cloned().collect::<Vec<_>>());
    }

    #[test]
    fn shared_prefixes_reach_every_type_that_speaks_them() {
        for profile in profiles().values() {
            let has = |prefix: &str| profile.prefixes.iter().any(|p| p == prefix);
            assert!(
                has("openai") && has("openai-compatible"),
                "{}",
                profile.name
            );
            assert_eq!(
                has("anthropic"),
                profile.dialects.contains(&Dialect::Anthropic),
                "{}",
                profile.name
            );
        }
    }

    #[test]
    fn what_auto_detects_exists() {
        let auto = find("auto").unwrap();
        let names: Vec<_> = with_detected(&auto).map(|p| p.name.clone()).collect();
        assert_eq!(names, ["auto", "ollama", "openai"]);
    }

    #[test]
    fn ollas_long_name_for_openai_is_the_same_type() {
        assert_eq!(find("openai-compatible"), find("openai"));
        assert_eq!(find("lmstudio"), None);
    }
}
