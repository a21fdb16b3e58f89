//! Which pods of a job to collect. Pure.

use super::PodView;

/// The pods that must be gone or ended before a pod of `epoch` may be created: only ever those of lower epochs, so that a
/// worker that was frozen and thaws can't hurt a successor.
pub fn before_epoch(pods: &[PodView], epoch: i32) -> Vec<&PodView> {
    pods.iter().filter(|p| p.epoch < epoch && !p.agent_ended()).collect()
}

/// Pods whose agent has ended while a sidecar keeps them from ending: they hold resources for nothing.
pub fn lingering(pods: &[PodView]) -> Vec<&PodView> {
    pods.iter().filter(|p| p.agent_ended() && !p.ended && !p.deleting()).collect()
}

/// The ended pods beyond the newest `keep`, which are no longer kept for their logs.
pub fn history(pods: &[PodView], keep: usize) -> Vec<&PodView> {
    let mut ended: Vec<&PodView> = pods.iter().filter(|p| p.ended && !p.deleting()).collect();
    ended.sort_by_key(|p| std::cmp::Reverse(p.epoch));
    ended.into_iter().skip(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::AgentContainer;

    fn pod(epoch: i32, ended: bool) -> PodView {
        let (name, uid) = (format!("p-{epoch}"), format!("u-{epoch}"));
        PodView { name, uid, epoch, ended, agent: AgentContainer::Running, ..PodView::default() }
    }

    #[test]
    fn never_takes_its_own_epoch_or_a_later_one() {
        let pods = [pod(1, false), pod(2, false), pod(3, false)];
        let names: Vec<_> = before_epoch(&pods, 2).iter().map(|p| p.epoch).collect();
        assert_eq!(names, [1]);
    }

    #[test]
    fn keeps_the_newest_ended_pods_for_their_logs() {
        let pods = [pod(1, true), pod(2, true), pod(3, true), pod(4, false)];
        let names: Vec<_> = history(&pods, 1).iter().map(|p| p.epoch).collect();
        assert_eq!(names, [2, 1]);
        assert!(history(&pods, 3).is_empty());
    }
}
