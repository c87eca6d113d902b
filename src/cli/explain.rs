use serde_json::{Map, Value};

use super::Failure;
use super::output::{listed, readable, table, width, wrapped};
use crate::manifest::schema;
use crate::model::suggest;

/// Explain a kind of manifest, or one of its fields
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The kind and the way to a field, like repository.spec.size
    #[arg(value_name = "KIND[.FIELD]")]
    what: String,
}

/// Exit code 0, 2 where there is no such kind or field.
pub fn run(args: &Args) -> anyhow::Result<u8> {
    let text = explain(&args.what, width())?;
    anstream::print!("{}", readable(&text));
    Ok(0)
}

/// Prose is not read in longer lines.
const LONGEST: usize = 100;

fn explain(what: &str, width: usize) -> Result<String, Failure> {
    let mut parts = what.split('.');
    let kind = parts.next().unwrap_or_default().to_lowercase();
    let kinds = schema::kinds();
    let Some((kind, root)) = kinds.iter().find(|(name, _)| *name == kind) else {
        let names = kinds.iter().map(|(name, _)| *name);
        return Err(unknown("kind", &kind, names, "", "kinds"));
    };
    let schema = Schema {
        root: root.as_value(),
        node: root.as_value(),
        required: true,
    };
    let way: Vec<&str> = parts.collect();
    let (mut at, mut path) = (schema, (*kind).to_owned());
    let mut name = None;
    for field in way {
        let Some(next) = at.field(field) else {
            return Err(astray(schema, at, kind, &path, field));
        };
        path = format!("{path}.{field}");
        (at, name) = (next, Some(field));
    }
    Ok(at.text(&path, name, width.min(LONGEST)))
}

/// The error for a field that is not there.
fn astray(whole: Schema, at: Schema, kind: &str, path: &str, field: &str) -> Failure {
    let fields: Vec<&str> = at.fields().map(|(name, _)| name).collect();
    if fields.is_empty() {
        return Failure::usage(format!("`{path}` has no fields"));
    }
    // Most fields are in `spec`, and it is easily left out.
    let spec = whole.field("spec").filter(|_| path == kind);
    let within = spec.and_then(|spec| suggest(field, spec.fields().map(|(name, _)| name)));
    match within {
        Some(near) if suggest(field, fields.iter().copied()).is_none() => Failure::usage(format!(
            "`{path}` has no field `{}`; did you mean `{kind}.spec.{near}`?",
            field.escape_debug()
        )),
        _ => unknown(
            &format!("field of `{path}`"),
            field,
            fields.into_iter(),
            &format!("{path}."),
            "fields",
        ),
    }
}

fn unknown<'a>(
    what: &str,
    said: &str,
    names: impl Iterator<Item = &'a str> + Clone,
    prefix: &str,
    plural: &str,
) -> Failure {
    let cure = match suggest(said, names.clone()) {
        Some(near) => format!("did you mean `{prefix}{near}`?"),
        None => format!("{plural}: {}", listed(names)),
    };
    let said = said.escape_debug();
    Failure::usage(format!("there is no {what} called `{said}`; {cure}"))
}

/// A part of a schema.
#[derive(Clone, Copy)]
struct Schema<'a> {
    root: &'a Value,
    node: &'a Value,
    required: bool,
}

impl<'a> Schema<'a> {
    fn at(self, node: &'a Value, required: bool) -> Self {
        Self {
            node,
            required,
            ..self
        }
    }

    /// A keyword, said here or where this refers to.
    fn get(self, keyword: &str) -> Option<&'a Value> {
        self.node.get(keyword).or_else(|| {
            let target = self.node.get("$ref")?.as_str()?.strip_prefix('#')?;
            self.root.pointer(target)?.get(keyword)
        })
    }

    fn text_of(self, keyword: &str) -> &'a str {
        self.get(keyword)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    fn fields(self) -> impl Iterator<Item = (&'a str, Schema<'a>)> {
        let properties = self.get("properties").and_then(Value::as_object);
        let required = self.get("required").and_then(Value::as_array);
        let fields = properties.into_iter().flatten();
        fields.map(move |(name, node)| {
            let required = required.is_some_and(|all| all.iter().any(|one| one == name));
            (name.as_str(), self.at(node, required))
        })
    }

    fn field(self, name: &str) -> Option<Schema<'a>> {
        let found = self.fields().find(|(field, _)| *field == name);
        found.map(|(_, schema)| schema).or_else(|| {
            // Of a mapping whose keys are the user's.
            let node = self.get("additionalProperties")?;
            node.is_object().then(|| self.at(node, false))
        })
    }

    fn choices(self, keyword: &str) -> impl Iterator<Item = Schema<'a>> {
        let choices = self.get(keyword).and_then(Value::as_array);
        choices
            .into_iter()
            .flatten()
            .map(move |node| self.at(node, true))
    }

    /// The few values that can be written there.
    fn values(self) -> impl Iterator<Item = Schema<'a>> {
        let choices = self.choices("oneOf");
        choices.filter(|one| one.get("const").is_some())
    }

    /// Which fields go together where a mapping has several forms.
    fn forms(self) -> impl Iterator<Item = Vec<&'a str>> {
        self.choices("oneOf").map(|one| {
            let fields = one.get("required").and_then(Value::as_array);
            let fields = fields.into_iter().flatten();
            fields.filter_map(Value::as_str).collect()
        })
    }

    /// What can be written there, in a few words.
    fn kind(self) -> String {
        if let Some(only) = self.get("const") {
            return format!("always {}", plain(only));
        }
        let values: Vec<&str> = self.values().map(|one| one.text_of("const")).collect();
        if !values.is_empty() {
            return values.join(" | ");
        }
        let several: Vec<String> = self.choices("anyOf").map(Schema::kind).collect();
        if !several.is_empty() {
            return several.join(" or ");
        }
        match self.text_of("type") {
            "string" => "text".to_owned(),
            "integer" | "number" => "number".to_owned(),
            "boolean" => "true | false".to_owned(),
            "array" => match self.get("items") {
                Some(items) => format!("list of {}", self.at(items, true).kind()),
                None => "list".to_owned(),
            },
            _ => match self.get("additionalProperties") {
                Some(node @ Value::Object(_)) => {
                    format!("mapping of text to {}", self.at(node, true).kind())
                }
                _ => "mapping".to_owned(),
            },
        }
    }

    /// The limits of a number or text, in a few words.
    fn limits(self) -> Option<String> {
        let number = |keyword| self.get(keyword).map(plain);
        let range = match (number("minimum"), number("maximum")) {
            (Some(least), Some(most)) => Some(format!("from {least} to {most}")),
            (Some(least), None) => Some(format!("at least {least}")),
            (None, most) => most.map(|most| format!("at most {most}")),
        };
        let limits = [
            range,
            number("multipleOf").map(|step| format!("a multiple of {step}")),
            number("maxLength").map(|most| format!("at most {most} characters")),
        ];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        (!limits.is_empty()).then(|| limits.join(", "))
    }

    /// Something that could be written there: of a mapping what must be.
    fn example(self) -> Option<Value> {
        let said = self.get("examples").and_then(|all| all.get(0));
        let said = said
            .or_else(|| self.get("const"))
            .or_else(|| self.get("default"));
        let said = said
            .cloned()
            .or_else(|| self.values().next()?.example())
            .or_else(|| self.choices("anyOf").next()?.example());
        said.or_else(|| {
            let mut out = Map::new();
            let form = self.forms().next().unwrap_or_default();
            let must = |name: &str, field: Schema| field.required || form.contains(&name);
            for (name, field) in self.fields().filter(|(name, field)| must(name, *field)) {
                out.insert(name.to_owned(), field.example()?);
            }
            (!out.is_empty()).then_some(Value::Object(out))
        })
    }

    fn text(self, path: &str, name: Option<&str>, width: usize) -> String {
        let mut facts = vec![("type", self.kind())];
        facts.extend(self.limits().map(|limits| ("limits", limits)));
        if name.is_some() {
            let required = if self.required { "yes" } else { "no" };
            facts.push(("required", required.to_owned()));
        }
        facts.extend(self.get("default").map(|value| ("default", plain(value))));
        let mut out = format!("{path}\n\n");
        for (what, said) in facts {
            out.push_str(&format!("  {what:<9} {said}\n"));
        }
        out.push('\n');
        for paragraph in self.text_of("description").split("\n\n") {
            for line in wrapped(paragraph, width.saturating_sub(2)) {
                out.push_str(&format!("  {line}\n"));
            }
        }
        let choices = self.values().map(|one| {
            let value = one.text_of("const").to_owned();
            [value, words(one.text_of("description"))]
        });
        let choices: Vec<_> = choices.collect();
        if !choices.is_empty() {
            out.push_str(&format!("\n{}", table(["VALUE", ""], &choices, width)));
        }
        let fields = self.fields().map(|(name, field)| {
            let either = self.forms().any(|form| form.contains(&name));
            let must = match (field.required, either) {
                (true, _) => "required",
                (false, true) => "either",
                (false, false) => "",
            };
            let description = words(field.text_of("description"));
            [name.to_owned(), field.kind(), must.to_owned(), description]
        });
        let fields: Vec<_> = fields.collect();
        if !fields.is_empty() {
            let header = ["FIELD", "TYPE", "", "DESCRIPTION"];
            out.push_str(&format!("\n{}", table(header, &fields, width)));
        }
        if let Some(example) = self.example() {
            let example = match name {
                Some(name) => Value::Object(Map::from_iter([(name.to_owned(), example)])),
                None => example,
            };
            out.push_str("\nEXAMPLE\n");
            for line in serde_yaml::to_string(&example).unwrap_or_default().lines() {
                out.push_str(&format!("  {line}\n"));
            }
        }
        out
    }
}

/// A value as it is written.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A description without its line breaks.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(what: &str, width: usize) -> String {
        explain(what, width).unwrap_or_else(|failure| format!("{failure}\n"))
    }

    #[test]
    fn a_kind_and_its_fields_are_explained() {
        let all = [
            "repository",
            "repository.spec",
            "repository.spec.size",
            "Repository.spec.state",
            "repository.spec.networkId",
            "repository.metadata.labels",
            "service.spec.compose",
        ];
        let text = |width| all.map(|what| of(what, width)).join("\n");
        insta::assert_snapshot!("explain_80", text(80));
        insta::assert_snapshot!("explain_120", text(120));
        for line in text(80).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn a_wrong_way_ends_with_the_right_one() {
        let all = [
            "repositry",
            "secret",
            "repository.spec.sise",
            "repository.size",
            "repository.spec.size.unit",
            "route.spec.zzz",
            "route.",
        ];
        let text = all.map(|what| of(what, 80)).concat();
        insta::assert_snapshot!("explain_wrong", text);
        assert_eq!(explain("x", 80).unwrap_err().code, 2);
    }

    #[test]
    fn every_field_of_every_kind_is_explained() {
        fn walk(schema: Schema, path: &str) {
            assert!(!schema.text_of("description").is_empty(), "{path}");
            // A description that wraps in the middle of nothing helps nobody.
            assert!(of(path, 80).starts_with(path));
            for (name, field) in schema.fields() {
                walk(field, &format!("{path}.{name}"));
            }
        }
        for (kind, root) in &schema::kinds() {
            let schema = Schema {
                root: root.as_value(),
                node: root.as_value(),
                required: true,
            };
            walk(schema, kind);
        }
    }
}
