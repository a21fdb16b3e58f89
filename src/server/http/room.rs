//! Bounds the bytes of events that were read and that clients have not taken, so that those who don't read take no memory
//! from others. Used by [`super::events`], [`super::stream`] and [`super::kodosumi`].

use std::sync::Arc;

use axum::body::Bytes;

use crate::{
    database::EventPage,
    platform::http::limits::{Place, Shares},
};

/// How many bytes there may be, and of one user.
const BYTES: (usize, usize) = (128 * 1024 * 1024, 64 * 1024 * 1024);
/// How many bytes a payload's byte takes at most while its answer is made: itself, and as JSON, which escapes some as six.
const FACTOR: usize = 8;

/// The bytes that there may be.
#[derive(Clone)]
pub struct Room(Arc<Shares<String>>);

impl Default for Room {
    fn default() -> Self {
        Self(Shares::new(BYTES.0, BYTES.1))
    }
}

/// An answer, and its bytes.
struct Held {
    text: Box<[u8]>,
    _place: Place<String>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

impl Room {
    /// Room for the answer that a page becomes; `None` if there is too little for this user now.
    pub fn take(&self, user: String, page: EventPage) -> Option<Place<String>> {
        let bytes = usize::try_from(page.bytes).unwrap_or(usize::MAX).saturating_mul(FACTOR);
        self.0.enter_with(user, bytes.clamp(1, BYTES.1))
    }
}

/// The answer, whose bytes count until the client has taken it.
pub fn held(text: String, mut place: Place<String>) -> Bytes {
    place.shrink(text.len());
    Bytes::from_owner(Held { text: text.into_bytes().into(), _place: place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_have_not_taken_is_bounded_for_each_user_and_in_all() {
        let (room, mib) = (Room::default(), 1024 * 1024);
        let take = |user: &str, bytes| room.take(user.into(), EventPage { last: 1, bytes });
        let large = take("a", 8 * mib).expect("the largest event");
        assert!(take("a", 1).is_none(), "that is all of its share");
        let answer = held("x".repeat(mib as usize), large);
        let more: Vec<_> = (0..99).map_while(|_| take("a", mib)).collect();
        assert_eq!(more.len(), 7, "beside what it has not taken");
        assert!(take("b", 8 * mib).is_some(), "another user has a share of its own");
        drop((answer, more));
        assert!(take("a", 8 * mib).is_some());
    }
}
