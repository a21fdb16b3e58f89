//! The operator's limits that a CRD can't state: a schema does not measure free JSON. A job beyond them fails before a pod
//! or a workflow is created for it.

use super::view::JobView;
use crate::{api::ErrorStatus, protocol::error_types};

/// Why a new job is not taken. A job that was accepted stays so, whatever the limits are now.
pub(super) fn exceeded(view: &JobView<'_>) -> Option<ErrorStatus> {
    let limit = view.operator.defaults.maximum_inputs_bytes;
    if view.old.resolved.is_some() || view.run.is_some() || limit == 0 {
        return None;
    }
    let spec = &view.job.spec;
    let sizes = [("spec.inputs", spec.inputs.size()), ("spec.extra", spec.extra.size())];
    let (field, size) = sizes.into_iter().find(|(_, size)| *size > limit)?;
    let message = format!(
        "{field} is {size} bytes of JSON, and the operator's limit is {limit} bytes: keep large inputs elsewhere, and \
         pass their address"
    );
    Some(ErrorStatus { kind: error_types::INPUTS_TOO_LARGE.into(), message })
}
