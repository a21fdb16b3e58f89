//! A layer of a Kubernetes client that shows the answers to its requests to an [`Observer`]. Used by the clock and the
//! metrics of requests.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use tower::{Layer, Service};

/// What looks at each request and its answer.
pub trait Observer: Clone + Send + 'static {
    /// What it keeps of a request until the answer is there.
    type Asked: Send;

    /// A request is about to be sent.
    fn asked(&self, method: &Method, uri: &Uri) -> Self::Asked;

    /// Its answer has begun; `None` if there is none.
    fn answered(&self, asked: Self::Asked, answer: Option<(StatusCode, &HeaderMap)>);
}

/// The layer for an observer.
#[derive(Clone, Copy)]
pub struct Observed<O>(pub O);

impl<S, O: Clone> Layer<S> for Observed<O> {
    type Service = Observing<S, O>;

    fn layer(&self, inner: S) -> Observing<S, O> {
        Observing { inner, observer: self.0.clone() }
    }
}

/// The service of [`Observed`].
#[derive(Clone)]
pub struct Observing<S, O> {
    inner: S,
    observer: O,
}

impl<S, O, A, B> Service<Request<A>> for Observing<S, O>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    O: Observer,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let observer = self.observer.clone();
        let asked = observer.asked(request.method(), request.uri());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            observer.answered(asked, answer.as_ref().ok().map(|response| (response.status(), response.headers())));
            answer
        })
    }
}
