//! Lists as tables, as the API server sends them to `kubectl get`: the columns and the metadata of each object, whatever
//! the size of its inputs and results. Page by page. Used by `list`, `audit` and what is done to many jobs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::{Client, api::ListParams, core::Request};
use serde::Deserialize;
use serde_json::Value;

use super::paging::Pages;

/// How many objects a page has.
const PAGE: u32 = 500;
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// One page.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Table {
    #[serde(default)]
    pub metadata: ListMeta,
    #[serde(default)]
    pub column_definitions: Vec<Column>,
    #[serde(default)]
    pub rows: Vec<Row>,
}

#[derive(Deserialize)]
pub(super) struct Column {
    pub name: String,
    /// More than 0: only with `-o wide`.
    #[serde(default)]
    pub priority: i32,
}

#[derive(Deserialize)]
pub(super) struct Row {
    pub cells: Vec<Value>,
    pub object: Object,
}

#[derive(Deserialize)]
pub(super) struct Object {
    pub metadata: ObjectMeta,
}

/// One object: its metadata, and the cells by the names of their columns.
#[derive(Clone, Copy)]
pub(super) struct Listed<'a> {
    columns: &'a [Column],
    row: &'a Row,
}

impl Table {
    pub fn listed(&self) -> impl Iterator<Item = Listed<'_>> {
        self.rows.iter().map(|row| Listed { columns: &self.column_definitions, row })
    }
}

impl<'a> Listed<'a> {
    pub fn meta(&self) -> &'a ObjectMeta {
        &self.row.object.metadata
    }

    pub fn cell(&self, column: &str) -> Option<&'a Value> {
        let at = self.columns.iter().position(|c| c.name == column)?;
        self.row.cells.get(at).filter(|value| !value.is_null())
    }
}

/// A list that is read one page after the other.
pub(super) struct Tables {
    client: Client,
    url: String,
    pages: Pages,
}

impl Tables {
    pub fn new(client: Client, url: String, params: ListParams) -> Self {
        Self { client, url, pages: Pages::new(params.limit(PAGE)) }
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Table>, kube::Error> {
        let (client, url) = (&self.client, &self.url);
        let ask = async |page: &ListParams| {
            let mut request = Request::new(url).list(page).map_err(kube::Error::BuildRequest)?;
            request.headers_mut().insert("accept", http::HeaderValue::from_static(TABLE));
            let table = client.request::<Table>(request).await?;
            Ok((table.metadata.clone(), table))
        };
        self.pages.next(ask).await
    }
}

/// Takes all objects. What is suspected or written is read anyway, if a page is of a newer snapshot.
pub(super) async fn each(
    client: &Client,
    url: &str,
    params: ListParams,
    mut take: impl FnMut(Listed<'_>),
) -> Result<(), kube::Error> {
    let mut tables = Tables::new(client.clone(), url.to_string(), params);
    while let Some(table) = tables.next().await? {
        table.listed().for_each(&mut take);
    }
    Ok(())
}
