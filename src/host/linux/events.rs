//! Word from the machine that something ended: containers and daemons, mounts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use bollard::query_parameters::EventsOptionsBuilder;
use futures::{Stream, StreamExt as _, stream};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{dockerd, mount};
use crate::model::{Layout, NetworkId};

/// How soon a daemon that is new, or back, is listened to.
const LOOK: Duration = Duration::from_secs(1);
const WAITING: usize = 256;

/// The networks in whose daemon a container ended, or whose daemon did. Starts
/// no daemon. Ends when it is dropped.
pub fn endings(layout: Layout) -> impl Stream<Item = NetworkId> + Send {
    let (heard, hears) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut followed: BTreeMap<NetworkId, JoinHandle<()>> = BTreeMap::new();
        while !heard.is_closed() {
            let running = dockerd::networks(&layout);
            followed.retain(|network, task| running.contains(network) && !task.is_finished());
            for network in running {
                followed.entry(network).or_insert_with(|| {
                    let (layout, heard) = (layout.clone(), heard.clone());
                    tokio::spawn(async move { follow(&layout, network, &heard).await })
                });
            }
            tokio::time::sleep(LOOK).await;
        }
        followed.into_values().for_each(|task| task.abort());
    });
    stream::unfold(hears, async |mut hears| Some((hears.recv().await?, hears)))
}

/// Says when a mount below the datastore went. Ends never; where the kernel tells
/// nothing, nothing comes.
pub fn unmounts(layout: Layout) -> impl Stream<Item = ()> + Send {
    /// Mounts come and go in bursts.
    const GATHER: Duration = Duration::from_millis(200);
    let datastore = mount::real(&layout.datastore());
    let points = move || -> BTreeSet<PathBuf> {
        let table = mount::table().unwrap_or_default();
        let points = table.into_iter().map(|mounted| mounted.point);
        points
            .filter(|point| point.starts_with(&datastore))
            .collect()
    };
    let told = Interest::PRIORITY | Interest::ERROR;
    let watch = File::open("/proc/self/mountinfo")
        // SAFETY: the file is owned by the AsyncFd and its descriptor never changes.
        .and_then(|file| unsafe { AsyncFd::register_with_interest(file, told) }.map_err(Into::into))
        .inspect_err(|error| tracing::warn!(%error, "mounts are not watched"));
    let seen = points();
    stream::unfold((watch.ok(), seen), move |(watch, mut seen)| {
        let points = points.clone();
        async move {
            let Some(watch) = watch else {
                return std::future::pending().await;
            };
            loop {
                watch.ready(told).await.ok()?.clear_ready();
                tokio::time::sleep(GATHER).await;
                let before = std::mem::replace(&mut seen, points());
                if !before.is_subset(&seen) {
                    return Some(((), (Some(watch), seen)));
                }
            }
        }
    })
}

/// Passes on what one daemon says, until it says nothing more.
async fn follow(layout: &Layout, network: NetworkId, heard: &mpsc::Sender<NetworkId>) {
    let Some(client) = dockerd::connect(layout, network).await else {
        return;
    };
    let events = ["die", "destroy", "oom", "health_status"];
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("event".to_owned(), events.map(str::to_owned).to_vec()),
    ]);
    let options = EventsOptionsBuilder::new().filters(&filters).build();
    let mut events = client.events(Some(options));
    while let Some(Ok(_)) = events.next().await {
        if heard.send(network).await.is_err() {
            return;
        }
    }
    // The daemon is gone, or going.
    let _ = heard.send(network).await;
}
