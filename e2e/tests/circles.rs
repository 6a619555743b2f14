//! No circle of modules: at each level of a package, its rooms can be put in an order in which
//! each uses only those before it. In: the sources, parsed. A room and what lies in its folder count
//! as one, so a child may use what its parent defines. And no arrow goes up the data plane's floors.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::Visit;

type Segments = Vec<String>;

/// A module: what it imports, and what its own names stand for elsewhere.
#[derive(Default)]
struct Module {
    children: BTreeSet<String>,
    /// Paths from the root of the package, or from here.
    uses: BTreeSet<Segments>,
    /// Name → path that is imported under it.
    imports: BTreeMap<String, Segments>,
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut circles = BTreeSet::new();
    for package in packages(root) {
        let modules = modules_of(&root.join(&package).join("src"));
        assert!(modules.len() > 2, "{package}: sources are not found");
        for circle in circles_of(&modules) {
            circles.insert(format!("{package}: {}", circle.join(" ")));
        }
    }
    assert_eq!(circles, BTreeSet::new());
}

/// The README draws them, highest first; rooms of one floor know nothing of each other.
#[test]
fn imports_inside_the_data_plane_go_down_the_floors_that_the_readme_draws() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let floors = floors_of(&std::fs::read_to_string(root.join("README.md")).unwrap());
    let modules = modules_of(&root.join("dataplane/src"));
    let rooms: BTreeSet<&String> = modules.keys().filter_map(|path| path.first()).collect();
    assert_eq!(floors.keys().collect::<BTreeSet<_>>(), rooms);
    let mut upwards = BTreeSet::new();
    for (from, module) in &modules {
        for path in &module.uses {
            let to = home(&modules, path, 0);
            if let (Some(from), Some(to)) = (from.first(), to.as_ref().and_then(|to| to.first()))
                && from != to
                && floors[to] <= floors[from]
            {
                upwards.insert(format!("{from} uses {to}"));
            }
        }
    }
    assert_eq!(upwards, BTreeSet::new());
}

/// Room → floor, counted from the highest.
fn floors_of(readme: &str) -> BTreeMap<String, usize> {
    let drawn = readme
        .lines()
        .find(|line| line.starts_with("Inside `dataplane/src`"));
    let floors = drawn
        .unwrap()
        .split_once(": ")
        .unwrap()
        .1
        .trim_end_matches('.');
    let mut rooms = BTreeMap::new();
    for (floor, text) in floors.split(" → ").enumerate() {
        for room in text.split(" · ") {
            rooms.insert(room.trim_matches('`').to_owned(), floor);
        }
    }
    rooms
}

/// Folders of all packages, as the root `Cargo.toml` lists them.
fn packages(root: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let members = text
        .lines()
        .skip_while(|line| *line != "members = [")
        .skip(1);
    let members = members.map_while(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
    let packages: Vec<String> = members.map(str::to_owned).collect();
    assert!(packages.len() > 8, "{packages:?}");
    packages
}

fn modules_of(src: &Path) -> BTreeMap<Segments, Module> {
    let mut modules = BTreeMap::new();
    let mut pending: Vec<(PathBuf, Segments)> = vec![(src.join("lib.rs"), Vec::new())];
    while let Some((file, path)) = pending.pop() {
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let tree = syn::parse_file(&text).unwrap();
        let mut reader = Reader {
            path: path.clone(),
            module: Module::default(),
        };
        reader.visit_file(&tree);
        for child in &reader.module.children {
            let folder = path
                .iter()
                .fold(src.to_owned(), |folder, part| folder.join(part));
            let files = [
                folder.join(format!("{child}.rs")),
                folder.join(child).join("mod.rs"),
            ];
            let file = files.into_iter().find(|file| file.is_file());
            let deeper = [&path[..], std::slice::from_ref(child)].concat();
            pending.push((file.unwrap_or_else(|| panic!("{deeper:?}")), deeper));
        }
        modules.insert(path, reader.module);
    }
    modules
}

struct Reader {
    path: Segments,
    module: Module,
}

impl Reader {
    /// From the package's root, for paths that begin there or here.
    fn absolute(&self, segments: &[String]) -> Option<Segments> {
        let (first, rest) = segments.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([&self.path[..], rest].concat()),
            "super" => {
                let mut up = self.path.clone();
                up.pop()?;
                let mut rest = rest;
                while let Some(("super", more)) = rest.split_first().map(|(f, m)| (f.as_str(), m)) {
                    up.pop()?;
                    rest = more;
                }
                Some([&up[..], rest].concat())
            }
            name if self.module.children.contains(name) => {
                Some([&self.path[..], segments].concat())
            }
            _ => None,
        }
    }

    fn import(&mut self, tree: &syn::UseTree, before: &[String]) {
        match tree {
            syn::UseTree::Path(path) => {
                let deeper = [before, &[path.ident.to_string()]].concat();
                self.import(&path.tree, &deeper);
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before);
                }
            }
            syn::UseTree::Name(name) if name.ident == "self" => {
                self.add(before, before.last().cloned());
            }
            syn::UseTree::Name(name) => {
                let name = name.ident.to_string();
                self.add(&[before, std::slice::from_ref(&name)].concat(), Some(name));
            }
            syn::UseTree::Rename(rename) => {
                let whole = [before, &[rename.ident.to_string()]].concat();
                self.add(&whole, Some(rename.rename.to_string()));
            }
            syn::UseTree::Glob(_) => self.add(before, None),
        }
    }

    fn add(&mut self, segments: &[String], name: Option<String>) {
        if let Some(path) = self.absolute(segments) {
            if let Some(name) = name {
                self.module.imports.insert(name, path.clone());
            }
            self.module.uses.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_file(&mut self, file: &'ast syn::File) {
        for item in &file.items {
            if let syn::Item::Mod(module) = item
                && module.content.is_none()
                && !is_test(&module.attrs)
            {
                self.module.children.insert(module.ident.to_string());
            }
        }
        syn::visit::visit_file(self, file);
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Segments = path
            .segments
            .iter()
            .map(|it| it.ident.to_string())
            .collect();
        if segments.len() > 1
            && let Some(path) = self.absolute(&segments)
        {
            self.module.uses.insert(path);
        }
        syn::visit::visit_path(self, path);
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        list.path.is_ident("cfg") && list.tokens.to_string() == "test"
    })
}

/// The module in which what stands under this path is defined.
fn home(modules: &BTreeMap<Segments, Module>, path: &[String], depth: usize) -> Option<Segments> {
    let module = (0..=path.len())
        .rev()
        .find(|len| modules.contains_key(&path[..*len]))?;
    let (found, rest) = path.split_at(module);
    if let Some(name) = rest.first()
        && depth < 8
        && let Some(import) = modules[found].imports.get(name)
        && import != path
    {
        let whole = [&import[..], &rest[1..]].concat();
        return home(modules, &whole, depth + 1);
    }
    Some(found.to_vec())
}

/// At each level, names of modules that use each other in a circle.
fn circles_of(modules: &BTreeMap<Segments, Module>) -> Vec<Segments> {
    let mut levels: BTreeMap<Segments, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (from, module) in modules {
        for path in &module.uses {
            let Some(to) = home(modules, path, 0) else {
                continue;
            };
            let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
            // One of them is in the other's folder, or they are the same.
            let (Some(a), Some(b)) = (from.get(common), to.get(common)) else {
                continue;
            };
            let level = levels.entry(from[..common].to_vec()).or_default();
            level.entry(a.clone()).or_default().insert(b.clone());
        }
    }
    let mut circles = Vec::new();
    for (level, uses) in &levels {
        let reaches = |from: &str| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![from.to_owned()]);
            while let Some(at) = open.pop() {
                for next in uses.get(&at).into_iter().flatten() {
                    if seen.insert(next.clone()) {
                        open.push(next.clone());
                    }
                }
            }
            seen
        };
        let reached: BTreeMap<&String, BTreeSet<String>> =
            uses.keys().map(|name| (name, reaches(name))).collect();
        let mut told = BTreeSet::new();
        for (name, seen) in &reached {
            if !seen.contains(*name) || told.contains(*name) {
                continue;
            }
            let circle: Vec<String> = reached
                .iter()
                .filter(|(other, back)| seen.contains(**other) && back.contains(*name))
                .map(|(other, _)| (**other).clone())
                .collect();
            told.extend(circle.iter().cloned());
            let whole = circle
                .iter()
                .map(|name| [&level[..], std::slice::from_ref(name)].concat().join("::"));
            circles.push(whole.collect());
        }
    }
    circles
}
