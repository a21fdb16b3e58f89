//! Lists that come page by page. Used by what reads all objects of a kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::api::ListParams;

/// A list that is read one page after the other. One that takes so long that its snapshot is gone goes on with a newer
/// one, where the API server says.
pub(super) struct Pages {
    params: ListParams,
    done: bool,
}

impl Pages {
    pub fn new(params: ListParams) -> Self {
        Self { params, done: false }
    }

    /// The next page; `None` after the last.
    pub async fn next<T>(
        &mut self,
        mut ask: impl AsyncFnMut(&ListParams) -> Result<(ListMeta, T), kube::Error>,
    ) -> Result<Option<T>, kube::Error> {
        while !self.done {
            let (metadata, page) = match ask(&self.params).await {
                Ok((metadata, page)) => (metadata, Some(page)),
                Err(kube::Error::Api(status)) if status.code == 410 && next(status.metadata.as_ref()).is_some() => {
                    (status.metadata.clone().unwrap_or_default(), None)
                }
                Err(e) => return Err(e),
            };
            self.params.continue_token = next(Some(&metadata)).map(str::to_string);
            self.done = self.params.continue_token.is_none();
            if page.is_some() {
                return Ok(page);
            }
        }
        Ok(None)
    }
}

/// Asks for all pages.
pub(in crate::cli) async fn each(
    params: ListParams,
    mut ask: impl AsyncFnMut(&ListParams) -> Result<ListMeta, kube::Error>,
) -> Result<(), kube::Error> {
    let mut pages = Pages::new(params);
    while pages.next(async |page| Ok((ask(page).await?, ()))).await?.is_some() {}
    Ok(())
}

/// Where the list goes on, if it does.
pub(super) fn next(metadata: Option<&ListMeta>) -> Option<&str> {
    metadata?.continue_.as_deref().filter(|token| !token.is_empty())
}
