//! The schema and the decoder, held against each other.
#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::decode::document;
use super::super::fields::ASKED;
use super::super::found::Context;
use super::super::problem::{Report, Source};
use super::super::root::Root;
use super::super::tree::parse;
use super::*;
use crate::model;

/// A schema, the other implementation that reads it, and ours.
struct Kind {
    name: &'static str,
    root: Value,
    validator: Validator,
}

impl Kind {
    fn all() -> Vec<Kind> {
        let kind = |(name, schema): (_, Schema)| Kind {
            name,
            validator: jsonschema::validator_for(schema.as_value()).unwrap(),
            root: schema.to_value(),
        };
        kinds().into_iter().map(kind).collect()
    }

    fn resolve<'a>(&'a self, node: &'a Value) -> &'a Value {
        match node.get("$ref").and_then(Value::as_str) {
            Some(target) => self.root.pointer(&target[1..]).unwrap(),
            None => node,
        }
    }

    /// The properties of a part of the schema, and which must be there.
    fn properties<'a>(&'a self, node: &'a Value) -> Vec<(&'a str, &'a Value, bool)> {
        let node = self.resolve(node);
        // One form of several.
        let forms = node["anyOf"].as_array().into_iter().flatten();
        let mut found: Vec<_> = forms.flat_map(|form| self.properties(form)).collect();
        let required = node["required"].as_array().cloned().unwrap_or_default();
        let all = node["properties"].as_object().into_iter().flatten();
        found.extend(
            all.map(|(name, field)| (name.as_str(), field, required.contains(&json!(name)))),
        );
        found
    }

    /// Every property by its path, and whether it must be there.
    fn paths(&self, node: &Value, at: &str, out: &mut BTreeSet<(String, bool)>) {
        for (name, field, required) in self.properties(node) {
            let path = join(at, name);
            self.paths(field, &path, out);
            // Of a mapping whose keys are the user's.
            let inner = &self.resolve(field)["additionalProperties"];
            self.paths(inner, &join(&path, "*"), out);
            out.insert((path, required));
        }
    }

    /// Something that the schema allows there, as the dice have it.
    fn draw(&self, node: &Value, dice: &mut Dice, all: bool) -> Value {
        let node = self.resolve(node);
        let pick = |all: &[Value], dice: &mut Dice| all[dice.below(all.len())].clone();
        if let Some(only) = node.get("const") {
            return only.clone();
        }
        let choices = node["oneOf"].as_array().or(node["anyOf"].as_array());
        if let Some(choices) = choices.filter(|_| node["type"] != "object") {
            return self.draw(&pick(choices, dice), dice, all);
        }
        // What goes with what.
        let choice = choices.map_or(Value::Null, |choices| pick(choices, dice));
        let names = |of: &Value| of["required"].as_array().cloned().unwrap_or_default();
        let (with, mut without) = (names(&choice), names(&choice["not"]));
        let each = choice["not"]["anyOf"].as_array().into_iter().flatten();
        without.extend(each.flat_map(names));
        let number = |keyword: &str, or: u64| node[keyword].as_u64().unwrap_or(or);
        match node["type"].as_str().unwrap() {
            "boolean" => json!(dice.below(2) == 0),
            "integer" => {
                let (step, least) = (number("multipleOf", 1), number("minimum", 0));
                let most = number("maximum", least + 1_000_000_000);
                let steps = (most - least) / step + 1;
                json!(least + step * dice.below(steps as usize) as u64)
            }
            "number" => {
                let bound = |keyword: &str, or: f64| node[keyword].as_f64().unwrap_or(or);
                let (least, most) = (bound("minimum", 0.0).ceil(), bound("maximum", 1024.0));
                json!(least + dice.below((most - least) as usize) as f64 + 0.25)
            }
            "string" => match node["examples"].as_array() {
                Some(examples) => pick(examples, dice),
                None => json!("anything: \u{e9}"),
            },
            "object" => {
                let mut out = serde_json::Map::new();
                let mut fields = self.properties(node);
                if node["maxProperties"] == json!(1) {
                    let (name, field, _) = fields.swap_remove(dice.below(fields.len()));
                    fields = vec![(name, field, true)];
                }
                for (name, field, required) in fields {
                    if without.contains(&json!(name)) {
                        continue;
                    }
                    let required = required || with.contains(&json!(name));
                    if required || all || dice.below(2) == 0 {
                        out.insert(name.to_owned(), self.draw(field, dice, all));
                    }
                }
                if node["additionalProperties"].is_object() {
                    let keys = json!(["a", "b.c/d"]);
                    let keys = node["propertyNames"].get("examples").unwrap_or(&keys);
                    let count = if all { 1 } else { dice.below(3) };
                    for key in keys.as_array().unwrap().iter().take(count) {
                        let value = self.draw(&node["additionalProperties"], dice, all);
                        out.insert(key.as_str().unwrap().to_owned(), value);
                    }
                }
                Value::Object(out)
            }
            "array" => {
                let count = number("minItems", 0) as usize + dice.below(3);
                (0..count)
                    .map(|_| self.draw(&node["items"], dice, all))
                    .collect()
            }
            other => panic!("nothing is known of {other} here"),
        }
    }

    /// Single changes that make a part invalid, each where it belongs.
    fn mutations(&self, node: &Value, value: &Value) -> Vec<(String, Value)> {
        let node = self.resolve(node);
        let mut out = Vec::new();
        let wrong = match value {
            Value::Object(_) => vec![json!("text"), json!([]), json!(null)],
            Value::String(_) => vec![
                json!({}),
                json!([]),
                json!(true),
                json!("\u{7}"),
                json!(null),
            ],
            _ if node["type"] == "number" => vec![json!({}), json!("yes"), json!(-1), json!(null)],
            _ => vec![json!({}), json!("yes"), json!(-1), json!(1.5), json!(null)],
        };
        out.extend(
            wrong
                .into_iter()
                .map(|wrong| (format!("-> {wrong}"), wrong)),
        );
        let Value::Object(fields) = value else {
            return out;
        };
        if node["additionalProperties"] == json!(false) {
            let mut more = fields.clone();
            more.insert("unheardOf".to_owned(), json!("x"));
            out.push(("unheardOf".to_owned(), Value::Object(more)));
        }
        for (name, field, required) in self.properties(node) {
            let Some(inner) = fields.get(name) else {
                continue;
            };
            if required {
                let mut less = fields.clone();
                less.remove(name);
                out.push((format!("without {name}"), Value::Object(less)));
            }
            for (what, changed) in self.mutations(field, inner) {
                let mut other = fields.clone();
                other.insert(name.to_owned(), changed);
                out.push((format!("{name}: {what}"), Value::Object(other)));
            }
        }
        out
    }
}

fn join(at: &str, name: &str) -> String {
    match at {
        "" => name.to_owned(),
        at => format!("{at}.{name}"),
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }
}

/// What the hand-written decoder says against a document, on its own.
fn decode(value: &Value) -> Vec<String> {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        let compose = folder.path().join("web/docker-compose.yml");
        fs::create_dir_all(compose.parent().unwrap()).unwrap();
        fs::write(compose, "services: { web: { image: x } }\n").unwrap();
        folder
    });
    let root = Root::open(FOLDER.path(), FOLDER.path()).unwrap();
    let source = Source::new(PathBuf::from("a.yaml"), value.to_string());
    let report = Report::default();
    let nodes = parse(&source).unwrap();
    let mut projects = Vec::new();
    let mut context = Context {
        root: &root,
        source: &source,
        dir: None,
        report: &report,
        projects: &mut projects,
    };
    let found = document(&nodes[0], &mut context);
    let problems = report.into_problems();
    let whole = found.is_some_and(|found| found.document.is_some());
    assert_eq!(whole, problems.is_empty(), "{value}: {problems:?}");
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_schema_has_the_fields_that_the_decoder_asks_for() {
    for kind in Kind::all() {
        // Some fields go with each other, and some do not.
        let mut asked = BTreeSet::new();
        for seed in 0..16 {
            let full = kind.draw(&kind.root, &mut Dice(seed), true);
            ASKED.take();
            assert_eq!(decode(&full), Vec::<String>::new(), "{full:#}");
            asked.extend(ASKED.take());
        }
        // Asked for of every kind, to say that it is for repositories alone.
        let moved = ("metadata.annotations.renet/moved-from".to_owned(), false);
        if kind.name != "repository" {
            assert!(asked.remove(&moved));
        }
        let mut written = BTreeSet::new();
        kind.paths(&kind.root, "", &mut written);
        let more: Vec<_> = asked.symmetric_difference(&written).collect();
        assert!(
            more.is_empty(),
            "{}: field and whether it is required, in decode.rs or in schema.rs but not in both: {more:#?}",
            kind.name
        );
    }
}

#[test]
fn the_decoder_names_the_values_that_the_schema_allows() {
    let kinds = Kind::all();
    let kind = kinds.iter().find(|kind| kind.name == "repository").unwrap();
    let spec = &kind.root["properties"]["spec"];
    let mut seen = 0;
    for (name, field, _) in kind.properties(spec) {
        let Some(choices) = kind.resolve(field)["oneOf"].as_array() else {
            continue;
        };
        seen += 1;
        let mut document = kind.draw(&kind.root, &mut Dice(0), true);
        document["spec"][name] = json!("Unheard");
        let said = decode(&document).join("; ");
        let values = choices.iter().map(|one| one["const"].as_str().unwrap());
        let values: BTreeSet<&str> = values.collect();
        let words = said.rsplit(": ").next().unwrap().split([' ', ',']);
        let named = words.filter(|word| word.starts_with(char::is_uppercase));
        assert_eq!(named.collect::<BTreeSet<_>>(), values, "{said}");
    }
    assert_eq!(seen, 2);
}

#[test]
fn every_text_with_a_form_has_examples_of_it() {
    fn walk(node: &Value, out: &mut usize) {
        if let Some(pattern) = node.get("pattern") {
            assert!(node["examples"].is_array(), "{pattern}: no example");
            let validator = jsonschema::validator_for(node).unwrap();
            for example in node["examples"].as_array().unwrap() {
                *out += 1;
                assert!(validator.is_valid(example), "{pattern}: {example}");
            }
        }
        let inner: Vec<&Value> = match node {
            Value::Object(map) => map
                .iter()
                .filter(|(key, _)| *key != "not")
                .map(|(_, value)| value)
                .collect(),
            Value::Array(items) => items.iter().collect(),
            _ => Vec::new(),
        };
        inner.into_iter().for_each(|inner| walk(inner, out));
    }
    let mut seen = 0;
    walk(&manifest().to_value(), &mut seen);
    assert!(seen > 10, "{seen}");
}

/// Whether a text fits a schema of one type.
fn fits<T: JsonSchema>(text: &str) -> bool {
    let schema = of::<T>().to_value();
    jsonschema::validator_for(&schema)
        .unwrap()
        .is_valid(&json!(text))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_one_accepts_or_refuses_so_does_the_other(seed in any::<u64>()) {
        let mut dice = Dice(seed);
        let (kinds, whole) = &*KINDS;
        for kind in kinds {
            let good = kind.draw(&kind.root, &mut dice, false);
            prop_assert!(kind.validator.is_valid(&good), "{good:#}");
            prop_assert!(whole.is_valid(&good), "{good:#}");
            prop_assert_eq!(decode(&good), Vec::<String>::new(), "{:#}", good);
            let all = kind.mutations(&kind.root, &good);
            prop_assert!(all.len() > 20);
            for (what, bad) in all {
                prop_assert!(!kind.validator.is_valid(&bad), "{}: {what}: the schema accepts it", kind.name);
                prop_assert!(!whole.is_valid(&bad), "{}: {what}: the schema of all accepts it", kind.name);
                // Its own mutation may fall on what nobody decodes.
                prop_assert!(!decodes(&bad), "{}: {what}: the decoder accepts it", kind.name);
            }
        }
    }

    #[test]
    fn texts_have_the_same_form_in_both(
        text in "[a-c0-9./ -]{0,12}|[a-f0-9]{32}|[A-Fa-f0-9]{8}(-[a-f0-9]{4}){3}-[a-f0-9]{12}|[0-9.]{1,4} ?[KMGTXi]?[iIbB]{0,2}|\\PC{0,6}|\\./?\\.{0,3}/[a-c\u{85}\n]{0,3}",
    ) {
        prop_assert_eq!(fits::<Name>(&text), text.parse::<model::Name>().is_ok(), "name {:?}", text);
        prop_assert_eq!(fits::<HostName>(&text), text.parse::<model::HostName>().is_ok(), "host {:?}", text);
        prop_assert_eq!(fits::<Guid>(&text), text.parse::<model::Guid>().is_ok(), "guid {:?}", text);
        prop_assert_eq!(fits::<RelativePath>(&text), text.parse::<model::RelPath>().is_ok(), "path {:?}", text);
        // How large it must be a form cannot say.
        let size = text.parse::<model::Size>();
        let is_zero = |error: &model::ParseError| error.to_string().contains("cannot be zero");
        if !size.as_ref().is_err_and(is_zero) {
            prop_assert_eq!(fits::<SizeText>(&text), size.is_ok(), "size {:?}", text);
        }
    }
}

/// Compiled once: that takes longer than to validate.
static KINDS: LazyLock<(Vec<Kind>, Validator)> = LazyLock::new(|| {
    let whole = jsonschema::validator_for(manifest().as_value()).unwrap();
    (Kind::all(), whole)
});

fn decodes(value: &Value) -> bool {
    // What is no mapping at all is no document.
    value.is_object() && decode(value).is_empty()
}
