//! AgentJobs that are there while others are measured: agents that run, as [`resting`] starts them, and jobs that have
//! ended. Of those one of each mode really runs. The others are copies of it, of its run and of its pod, made while the
//! controller is away: what it left is what it would leave of each.

use std::str::FromStr;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use koco::api::{AgentJob, AgentRun, ExecutionMode, names};
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    harness::{MODES, Node, Roles, Test, agent},
    objects::{CREATORS, Kind, LIMIT, Place},
    resting,
};

/// How many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub ended: usize,
    /// They run.
    pub open: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ended, open) = text.split_once(',').ok_or("two numbers: those that have ended, those that run")?;
        let number = |text: &str| text.trim().parse::<usize>().map_err(|e| format!("{text}: {e}"));
        Ok(Self { ended: number(ended)?, open: number(open)? })
    }
}

impl Size {
    /// What there is beside it to compare with: 1,000 for 30,000.
    pub fn small(self) -> Self {
        Self { ended: self.ended.div_ceil(30), open: self.open.div_ceil(30) }
    }

    pub fn all(self) -> usize {
        self.ended + self.open
    }
}

/// The objects that an ended job consists of, in the order in which they are made.
struct Sample {
    job: Value,
    run: Value,
    pod: Value,
}

/// What there is so far.
#[derive(Default)]
pub struct Backlog {
    is: Size,
    samples: Vec<Sample>,
}

impl Backlog {
    /// Adds to it until it has this size.
    pub async fn fill(&mut self, test: &Test, place: &Place, node: &Node, roles: &mut Roles, size: Size) {
        resting::start(test, node, &agent("sleep"), self.is.open..size.open).await;
        if self.samples.is_empty() {
            for mode in MODES {
                self.samples.push(sample(test, place, mode).await);
            }
        }
        roles.role("controller").process.stop(LIMIT);
        let apis = Apis::of(test);
        let (samples, apis) = (&self.samples, &apis);
        let copy = async |n: usize| samples[n % samples.len()].copy(apis, &format!("ended-{n}")).await;
        let copies = stream::iter(self.is.ended..size.ended).map(copy).buffer_unordered(2 * CREATORS);
        copies.try_collect::<Vec<()>>().await.expect("an ended job");
        roles.role("controller").process.start();
        resting::controller_catches_up(roles, size.all()).await;
        self.is = size;
    }
}

/// One job, run to its end.
async fn sample(test: &Test, place: &Place, mode: ExecutionMode) -> Sample {
    let batch = format!("sample-{}", mode.as_str().to_lowercase());
    let lives = Kind::AgentJob(mode).run(place, &batch, 1).await;
    let uid = lives.applied.into_keys().next().expect("a job");
    // Its pod ends a moment later.
    let ended = async || {
        let pods = ListParams::default().labels(&format!("{}={uid}", names::LABEL_JOB_UID));
        let pod = test.pods().list(&pods).await.map_err(|e| e.to_string())?.items.pop().ok_or("no pod")?;
        let ended = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded");
        ended.then_some(pod).ok_or_else(|| "it runs".to_string())
    };
    let pod = crate::harness::within(LIMIT, "the pod's end", ended).await;
    let apis = Apis::of(test);
    let job = apis.jobs.get(&format!("{batch}-0")).await.expect("the job");
    let run = apis.runs.get(&names::run(&format!("{batch}-0"), &uid, 1)).await.expect("its run");
    let [job, run, pod] = [json!(job), json!(run), json!(pod)];
    Sample { job, run, pod }
}

struct Apis {
    jobs: Api<DynamicObject>,
    runs: Api<DynamicObject>,
    pods: Api<DynamicObject>,
}

impl Apis {
    fn of(test: &Test) -> Self {
        fn api<K: Resource<DynamicType = ()>>(test: &Test) -> Api<DynamicObject> {
            Api::namespaced_with(test.client.clone(), &test.namespace, &ApiResource::erase::<K>(&()))
        }
        Self { jobs: api::<AgentJob>(test), runs: api::<AgentRun>(test), pods: api::<Pod>(test) }
    }
}

impl Sample {
    /// The same under another name. A status is written when all that it names is there.
    async fn copy(&self, apis: &Apis, name: &str) -> kube::Result<()> {
        let (old_name, old_uid) = (text(&self.job, "name"), text(&self.job, "uid"));
        let mut words = Words(vec![(old_name.clone(), name.to_string())]);
        let uid = create(&apis.jobs, &words.in_value(&self.job)).await?;
        let pod = names::pod(name, &uid, 1, "abcde");
        words.first(names::run(&old_name, &old_uid, 1), names::run(name, &uid, 1));
        words.first(text(&self.pod, "name"), pod);
        words.first(old_uid, uid);
        let run = words.in_value(&self.run);
        words.first(text(&self.run, "uid"), create(&apis.runs, &run).await?);
        let pod = words.in_value(&self.pod);
        words.first(text(&self.pod, "uid"), create(&apis.pods, &pod).await?);
        for (api, object) in [(&apis.pods, &self.pod), (&apis.runs, &self.run), (&apis.jobs, &self.job)] {
            let object = words.in_value(object);
            let status = Patch::Merge(json!({ "status": object["status"] }));
            api.patch_status(&text(&object, "name"), &PatchParams::default(), &status).await?;
        }
        Ok(())
    }
}

/// What is called otherwise in a copy. Earlier ones are replaced first: names begin with other names.
struct Words(Vec<(String, String)>);

impl Words {
    fn first(&mut self, old: String, new: String) {
        self.0.insert(0, (old, new));
    }

    fn in_value(&self, value: &Value) -> Value {
        let text = self.0.iter().fold(value.to_string(), |text, (old, new)| text.replace(old, new));
        serde_json::from_str(&text).expect("JSON")
    }
}

fn text(object: &Value, field: &str) -> String {
    object["metadata"][field].as_str().expect("metadata").to_string()
}

/// Creates it with what users give it, and answers its UID.
async fn create(api: &Api<DynamicObject>, object: &Value) -> kube::Result<String> {
    let mut object = object.clone();
    let kept = ["name", "labels", "annotations", "finalizers", "ownerReferences"];
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    metadata.retain(|field, _| kept.contains(&field.as_str()));
    let object: DynamicObject = serde_json::from_value(object).expect("an object");
    let made = api.create(&PostParams::default(), &object).await?;
    Ok(made.metadata.uid.expect("a UID"))
}
