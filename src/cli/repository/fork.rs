use std::time::Duration;

use jiff::Timestamp;

use super::create::identity;
use super::network::{self, Network};
use super::{absent, find, records};
use crate::cli::Failure;
use crate::cli::session::Session;
use crate::execute::Wave;
use crate::model::{Act, Layout, Lineage, Name, Snapshot};

/// Copy a repository in a moment, whatever its size; it may run meanwhile
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The repository that is copied: its name or guid
    #[arg(long, value_name = "NAME")]
    source: String,
    /// What the copy is called: a name, or a guid
    #[arg(long, value_name = "NAME")]
    target: String,
    #[command(flatten)]
    network: Network,
    /// What it is for
    #[arg(long)]
    tag: Option<Name>,
    /// Copy it as it was at a snapshot, see `renet repository snapshot list`
    #[arg(long, value_name = "TIME", value_parser = super::snapshot::time)]
    snapshot: Option<Timestamp>,
    /// How long it lives, like `8h`; then it deletes itself
    #[arg(long, value_name = "TIME", value_parser = crate::cli::duration)]
    ttl: Option<Duration>,
    /// Let the key that opens its parent at boot open the copy too
    #[arg(long)]
    autostart: bool,
}

/// Exit code 3 where the source is absent or the target is there.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let mut session = Session::command(layout)?;
    let actual = records(&session).await;
    let source = &args.source;
    let parent = find(&actual, source, false)?.ok_or_else(|| absent(&actual, source))?;
    let refuse = |message: String| Failure { code: 3, message };
    if let Some(there) = find(&actual, &args.target, false)? {
        let lineage = there.record.lineage.as_ref();
        let unfinished = lineage.is_some_and(|lineage| lineage.parent == parent.guid);
        if there.record.created || !unfinished {
            let name = &there.record.name;
            return Err(refuse(format!("{name} is there already; nothing was changed")).into());
        }
    }
    let (guid, name) = identity(&session, &actual, &args.target)?;
    let here = actual.repository(guid).unwrap_or_default();
    if here.record.is_absent() && !here.storage.file.is_absent() {
        let message = format!("there is an image {guid} already; nothing was changed");
        return Err(refuse(message).into());
    }
    let network = network::settle(&session, &actual, guid, args.network.said()?)?;
    let ttl = args.ttl.map(jiff::SignedDuration::try_from).transpose();
    let ttl = ttl.map_err(|_| Failure::usage("`--ttl` is longer than anything lasts"))?;
    let act = Act::Fork {
        name: name.clone(),
        network,
        lineage: Lineage {
            tag: args.tag.clone(),
            snapshot: args.snapshot,
            ..Lineage::of(parent.guid)
        },
        expires: ttl.map(|ttl| jiff::Timestamp::now() + ttl),
        autostart: args.autostart,
    };
    let as_of = match args.snapshot {
        Some(at) => format!(" as of {}", Snapshot::shown(at)),
        None => String::new(),
    };
    let done = format!(
        "{name} is a copy of {}{as_of} (guid {guid}, network {network})",
        parent.record.name
    );
    session.source.acts.insert(guid, act);
    let say = |wave: &Wave| {
        let copy = wave.actual.repository(guid).unwrap_or_default();
        let shares = match copy.storage.is_sealed() == Ok(true) {
            true => "; it shares the volume key of its parent, and opens with its passphrase",
            false => "",
        };
        format!("{done}{shares}")
    };
    session.carry_out_saying(Some(guid), say, &done).await
}
