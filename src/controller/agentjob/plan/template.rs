//! A job that is still to be filled from its AgentTemplate: nothing of it is started, and nothing resolved.

use std::time::Duration;

use super::{Decision, control::finish, view::JobView};
use crate::api::{DesiredState, Phase, Reason};

/// How long after the template was read it is read again, should the watch of templates show no change.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

pub(super) fn decide(view: &JobView<'_>) -> Decision {
    let phase = match view.desired() {
        DesiredState::Cancelled => return finish(view, Phase::Cancelled, None),
        DesiredState::Paused => Phase::Paused,
        DesiredState::Running => Phase::Pending,
    };
    let template = view.observed.template.clone();
    let decision = Decision { phase, not_ready: template.clone(), ..Decision::unchanged(view) }.again(LOOK_AGAIN);
    match template {
        // It may come in the same apply.
        Some(waits @ (Reason::TemplateNotFound, _)) => Decision { waits: Some(waits), ..decision },
        blocked => Decision { blocked, ..decision },
    }
}
