//! What controllers of any kind share, independent of koco's kinds. Used by the controllers in the folders beside it.

mod requeue;
mod turns;

pub use requeue::{Requeue, requeue_router};
pub use turns::Turns;
