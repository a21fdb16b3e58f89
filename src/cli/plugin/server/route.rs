//! How the server is reached: by a port-forward to one of its ready pods, or at a URL. Either way over TLS, with the name
//! and the authorities that its certificate is checked against. Used by [`super`].

use std::{path::Path, sync::Arc};

use k8s_openapi::api::{
    core::v1::{ConfigMap, Pod},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, api::ListParams};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::Url;

use super::answer::{self, Trouble};
use crate::api::names;

/// The labels of the slices of the server's Service.
const SLICES: &str = "app.kubernetes.io/part-of=koco,app.kubernetes.io/component=server";
/// The name of its port.
const PORT: &str = "server";

/// What bytes go through.
pub(super) trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Pipe for T {}

type Secured = TlsStream<Box<dyn Pipe>>;

/// The way to the server.
pub(super) struct Route {
    way: Way,
    tls: TlsConnector,
    /// The name in its certificate.
    name: ServerName<'static>,
    host: String,
    prefix: String,
}

enum Way {
    Forward { client: Client, namespace: String },
    Direct { host: String, port: u16 },
}

/// Reads the URL of a server.
pub(super) fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| e.to_string())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    match url.scheme() {
        "https" if plain && url.has_host() => Ok(url),
        "https" => Err("a host and a path are all that it may have".into()),
        _ => Err("not https://: a token is never sent in the clear".into()),
    }
}

impl Route {
    /// By port-forwards to the server's pods in koco's namespace.
    pub async fn forward(client: &Client, namespace: &str) -> Result<Self, Trouble> {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let found = maps.get_opt(names::SERVER_CA).await.map_err(|e| answer::lookup(e, namespace, CA))?;
        let map = found.ok_or_else(|| answer::not_installed(namespace))?;
        let ca = map.data.and_then(|mut data| data.remove("ca.crt")).filter(|ca| !ca.is_empty());
        let ca = ca.ok_or_else(|| {
            Trouble::Away(format!("the server in {namespace} has not published its certificate authority yet"))
        })?;
        let roots = authorities(ca.as_bytes()).map_err(|why| Trouble::Final(format!("ConfigMap {CA}: {why}")))?;
        let way = Way::Forward { client: client.clone(), namespace: namespace.into() };
        Self::new(way, roots, names::SERVER_TLS_NAME, names::SERVER_TLS_NAME.into(), String::new())
    }

    /// At a URL.
    pub fn direct(url: &Url, ca: Option<&Path>, name: Option<&str>) -> Result<Self, Trouble> {
        let roots = match ca {
            Some(file) => {
                let wrong = |why: String| Trouble::Final(format!("{}: {why}", file.display()));
                authorities(&std::fs::read(file).map_err(|e| wrong(e.to_string()))?).map_err(wrong)?
            }
            None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
        };
        let authority = url.host_str().unwrap_or_default().to_string();
        let host = authority.trim_matches(['[', ']']).to_string();
        let port = url.port_or_known_default().unwrap_or(443);
        let header = url.port().map_or(authority.clone(), |port| format!("{authority}:{port}"));
        let prefix = url.path().trim_end_matches('/').to_string();
        Self::new(Way::Direct { host: host.clone(), port }, roots, name.unwrap_or(&host), header, prefix)
    }

    fn new(way: Way, roots: RootCertStore, name: &str, host: String, prefix: String) -> Result<Self, Trouble> {
        let wrong = |e: &dyn std::fmt::Display| Trouble::Final(format!("TLS with {name}: {e}"));
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|e| wrong(&e))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(name.to_string()).map_err(|e| wrong(&e))?;
        Ok(Self { way, tls: TlsConnector::from(Arc::new(config)), name, host, prefix })
    }

    /// The `Host` of requests.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What the paths of requests begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A connection to the server, whose certificate is the right one.
    pub async fn open(&self) -> Result<Secured, Trouble> {
        match &self.way {
            Way::Direct { host, port } => {
                let away = |e| Trouble::Away(format!("{host}:{port}: {e}"));
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(away)?;
                // Without it the stream works as well.
                let _ = stream.set_nodelay(true);
                self.secure(Box::new(stream)).await
            }
            Way::Forward { client, namespace } => {
                let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
                let found = slices.list(&ListParams::default().labels(SLICES)).await;
                let found = found.map_err(|e| answer::lookup(e, namespace, "the endpoints of the server's Service"))?;
                let mut last = answer::none_ready(namespace);
                for (pod, port) in ready(&found.items) {
                    match self.forwarded(client, namespace, &pod, port).await {
                        Err(trouble @ Trouble::Away(_)) => last = trouble,
                        opened => return opened,
                    }
                }
                Err(last)
            }
        }
    }

    async fn forwarded(&self, client: &Client, namespace: &str, pod: &str, port: u16) -> Result<Secured, Trouble> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let forwarded = pods.portforward(pod, &[port]).await;
        let mut forwarder =
            forwarded.map_err(|e| answer::lookup(e, namespace, &format!("pods/portforward of {pod}")))?;
        let broken = |why: &str| Trouble::Away(format!("the port-forward to the pod {pod}: {why}"));
        let (Some(stream), Some(failed)) = (forwarder.take_stream(port), forwarder.take_error(port)) else {
            return Err(broken("it has no stream"));
        };
        tokio::select! {
            secured = self.secure(Box::new(stream)) => secured,
            why = failed => Err(broken(why.as_deref().unwrap_or("it was closed"))),
        }
    }

    async fn secure(&self, stream: Box<dyn Pipe>) -> Result<Secured, Trouble> {
        let secured = self.tls.connect(self.name.clone(), stream).await;
        secured.map_err(|error| {
            let refused = error.get_ref().is_some_and(|e| e.is::<rustls::Error>());
            let words = format!("TLS with {}: {error}", self.name.to_str());
            if refused { answer::not_trusted(&words) } else { Trouble::Away(words) }
        })
    }
}

const CA: &str = names::SERVER_CA;

/// Certificate authorities in PEM.
fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    if roots.is_empty() { Err("no certificate in it".into()) } else { Ok(roots) }
}

/// The ready pods behind a Service, and their port.
fn ready(slices: &[EndpointSlice]) -> Vec<(String, u16)> {
    let mut found = Vec::new();
    for slice in slices {
        let port = slice.ports.iter().flatten().find(|port| port.name.as_deref() == Some(PORT)).and_then(|p| p.port);
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { continue };
        for endpoint in &slice.endpoints {
            let is_ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
            if let Some(name) = pod.and_then(|pod| pod.name.clone()).filter(|_| is_ready) {
                found.push((name, port));
            }
        }
    }
    // A Service with two families of addresses has each pod twice.
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_pods_are_reached() {
        let pod = |name: &str, ready| json!({ "addresses": ["10.0.0.1"], "conditions": ready, "targetRef": { "kind": "Pod", "name": name } });
        let slice = |port: &str, endpoints: serde_json::Value| {
            let slice = json!({ "metadata": { "name": "s" }, "addressType": "IPv4",
                "ports": [{ "name": "health", "port": 8080 }, { "name": port, "port": 8445 }], "endpoints": endpoints });
            serde_json::from_value::<EndpointSlice>(slice).unwrap()
        };
        let endpoints = json!([
            pod("b", json!({ "ready": true })),
            pod("starting", json!({ "ready": false })),
            pod("a", json!({})),
            { "addresses": ["10.0.0.2"], "targetRef": { "kind": "Node", "name": "n" } },
            { "addresses": ["10.0.0.3"] },
        ]);
        let slices =
            [slice("server", endpoints.clone()), slice("server", endpoints.clone()), slice("other", endpoints)];
        assert_eq!(ready(&slices), [("a".to_string(), 8445), ("b".to_string(), 8445)]);
        assert_eq!(ready(&[]), []);
    }

    #[test]
    fn a_url_leads_to_its_host_and_path() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let route = |text: &str, name| Route::direct(&url(text).unwrap(), None, name).unwrap();
        let ingress = route("https://koco.example.com/archive/", None);
        assert_eq!((ingress.host(), ingress.prefix()), ("koco.example.com", "/archive"));
        assert_eq!(ingress.name.to_str(), "koco.example.com");
        let given = route("https://10.0.0.1:8445", Some("koco-server"));
        assert_eq!((given.host(), given.prefix(), &*given.name.to_str()), ("10.0.0.1:8445", "", "koco-server"));
        let six = route("https://[::1]:8445", None);
        let Way::Direct { host, port } = &six.way else { panic!() };
        assert_eq!((six.host(), host.as_str(), *port), ("[::1]:8445", "::1", 8445));
        for wrong in ["http://a", "https://user:word@a", "https://a?b=c", "a", "koco-server:8445"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_authority_is_a_certificate() {
        for wrong in ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(authorities(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let ca = rcgen::generate_simple_self_signed(["koco-server".to_string()]).unwrap();
        assert_eq!(authorities(ca.cert.pem().as_bytes()).unwrap().len(), 1);
    }
}
