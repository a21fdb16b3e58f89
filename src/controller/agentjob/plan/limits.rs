//! The operator's limits that a CRD can't state, which does not measure free JSON, and the job's own schema of its inputs. A
//! job beyond them fails before a pod or a workflow is created for it.

use super::view::JobView;
use crate::{api::ErrorStatus, protocol::error_types};

/// The largest template, in bytes of JSON: two thirds of what the API server's store takes of an object. The job's
/// status and what koco adds to the pod have to fit, and each change of the pod, its deletion too.
const MAX_TEMPLATE_BYTES: usize = 1024 * 1024;

/// Why a new job is not taken. A job that was accepted stays so, whatever the limits are now.
pub(super) fn exceeded(view: &JobView<'_>) -> Option<ErrorStatus> {
    if view.old.resolved.is_some() || view.run.is_some() {
        return None;
    }
    let spec = &view.job.spec;
    let size = spec.template.size();
    if size > MAX_TEMPLATE_BYTES {
        let message = format!(
            "spec.template is {size} bytes of JSON, and the limit is {MAX_TEMPLATE_BYTES} bytes: keep large values in \
             a ConfigMap or in the image"
        );
        return Some(ErrorStatus { kind: error_types::TEMPLATE_TOO_LARGE.into(), message });
    }
    let limit = view.operator.defaults.maximum_inputs_bytes;
    let sizes = [("spec.inputs", spec.inputs.size()), ("spec.extra", spec.extra.size())];
    if let Some((field, size)) = sizes.into_iter().find(|(_, size)| limit > 0 && *size > limit) {
        let message = format!(
            "{field} is {size} bytes of JSON, and the operator's limit is {limit} bytes: keep large inputs elsewhere, and \
             pass their address"
        );
        return Some(ErrorStatus { kind: error_types::INPUTS_TOO_LARGE.into(), message });
    }
    let message = view.observed.invalid_inputs.clone()?;
    Some(ErrorStatus { kind: error_types::INVALID_INPUTS.into(), message })
}
