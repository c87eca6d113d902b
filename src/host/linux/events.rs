//! Word from the Docker daemons that something ended.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::query_parameters::EventsOptionsBuilder;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::dockerd;
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
    futures::stream::unfold(hears, async |mut hears| Some((hears.recv().await?, hears)))
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
