//! The schemas that are kept, held against the types they come from, and the
//! examples held against the schemas, by another implementation than ours.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path, ending: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|is| is == ending) {
            found.insert(path);
        }
    }
    found
}

#[test]
fn the_schemas_are_up_to_date() {
    let kept = folder("schemas");
    let wanted = renet::cli::schemas();
    let path = |name: &str| kept.join(format!("{name}.json"));
    if std::env::var_os("RENET_RENEW").is_some() {
        for (name, text) in &wanted {
            fs::create_dir_all(path(name).parent().unwrap()).unwrap();
            fs::write(path(name), text).unwrap();
        }
    }
    let is_stale = |(name, text): &(&String, &String)| {
        fs::read_to_string(path(name)).ok().as_ref() != Some(text)
    };
    let stale: Vec<_> = wanted
        .iter()
        .filter(is_stale)
        .map(|(name, _)| name)
        .collect();
    let known: BTreeSet<PathBuf> = wanted.keys().map(|name| path(name)).collect();
    let orphans: Vec<_> = files(&kept, "json").difference(&known).cloned().collect();
    assert!(
        stale.is_empty() && orphans.is_empty(),
        "stale: {stale:?}, without a type: {orphans:?}; renew them with\n\
         RENET_RENEW=1 cargo nextest run --locked the_schemas_are_up_to_date"
    );
}

#[test]
fn every_schema_is_one() {
    for (name, text) in renet::cli::schemas() {
        let schema: Value = serde_json::from_str(&text).unwrap();
        assert!(jsonschema::meta::is_valid(&schema), "{name}");
        assert_eq!(
            schema["$schema"], "https://json-schema.org/draft/2020-12/schema",
            "{name}"
        );
    }
}

#[test]
fn every_example_fits_the_schema_and_names_it_to_editors() {
    let text = fs::read_to_string(folder("schemas/renet.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut documents = 0;
    for path in files(&folder("examples"), "yaml") {
        let text = fs::read_to_string(&path).unwrap();
        let Some(header) = text.lines().next() else {
            continue;
        };
        let named = header.strip_prefix("# yaml-language-server: $schema=");
        let named = named.unwrap_or_else(|| panic!("{}: no header", path.display()));
        let named = path.parent().unwrap().join(named);
        assert_eq!(
            named.canonicalize().unwrap(),
            folder("schemas/renet.json").canonicalize().unwrap()
        );
        let all: Vec<Value> = serde_yaml::from_multiple(&text).unwrap();
        for document in all {
            documents += 1;
            let wrong: Vec<_> = validator
                .iter_errors(&document)
                .map(|e| e.to_string())
                .collect();
            assert!(wrong.is_empty(), "{}: {wrong:#?}", path.display());
        }
    }
    assert!(documents >= 4);
}

#[test]
fn the_readme_shows_manifests_that_fit() {
    let text = fs::read_to_string(folder("schemas/renet.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let readme = fs::read_to_string(folder("README.md")).unwrap();
    let blocks: Vec<&str> = readme.split("```yaml\n").skip(1).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let block = block.split("```").next().unwrap();
        let all: Vec<Value> = serde_yaml::from_multiple(block).unwrap();
        for document in all {
            assert!(validator.is_valid(&document), "{document:#}");
        }
    }
}
