//! A node that plays all pods of a namespace by itself: binds them, lets their agents' players live, and takes them
//! away when they are deleted, with the statuses in between that a kubelet would write.

use std::{collections::HashMap, sync::Arc};

use futures::{FutureExt, StreamExt, future::BoxFuture};
use k8s_openapi::api::core::v1::Pod;
use koco::platform::watch::items;
use kube::{
    Resource,
    runtime::{WatchStreamExt, watcher},
};
use tokio::{
    sync::Semaphore,
    task::{AbortHandle, JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    Kubelet, Runner, Test,
    kubelet::End,
    player::{Diary, play},
};

/// Plays the processes of a pod, until the token says that it is deleted or they have ended by themselves.
pub type Player = Arc<dyn Fn(kube::Client, Pod, CancellationToken, Diary) -> BoxFuture<'static, End> + Send + Sync>;

/// Plays while it is kept.
pub struct Node {
    /// What its agents did.
    pub diary: Diary,
    task: JoinHandle<()>,
}

impl Node {
    /// Plays koco's runners.
    pub fn automatic(test: &Test) -> Self {
        Self::with(test, runners())
    }

    /// Plays koco's runners, so many pods at a time: the others wait, as if for a place on a node.
    #[allow(dead_code)] // benches/fairness asks
    pub fn with_places(test: &Test, places: usize) -> Self {
        Self::playing(test, runners(), places)
    }

    /// Plays what this player does.
    pub fn with(test: &Test, player: Player) -> Self {
        Self::playing(test, player, Semaphore::MAX_PERMITS)
    }

    fn playing(test: &Test, player: Player, places: usize) -> Self {
        let places = Arc::new(Semaphore::new(places));
        let (client, kubelet, pods) =
            (test.client.clone(), Kubelet::of(test), items::<Pod>(test.client.clone(), Some(&test.namespace)));
        let diary = Diary::default();
        let keep = diary.clone();
        let task = tokio::spawn(async move {
            let (mut pods_here, mut lives) = (HashMap::<String, Life>::new(), JoinSet::new());
            let mut events = watcher(pods, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.next().await {
                let Ok(event) = event else { continue };
                match event {
                    watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
                        // Some tests make pods that can't be read.
                        let Ok(pod) = pod.object else { continue };
                        let uid = pod.metadata.uid.clone().expect("a UID");
                        if !pods_here.contains_key(&uid) && may_start(&pod) {
                            let end = CancellationToken::new();
                            let task = lives.spawn(live(
                                player.clone(),
                                client.clone(),
                                kubelet.clone(),
                                pod.clone(),
                                end.clone(),
                                keep.clone(),
                                places.clone(),
                            ));
                            pods_here.insert(uid.clone(), Life { end, task });
                        }
                        if pod.metadata.deletion_timestamp.is_some()
                            && let Some(life) = pods_here.get(&uid)
                        {
                            life.end.cancel();
                        }
                    }
                    watcher::Event::Delete(pod) => {
                        // A forced deletion, without the kubelet.
                        if let Some(life) = pods_here.remove(pod.meta().uid.as_deref().unwrap_or_default()) {
                            life.task.abort();
                        }
                    }
                    watcher::Event::Init | watcher::Event::InitDone => {}
                }
            }
        });
        Self { diary, task }
    }
}

fn runners() -> Player {
    Arc::new(|client, pod, end, diary| {
        async move { play(Runner::in_pod(client, &pod).await, end, diary).await }.boxed()
    })
}

struct Life {
    /// Its pod is being deleted.
    end: CancellationToken,
    task: AbortHandle,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether the scheduler would bind it to us.
fn may_start(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref().expect("a spec");
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let elsewhere = spec.node_selector.as_ref().is_some_and(|labels| !labels.is_empty());
    !gated && !elsewhere && pod.metadata.deletion_timestamp.is_none() && spec.node_name.is_none()
}

async fn live(
    player: Player,
    client: kube::Client,
    kubelet: Kubelet,
    pod: Pod,
    end: CancellationToken,
    diary: Diary,
    places: Arc<Semaphore>,
) {
    let name = pod.metadata.name.clone().expect("a name");
    let place = places.acquire().await;
    kubelet.schedule(&name).await;
    kubelet.run(&name).await;
    let ended = player(client, pod, end.clone(), diary).await;
    kubelet.end(&name, &ended).await;
    drop(place);
    end.cancelled().await;
    kubelet.remove(&name).await;
}
