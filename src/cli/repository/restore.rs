use super::{Which, absent, carry_out, find, records};
use crate::cli::session::Session;
use crate::model::{Act, Layout};

/// Bring a deleted repository back from the trash
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,
}

/// Exit code 0 also where it was never deleted, 3 where it is absent or its data
/// is destroyed.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let said = args.which.said();
    let actual = records(&session).await;
    let Some(found) = find(&actual, said, true)? else {
        let Some(live) = find(&actual, said, false)? else {
            return Err(absent(&actual, said).into());
        };
        anstream::println!("{} is not deleted: nothing to do", live.record.name);
        return Ok(0);
    };
    let name = &found.record.name;
    if let Some(other) = find(&actual, name.as_str(), false)?
        && other.guid != found.guid
    {
        return Err(crate::cli::Failure {
            code: 3,
            message: format!(
                "{name} is the name of another repository now ({}); nothing was changed",
                other.guid
            ),
        }
        .into());
    }
    let done =
        format!("{name} is back, closed; a manifest of its name or `renet repository up` opens it");
    carry_out(
        session,
        found.guid,
        Act::Restore,
        &done,
        &format!("{name} is back already"),
    )
    .await
}
