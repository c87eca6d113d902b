use serde::Serialize;

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// For programs, as YAML
    Yaml,
}

/// Prints one value on standard output, and nothing else.
pub fn print<T: Serialize>(
    format: Format,
    value: &T,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    match format {
        Format::Text => anstream::print!("{}", text()),
        Format::Json => anstream::println!("{}", serde_json::to_string_pretty(value)?),
        Format::Yaml => anstream::print!("{}", serde_yaml::to_string(value)?),
    }
    Ok(())
}
