//! Lists that come page by page. Used by what reads all objects of a kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::api::ListParams;

/// Asks for one page after the other. A list that has taken so long that its snapshot is gone goes on with a newer one,
/// where the API server says.
pub(super) async fn each(
    mut params: ListParams,
    mut ask: impl AsyncFnMut(&ListParams) -> Result<ListMeta, kube::Error>,
) -> Result<(), kube::Error> {
    loop {
        let metadata = match ask(&params).await {
            Ok(metadata) => metadata,
            Err(kube::Error::Api(status)) if status.code == 410 && next(status.metadata.as_ref()).is_some() => {
                status.metadata.clone().unwrap_or_default()
            }
            Err(e) => return Err(e),
        };
        let Some(token) = next(Some(&metadata)) else { return Ok(()) };
        params.continue_token = Some(token.to_string());
    }
}

/// Where the list goes on, if it does.
pub(super) fn next(metadata: Option<&ListMeta>) -> Option<&str> {
    metadata?.continue_.as_deref().filter(|token| !token.is_empty())
}
