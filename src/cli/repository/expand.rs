use super::{Which, absent, carry_out, find, new_size, records};
use crate::cli::Failure;
use crate::cli::session::Session;
use crate::model::{Act, Layout};

/// Make a repository larger, also while it runs
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Its new size, like `4G`, or by how much it grows, like `+2G`
    #[arg(long, allow_hyphen_values = true)]
    size: String,
    #[command(flatten)]
    network: super::network::Network,
}

/// Exit code 3 where it is absent, or as large or larger already.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let said = args.which.said();
    let actual = records(&session).await;
    let found = find(&actual, said, false)?.ok_or_else(|| absent(&actual, said))?;
    args.network.check(&found.record)?;
    let name = found.record.name.clone();
    let refuse = |message: String| Failure { code: 3, message };
    let repo = actual.repository(found.guid).unwrap_or_default();
    let Some(is) = repo.storage.file.known().copied() else {
        return Err(refuse(format!("{name} has no image")).into());
    };
    let size = new_size(&args.size, is)?;
    if size <= is {
        let message = format!("{name} has {is} already, and is never shrunk; nothing was changed");
        return Err(refuse(message).into());
    }
    let open = crate::host::linux::is_attached(&session.layout.image(found.guid));
    let inside = match open {
        true => "",
        false => "; what is in it follows when it is opened next",
    };
    let done = format!("{name} has {size}{inside}");
    carry_out(session, found.guid, Act::Expand(size), &done, &done).await
}
