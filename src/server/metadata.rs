//! The parts of a call outside its message: the request id and the deadline.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tonic::metadata::{MetadataMap, MetadataValue};

use super::limits::Limits;
use super::violation::Violation;

/// The metadata key of the request id, in requests and in replies.
pub const REQUEST_ID: &str = "x-request-id";

const TIMEOUT: &str = "grpc-timeout";

/// Longest id that is taken over into logs and replies.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Names a request: letters, digits and `-_.:/+=@`, at most 128 of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestId(String);

/// A random number: 64 bits, different at each call and in each process. Not for secrets.
pub fn random_number() -> u64 {
    // The standard library's hasher is keyed by the operating system's random numbers, once a
    // process.
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    static CALLS: AtomicU64 = AtomicU64::new(0);
    KEYS.get_or_init(RandomState::new).hash_one(CALLS.fetch_add(1, Ordering::Relaxed))
}

/// Moment at which a call that came in at `received` must be given up: what the client asks for,
/// within the server's limits.
pub fn deadline(
    metadata: &MetadataMap,
    received: Instant,
    limits: &Limits,
) -> Result<Option<Instant>, Violation> {
    let asked = match metadata.get(TIMEOUT) {
        None => limits.default_deadline,
        Some(value) => Some(value.to_str().ok().and_then(parse_timeout).ok_or_else(|| {
            let value = String::from_utf8_lossy(value.as_encoded_bytes()).into_owned();
            Violation::new(
                format!("metadata.{TIMEOUT}"),
                format!(
                    "the timeout {value:?} can't be read; send 1 to 8 digits and a unit of H, M, \
                     S, m, u, n"
                ),
            )
        })?),
    };
    let timeout = match (asked, limits.max_deadline) {
        (Some(asked), Some(longest)) => Some(asked.min(longest)),
        (asked, longest) => asked.or(longest),
    };
    // A deadline beyond what the clock can say is none.
    Ok(timeout.and_then(|timeout| received.checked_add(timeout)))
}

/// Reads a `grpc-timeout` by the gRPC over HTTP/2 protocol.
fn parse_timeout(value: &str) -> Option<Duration> {
    let digits = value.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match value.get(digits.len()..)? {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

// === impl RequestId ===

impl RequestId {
    /// The id that the client sent, if it can be taken over as it is; else a new one.
    pub fn of_call(metadata: &MetadataMap) -> Self {
        let sent = metadata.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        match sent.filter(|id| is_acceptable(id)) {
            Some(id) => Self(id.to_owned()),
            None => Self(format!("{:016x}{:016x}", random_number(), random_number())),
        }
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Puts the id into the metadata of a reply.
    pub fn write_to(&self, metadata: &mut MetadataMap) {
        // Can't fail: the characters of an id are all valid in metadata.
        if let Ok(value) = MetadataValue::try_from(&self.0) {
            metadata.insert(REQUEST_ID, value);
        }
    }
}

fn is_acceptable(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte);
    !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES && id.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &'static str, value: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(key, value.parse().unwrap());
        metadata
    }

    #[test]
    fn reads_timeouts() {
        let cases = [
            ("5S", Some(Duration::from_secs(5))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("1n", Some(Duration::from_nanos(1))),
            ("0S", Some(Duration::ZERO)),
            ("123456789S", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("5 S", None),
            ("5Sm", None),
            ("5\u{e9}", None),
            ("", None),
        ];
        let wrong: Vec<_> =
            cases.iter().filter(|(text, wanted)| parse_timeout(text) != *wanted).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn keeps_deadlines_within_the_limits() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let limits = |default_deadline, max_deadline| Limits {
            default_deadline,
            max_deadline,
            ..Limits::default()
        };
        let none = MetadataMap::new();
        let five = with(TIMEOUT, "5S");
        for (metadata, limits, wanted) in [
            (&none, limits(None, None), None),
            (&none, limits(Some(second), None), Some(now + second)),
            (&none, limits(None, Some(second * 3)), Some(now + second * 3)),
            (&five, limits(Some(second), None), Some(now + second * 5)),
            (&five, limits(None, Some(second * 3)), Some(now + second * 3)),
        ] {
            assert_eq!(
                deadline(metadata, now, &limits).unwrap(),
                wanted,
                "{metadata:?} {limits:?}"
            );
        }
        let refused = deadline(&with(TIMEOUT, "soon"), now, &Limits::default()).unwrap_err();
        assert_eq!(refused.field, "metadata.grpc-timeout");
        assert!(refused.message.contains("\"soon\""), "{refused:?}");
    }

    #[test]
    fn takes_over_good_ids_and_replaces_the_others() {
        let good = "0af7651916cd43dd:edge/7";
        assert_eq!(RequestId::of_call(&with(REQUEST_ID, good)).as_str(), good);
        for bad in ["", "two words", "a\"b", &"x".repeat(129)] {
            let made = RequestId::of_call(&with(REQUEST_ID, bad));
            assert_eq!(made.as_str().len(), 32, "{bad:?} became {made:?}");
        }
        let none = MetadataMap::new();
        assert_ne!(RequestId::of_call(&none), RequestId::of_call(&none));
    }
}
