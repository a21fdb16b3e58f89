//! A node that plays all pods of a namespace by itself: binds them, lets their agents' players live, and takes them
//! away when they are deleted, with the statuses in between that a kubelet would write.

use std::collections::HashMap;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use koco::platform::watch::items;
use kube::{
    Resource,
    runtime::{WatchStreamExt, watcher},
};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Kubelet, Runner, Test,
    player::{Diary, play},
};

/// Plays while it is kept.
pub struct Node {
    /// What its agents did.
    pub diary: Diary,
    task: JoinHandle<()>,
}

impl Node {
    pub fn automatic(test: &Test) -> Self {
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
                                client.clone(),
                                kubelet.clone(),
                                pod.clone(),
                                end.clone(),
                                keep.clone(),
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

async fn live(client: kube::Client, kubelet: Kubelet, pod: Pod, end: CancellationToken, diary: Diary) {
    let name = pod.metadata.name.clone().expect("a name");
    kubelet.schedule(&name).await;
    kubelet.run(&name).await;
    let runner = Runner::in_pod(client, &pod).await;
    let ended = play(runner, end.clone(), diary).await;
    kubelet.end(&name, &ended).await;
    end.cancelled().await;
    kubelet.remove(&name).await;
}
