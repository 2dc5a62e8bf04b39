//! A record as bytes: magic number, version, checksum, and what was learned as a protobuf message.
//!
//! Bytes come from stores that others write to, so nothing in them is believed: sizes are bounded
//! first, then the checksum tells damage, then every number must be possible.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;
use sha2::{Digest, Sha256};

use super::super::counts::Counts;
use super::super::learned::{Learned, MAX_PLANS, NGRAM_BINS};
use crate::drafting::PlanIdentity;

/// A longer record is refused. One of the most plans takes half of it.
pub const MAX_RECORD_BYTES: usize = 16 * 1024;

const MAGIC: [u8; 4] = *b"SKSL";

/// Another version is refused: what it held is soon learned anew.
const VERSION: u16 = 2;

const CHECKSUM_BYTES: usize = 8;

/// Magic number, version, seconds of the last change, checksum.
const HEADER_BYTES: usize = 4 + 2 + 8 + CHECKSUM_BYTES;

/// What was learned of some traffic, and when.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Record {
    /// Seconds since 1970.
    pub updated: u64,
    /// As of then.
    pub learned: Learned,
}

/// Why bytes are no record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Too many of them.
    #[error("it has more than {limit} bytes")]
    TooLarge {
        /// The most.
        limit: usize,
    },
    /// Something else.
    #[error("it is not one of ours")]
    Foreign,
    /// Written by another version.
    #[error("it has version {found}, this program reads version {expected}")]
    Version {
        /// The record's.
        found: u16,
        /// Ours.
        expected: u16,
    },
    /// The checksum is wrong.
    #[error("it is damaged: its checksum is wrong")]
    Damaged,
    /// The checksum is right, and it makes no sense.
    #[error("it holds {0}")]
    Impossible(&'static str),
}

#[derive(Clone, PartialEq, Message)]
struct Body {
    #[prost(message, repeated, tag = "1")]
    plans: Vec<PlanBody>,
    #[prost(message, optional, tag = "2")]
    ngram: Option<CountsBody>,
}

#[derive(Clone, PartialEq, Message)]
struct PlanBody {
    #[prost(bytes = "vec", tag = "1")]
    identity: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    counts: Option<CountsBody>,
}

/// Single precision: counts are estimates.
#[derive(Clone, PartialEq, Message)]
struct CountsBody {
    #[prost(float, repeated, tag = "1")]
    accepted: Vec<f32>,
    #[prost(float, repeated, tag = "2")]
    judged: Vec<f32>,
}

// === impl Record ===

impl Record {
    /// The bytes to store.
    pub fn to_bytes(&self) -> Vec<u8> {
        let plan = |(identity, counts): (&PlanIdentity, &Counts<_>)| PlanBody {
            identity: identity.0.to_vec(),
            counts: Some(CountsBody::of(counts)),
        };
        let body = Body {
            plans: self.learned.plans().iter().map(plan).collect(),
            ngram: Some(CountsBody::of(self.learned.ngram())),
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.updated.to_le_bytes());
        let body = body.encode_to_vec();
        bytes.extend(checksum(&bytes, &body));
        bytes.extend(body);
        bytes
    }

    /// Reads and checks what [`Record::to_bytes`] made, whatever it is now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge { limit: MAX_RECORD_BYTES });
        }
        let (magic, rest) = bytes.split_first_chunk().ok_or(RecordError::Foreign)?;
        let (version, _) = rest.split_first_chunk().ok_or(RecordError::Foreign)?;
        if *magic != MAGIC {
            return Err(RecordError::Foreign);
        }
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(RecordError::Version { found: version, expected: VERSION });
        }
        let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or(RecordError::Damaged)?;
        let (checked, sum) = header.split_at(HEADER_BYTES - CHECKSUM_BYTES);
        if sum != checksum(checked, body) {
            return Err(RecordError::Damaged);
        }
        let body = Body::decode(body)
            .map_err(|_| RecordError::Impossible("something else than what was learned"))?;
        if body.plans.len() > MAX_PLANS {
            return Err(RecordError::Impossible("more plans than are kept"));
        }
        let mut plans = BTreeMap::new();
        for PlanBody { identity, counts } in body.plans {
            let identity = identity
                .try_into()
                .map_err(|_| RecordError::Impossible("a plan without identity"))?;
            plans.insert(PlanIdentity(identity), CountsBody::checked(counts)?);
        }
        let ngram: Counts<NGRAM_BINS> = CountsBody::checked(body.ngram)?;
        Ok(Self { updated: updated_of(bytes), learned: Learned::new(plans, ngram) })
    }

    /// The record as of `now`: it counts half as much for each `half_life` since it was written. A
    /// record from the future, by another machine's clock, counts in full.
    pub fn faded(mut self, now: u64, half_life: Duration) -> Self {
        let age = now.saturating_sub(self.updated) as f64;
        self.learned.fade((-age / half_life.as_secs_f64().max(1.0)).exp2());
        self.updated = now;
        self
    }
}

/// When the record of these bytes was written, in seconds since 1970; 0 for anything else. For
/// choosing what to forget, so not checked.
pub(super) fn updated_of(bytes: &[u8]) -> u64 {
    bytes
        .get(6..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |seconds| u64::from_le_bytes(*seconds))
}

fn checksum(header: &[u8], body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = Sha256::new_with_prefix(header).chain_update(body).finalize();
    std::array::from_fn(|index| hash[index])
}

// === impl CountsBody ===

impl CountsBody {
    fn of<const N: usize>(counts: &Counts<N>) -> Self {
        let single = |counts: &[f64; N]| counts.iter().map(|&count| count as f32).collect();
        Self { accepted: single(counts.accepted()), judged: single(counts.judged()) }
    }

    fn checked<const N: usize>(body: Option<Self>) -> Result<Counts<N>, RecordError> {
        let Self { accepted, judged } =
            body.ok_or(RecordError::Impossible("no counts where some belong"))?;
        let double = |counts: Vec<f32>| -> Option<[f64; N]> {
            let counts: [f32; N] = counts.try_into().ok()?;
            Some(counts.map(f64::from))
        };
        double(accepted)
            .zip(double(judged))
            .and_then(|(accepted, judged)| Counts::new(accepted, judged))
            .ok_or(RecordError::Impossible("counts that can't be"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(plans: usize, counts: &CountsBody) -> Vec<u8> {
        let plan = |index: usize| PlanBody {
            identity: vec![index as u8; 16],
            counts: Some(counts.clone()),
        };
        let ngram =
            Some(CountsBody { accepted: vec![0.0; NGRAM_BINS], judged: vec![0.0; NGRAM_BINS] });
        sealed(VERSION, &Body { plans: (0..plans).map(plan).collect(), ngram }.encode_to_vec())
    }

    /// A record with the right checksum, whatever its body.
    fn sealed(version: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend(7_u64.to_le_bytes());
        bytes.extend(checksum(&bytes, body));
        bytes.extend(body);
        bytes
    }

    #[test]
    fn what_can_not_be_is_refused_though_its_checksum_is_right() {
        let counts = |accepted: f32, judged: f32, bins: usize| CountsBody {
            accepted: vec![accepted; bins],
            judged: vec![judged; bins],
        };
        assert!(Record::from_bytes(&body(MAX_PLANS, &counts(1.0, 2.0, 10))).is_ok());
        let large = sealed(VERSION, &vec![0; MAX_RECORD_BYTES]);
        for (name, bytes, error) in [
            ("more accepted than judged", body(1, &counts(2.0, 1.0, 10)), "counts that can't be"),
            ("not a number", body(1, &counts(f32::NAN, f32::NAN, 10)), "counts that can't be"),
            ("infinite", body(1, &counts(1.0, f32::INFINITY, 10)), "counts that can't be"),
            ("too heavy", body(1, &counts(1.0, 1e6, 10)), "counts that can't be"),
            ("bins missing", body(1, &counts(1.0, 2.0, 9)), "counts that can't be"),
            ("too many plans", body(MAX_PLANS + 1, &counts(0.0, 0.0, 10)), "more plans"),
            ("no counts", sealed(VERSION, &[]), "no counts"),
            ("no message", sealed(VERSION, &[0xff; 9]), "something else"),
            (
                "a later version",
                sealed(VERSION + 1, &[]),
                "version 3, this program reads version 2",
            ),
            ("too large", large, "more than 16384 bytes"),
            ("foreign", b"{\"updated\": 1}".to_vec(), "not one of ours"),
            ("empty", Vec::new(), "not one of ours"),
        ] {
            let found = Record::from_bytes(&bytes).unwrap_err().to_string();
            assert!(found.contains(error), "{name}: {found}");
        }
    }

    #[test]
    fn the_largest_record_fits() {
        let counts = CountsBody { accepted: vec![1.5; 10], judged: vec![2.5; 10] };
        let bytes = body(MAX_PLANS, &counts);
        assert!(bytes.len() < MAX_RECORD_BYTES / 2 + 2048, "{}", bytes.len());
        assert_eq!(updated_of(&bytes), 7);
        assert_eq!(updated_of(&bytes[..9]), 0);
    }

    #[test]
    fn records_fade_by_half_lives_and_the_future_does_not() {
        let mut learned = Learned::default();
        (0..100).for_each(|_| learned.observe_ngram(0, true));
        let record = Record { updated: 1000, learned };
        let before = record.learned.judged();
        let half_life = Duration::from_secs(100);
        for (now, share) in [(1000, 1.0), (1100, 0.5), (1200, 0.25), (0, 1.0), (u64::MAX, 0.0)] {
            let faded = record.clone().faded(now, half_life);
            assert!((faded.learned.judged() - share * before).abs() < 1e-6, "at {now}: {faded:?}");
            assert_eq!(faded.updated, now);
            assert!(Record::from_bytes(&faded.to_bytes()).is_ok(), "at {now}");
        }
    }
}
