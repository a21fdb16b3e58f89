//! What is measured one after the other in one run: the same jobs, first beside a small backlog, then beside a large one;
//! or with one gateway and one worker, then with more.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    Arguments, Bench,
    backlog::Size,
    compare,
    figures::Measured,
    harness::{Roles, Server, Service, chart::Chart},
    report, resting, svg,
    table::{Target, at_most, reach},
    usage::Processes,
};

#[derive(Clone, Copy)]
pub enum Step {
    /// As it is.
    Plain,
    Backlog(Size),
    /// So many gateways and so many workers.
    Instances(usize),
}

impl Step {
    pub fn all(arguments: &Arguments) -> Vec<Self> {
        match (arguments.backlog, arguments.replicas) {
            (Some(size), _) => vec![Self::Backlog(size.small()), Self::Backlog(size)],
            (None, Some(instances)) => vec![Self::Instances(1), Self::Instances(instances)],
            (None, None) => vec![Self::Plain],
        }
    }

    fn name(self) -> String {
        match self {
            Self::Plain => String::new(),
            Self::Backlog(size) => format!("beside {} AgentJobs, {} of them open", size.all(), size.open),
            Self::Instances(1) => "one gateway, one worker".into(),
            Self::Instances(n) => format!("{n} gateways, {n} workers"),
        }
    }
}

/// What was measured in a step.
pub struct Done<'a> {
    pub step: Step,
    pub rounds: Vec<(&'a str, Vec<Measured>)>,
}

/// A controller that was started beside the whole backlog.
#[derive(Serialize)]
pub struct Restart {
    jobs: usize,
    /// Until it had looked at each.
    seconds: f64,
    /// The most until then, in MiB.
    memory: f64,
}

/// The roles' gateways behind one address, if there are to be several.
pub async fn service(arguments: &Arguments, roles: &mut Roles) -> Option<Service> {
    arguments.replicas?;
    let service = Service::before(roles).await;
    roles.restart().await;
    Some(service)
}

impl Bench<'_> {
    /// Makes things as the step wants them.
    pub async fn take(&mut self, chart: &Chart<'_>, step: Step) {
        match step {
            Step::Plain | Step::Instances(1) => return,
            Step::Backlog(size) => {
                eprintln!("making a backlog: {}", step.name());
                let place = self.place(true).0.clone();
                self.backlog.fill(self.test, &place, &self.nodes[0], &mut self.roles, size).await;
            }
            Step::Instances(n) => self.add_instances(chart, n).await,
        }
        tokio::time::sleep(Duration::from_secs(self.arguments.settle)).await;
    }

    async fn add_instances(&mut self, chart: &Chart<'_>, instances: usize) {
        let service = self.service.as_ref().expect("a service");
        let mut gateways = vec![format!("127.0.0.1:{}", self.roles.gateway_port)];
        for _ in 1..instances {
            for name in ["gateway", "temporal-worker"] {
                let address = chart.one_more(&mut self.roles, Server::Shared, name);
                let role = self.roles.list.last_mut().expect("it");
                role.process.set("KOCO_GATEWAY_URL", Some(format!("https://{}", service.address)));
                role.start().await;
                if name == "gateway" {
                    gateways.push(address);
                }
            }
        }
        service.lead_to_all(&gateways);
    }

    /// What it takes a controller to start beside so many jobs.
    pub async fn restart(&mut self, size: Size) -> Restart {
        resting::restart_controller(&mut self.roles);
        let began = Instant::now();
        resting::controller_catches_up(&mut self.roles, size.all()).await;
        let controller = self.roles.role("controller").process.pid();
        let memory = Processes(vec![(String::new(), controller)]).peaks()[""];
        Restart { jobs: size.all(), seconds: began.elapsed().as_secs_f64(), memory }
    }
}

/// All that is to be told of all steps: tables, JSON, a picture.
pub fn report(title: &str, about: &Value, steps: &[Done<'_>], restart: Option<&Restart>) -> (String, Value, String) {
    let (mut tables, mut panels, mut json) = (String::new(), Vec::new(), Vec::new());
    for Done { step, rounds } in steps {
        let name = step.name();
        if !name.is_empty() {
            tables.push_str(&format!("## {name}\n\n"));
        }
        tables.push_str(&report::tables(rounds));
        tables.push('\n');
        panels.extend(report::panels(rounds).into_iter().map(|panel| match name.as_str() {
            "" => panel,
            name => svg::Panel { title: format!("{}; {name}", panel.title), ..panel },
        }));
        json.push(report::json(rounds, json!(name)));
    }
    let mut all = json!({ "about": about, "steps": json });
    if let [before, after] = steps {
        let ratios = compare::ratios(&before.rounds, &after.rounds);
        let name = after.step.name();
        tables.push_str(&format!("## Ratios\n\n{name}, in what it was before:\n\n{}", compare::table(&ratios)));
        let targets = targets(after.step, &ratios, restart);
        reach(&mut tables, &targets);
        all["ratios"] = json!(ratios);
        all["targets"] = json!(targets);
        all["restart"] = json!(restart);
    }
    (tables, all, svg::draw(title, &panels))
}

fn targets(step: Step, ratios: &[compare::Ratio], restart: Option<&Restart>) -> Vec<Target> {
    let mut all = Vec::new();
    if let Step::Backlog(_) = step {
        let ours = ratios.iter().filter(|r| ["Direct", "Temporal"].contains(&r.shape.as_str()));
        all.extend(ours.map(|r| at_most(format!("{}, CPU of a job, in that beside fewer", r.shape), r.cpu, 1.1)));
    }
    if let Some(restart) = restart {
        let what = format!("controller restarted beside {} AgentJobs", restart.jobs);
        all.push(at_most(format!("{what}: seconds until it has looked at each"), restart.seconds, 10.0));
        all.push(at_most(format!("{what}: its memory, MiB"), restart.memory, 512.0));
    }
    all
}
