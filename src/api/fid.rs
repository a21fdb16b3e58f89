//! Kodosumi's execution id.

use sha2::{Digest, Sha256};

/// The execution id of a job: 24 hex digits that sort by time.
///
/// The first 8 digits are `created`, the object's creation time in seconds since 1970 (at most 2^32 - 1), the other 16
/// are the first of the SHA-256 of its UID: a function of the object, so every role computes the same one.
pub fn fid(created: i64, uid: &str) -> String {
    let seconds = u32::try_from(created.max(0)).unwrap_or(u32::MAX);
    format!("{seconds:08x}{}", &hex::encode(Sha256::digest(uid))[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_24_hex_digits_that_sort_by_time() {
        let (a, b) = (fid(1_700_000_000, "x"), fid(1_700_000_001, "a"));
        assert_eq!(a.len(), 24);
        assert!(a.chars().all(|c| c.is_ascii_hexdigit()));
        assert!(a < b);
        assert_eq!(a, fid(1_700_000_000, "x"));
        assert_eq!(fid(0x6740_c100, "x")[..8], *"6740c100");
    }
}
