//! What controllers of any kind share, independent of koco's kinds. Used by the controllers in the folders beside it.

mod follow;
mod requeue;

pub use follow::{Change, follow};
pub use requeue::{Requeue, requeue_router};
