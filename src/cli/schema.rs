use std::collections::BTreeMap;

use schemars::{JsonSchema, generate::SchemaSettings};

use super::listing::Listing;
use super::output::listed;
use super::render::Outcome;
use super::{Failure, doctor, status};
use crate::agent::{Event, Pass};
use crate::manifest::schema;
use crate::model::suggest;
use crate::plan::changes::Changes;

/// Print the JSON Schema of manifests, or of what a command prints as JSON
#[derive(Debug, clap::Args)]
pub struct Args {
    /// machine, repository, service, route, or output/ and a command, like
    /// output/get; any kind of manifest where nothing is said
    #[arg(value_name = "KIND")]
    kind: Option<String>,
}

/// Exit code 0, 2 where there is no such schema.
pub fn run(args: &Args) -> anyhow::Result<u8> {
    let kind = args.kind.as_deref().unwrap_or("renet").to_lowercase();
    let all = schemas();
    let Some(text) = all.get(&kind) else {
        let names = all.keys().map(String::as_str);
        let cure = match suggest(&kind, names.clone()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", listed(names)),
        };
        let kind = kind.escape_debug();
        return Err(Failure::usage(format!("there is no schema `{kind}`; {cure}")).into());
    };
    anstream::print!("{text}");
    Ok(0)
}

/// Every schema by its name: its path beneath `schemas/`, without `.json`.
pub fn schemas() -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        ("renet", schema::manifest()),
        ("output/apply", output::<Outcome>()),
        ("output/diff", output::<Changes>()),
        ("output/doctor", output::<doctor::Findings>()),
        ("output/events", output::<Vec<Event>>()),
        ("output/get", output::<Listing>()),
        ("output/history", output::<Vec<Pass>>()),
        ("output/status", output::<status::Overview>()),
    ]);
    all.extend(schema::kinds());
    let text = |schema| serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n";
    let named = all.into_iter();
    named
        .map(|(name, schema)| (name.to_owned(), text(schema)))
        .collect()
}

/// What a command prints, rather than what it could read.
fn output<T: JsonSchema>() -> schemars::Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<T>()
}
