use super::output::{self, Last};
use crate::agent::last_events;
use crate::model::Layout;

/// Show what the agent did and found
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    last: Last,
}

/// Exit code 0.
pub fn run(args: &Args, layout: &Layout) -> anyhow::Result<u8> {
    super::need_root()?;
    let events = last_events(&layout.agent(), args.last.lines)?;
    output::print(args.last.output, &events, || {
        let rows = events.iter().map(|event| {
            let time = event.time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let (object, what) = (event.object.clone(), event.what.clone());
            [time, object, what, event.message.clone()]
        });
        let rows: Vec<_> = rows.collect();
        output::table(
            ["TIME", "OBJECT", "WHAT", "MESSAGE"],
            &rows,
            output::width(),
        )
    })?;
    Ok(0)
}
