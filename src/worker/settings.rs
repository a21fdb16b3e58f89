//! The worker's own settings.

use clap::Args;

/// How much one worker does at a time.
#[derive(Args, Clone, Debug)]
pub struct WorkerSettings {
    /// Activities at a time, and as many starts of runners. They are short: none waits for an agent or a pod
    #[arg(long, env = "KOCO_WORKER_ACTIVITY_SLOTS", default_value_t = 100)]
    pub worker_activity_slots: usize,
    /// Workflow tasks at a time, at least six, as each of five polls takes a slot, too
    #[arg(long, env = "KOCO_WORKER_WORKFLOW_SLOTS", default_value_t = 100)]
    pub worker_workflow_slots: usize,
    /// First starts of runners at a time within workflow tasks, fewer than those; any more use the slots of starts
    #[arg(long, env = "KOCO_WORKER_LOCAL_ACTIVITY_SLOTS", default_value_t = 50)]
    pub worker_local_activity_slots: usize,
    /// Workflows kept in memory, so that they needn't be replayed: at least twice as many as workflow tasks at a time
    #[arg(long, env = "KOCO_WORKER_CACHED_WORKFLOWS", default_value_t = 1000)]
    pub worker_cached_workflows: usize,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            worker_activity_slots: 100,
            worker_workflow_slots: 100,
            worker_local_activity_slots: 50,
            worker_cached_workflows: 1000,
        }
    }
}
