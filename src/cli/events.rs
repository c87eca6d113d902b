use std::fmt::Write as _;

use super::output::{Format, print};
use crate::agent::last_events;
use crate::model::Layout;

/// Show what the agent did and found
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many, the last ones
    #[arg(short = 'n', long, default_value_t = 50, value_name = "NUMBER")]
    lines: usize,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Exit code 0.
pub fn run(args: &Args, layout: &Layout) -> anyhow::Result<u8> {
    super::need_root()?;
    let events = last_events(&layout.agent(), args.lines)?;
    print(args.output, &events, || {
        let mut out = String::new();
        for event in &events {
            let time = event.time.strftime("%Y-%m-%dT%H:%M:%SZ");
            let _ = writeln!(
                out,
                "{time}  {:<24} {:<16} {}",
                event.object, event.what, event.message
            );
        }
        out
    })?;
    Ok(0)
}
