//! What a server of koco's needs that has nothing to do with what it serves: TLS and its certificate, the clients' keys
//! and tokens, limits. Used by the roles that serve.

mod certificate;
mod client_key;
mod connections;
pub mod limits;
mod serve;
mod tls;
mod token;

pub use self::{
    client_key::{any_key, client_key},
    connections::{Acceptor, Connection},
    serve::{DRAIN, serve},
    tls::{CertificateManager, ServerNames},
    token::{Authenticator, Holder, Pod, TokenError},
};
