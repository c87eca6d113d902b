use super::{carry_out, find, records};
use crate::cli::Failure;
use crate::cli::session::Session;
use crate::model::{Act, Guid, Layout, Name};
use crate::resolve::free_network;

/// Give an image without a record a name
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image's guid
    #[arg(long, value_name = "GUID")]
    name: Guid,
    /// What it is to be called
    #[arg(long = "as", value_name = "NAME")]
    called: Name,
}

/// Exit code 0 also where it is called so already, 3 where there is no such
/// image or the name is taken.
pub async fn run(args: &Args, layout: Layout) -> anyhow::Result<u8> {
    let session = Session::command(layout)?;
    let actual = records(&session).await;
    let refuse = |message: String| Failure { code: 3, message };
    let (guid, name) = (args.name, &args.called);
    if let Some(found) = find(&actual, name.as_str(), false)?
        && found.guid != guid
    {
        let message = format!("{name} is the name of {} already", found.guid);
        return Err(refuse(message).into());
    }
    let repo = actual
        .repository(guid)
        .map_err(|_| refuse("the datastore cannot be seen".to_owned()))?;
    if repo.storage.file.is_absent() {
        return Err(refuse(format!("there is no image {guid}")).into());
    }
    if let Some(record) = repo.record.known().filter(|record| record.name != *name) {
        let message = format!("{guid} has a record already: it is called {}", record.name);
        return Err(refuse(message).into());
    }
    let network = free_network(&actual, guid, &session.ids)
        .map_err(|why| refuse(format!("{guid}: {why}")))?;
    let act = Act::Adopt {
        name: name.clone(),
        network,
    };
    let done = format!("{guid} is called {name}; a manifest of that name takes it over");
    let already = format!("{guid} is called {name} already");
    carry_out(session, guid, act, &done, &already).await
}
