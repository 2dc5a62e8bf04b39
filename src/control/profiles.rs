//! What streams have learned, for operators: to look at, to carry elsewhere, to forget.

use std::sync::Arc;

use tonic::{Code, Status};

use crate::server::wire;
use skipstone_engine::adapt::Counts;
use skipstone_engine::adapt::store::{ProfileKey, Record};
use skipstone_engine::{Profiles, ProfilesError};

/// The keeper of profiles, or none.
#[derive(Clone)]
pub(super) struct ProfileControl(pub(super) Option<Arc<Profiles>>);

// === impl ProfileControl ===

impl ProfileControl {
    pub(super) async fn list(&self) -> Result<wire::ListProfilesResponse, Status> {
        let profiles = self.profiles()?;
        let keys = profiles.list().await.map_err(status)?;
        Ok(wire::ListProfilesResponse {
            key_hashes: keys.iter().map(ProfileKey::to_string).collect(),
            pool_key_hash: ProfileKey::pool().to_string(),
            store: profiles.store().to_owned(),
        })
    }

    pub(super) async fn get(&self, key_hash: &str) -> Result<wire::GetProfileResponse, Status> {
        let Record { updated, learned } = self.record(key_hash).await?;
        let plans = learned.plans().iter().map(|(identity, counts)| wire::LearnedPlan {
            identity: identity.0.iter().map(|byte| format!("{byte:02x}")).collect(),
            drafts: Some(drafts(counts)),
        });
        Ok(wire::GetProfileResponse {
            updated_unix_seconds: updated,
            plans: plans.collect(),
            ngram: Some(drafts(learned.ngram())),
        })
    }

    pub(super) async fn export(
        &self,
        key_hash: &str,
    ) -> Result<wire::ExportProfileResponse, Status> {
        Ok(wire::ExportProfileResponse { record: self.record(key_hash).await?.to_bytes() })
    }

    pub(super) async fn put(
        &self,
        key_hash: &str,
        record: &[u8],
    ) -> Result<wire::PutProfileResponse, Status> {
        let key = key_of(key_hash)?;
        let record = Record::from_bytes(record).map_err(|error| {
            Status::invalid_argument(format!(
                "the record can't be used: {error}; send what ExportProfile returned"
            ))
        })?;
        self.profiles()?.put(key, record.learned).await.map_err(status)?;
        tracing::info!(%key, "a profile was replaced");
        Ok(wire::PutProfileResponse {})
    }

    pub(super) async fn delete(
        &self,
        key_hash: &str,
    ) -> Result<wire::DeleteProfileResponse, Status> {
        let key = key_of(key_hash)?;
        if !self.profiles()?.delete(key).await.map_err(status)? {
            return Err(missing(key));
        }
        tracing::info!(%key, "a profile was deleted");
        Ok(wire::DeleteProfileResponse {})
    }

    async fn record(&self, key_hash: &str) -> Result<Record, Status> {
        let key = key_of(key_hash)?;
        self.profiles()?.get(key).await.map_err(status)?.ok_or_else(|| missing(key))
    }

    fn profiles(&self) -> Result<&Profiles, Status> {
        self.0
            .as_deref()
            .ok_or_else(|| Status::failed_precondition("this replica keeps no profiles"))
    }
}

fn key_of(key_hash: &str) -> Result<ProfileKey, Status> {
    if key_hash.is_empty() {
        return Ok(ProfileKey::pool());
    }
    ProfileKey::from_hex(key_hash).ok_or_else(|| {
        // Not repeated: whoever sent the key itself should not find it in a log.
        let length = key_hash.len();
        Status::invalid_argument(format!(
            "the key hash has {length} bytes, or other than hexadecimal digits; send 64 of them, as ListProfiles returns, or none for the pool"
        ))
    })
}

fn missing(key: ProfileKey) -> Status {
    Status::not_found(format!("nothing is known under {key}; ListProfiles names what is"))
}

fn status(error: ProfilesError) -> Status {
    Status::new(Code::Unavailable, error.to_string())
}

fn drafts<const N: usize>(counts: &Counts<N>) -> wire::JudgedDrafts {
    wire::JudgedDrafts { judged: counts.judged().to_vec(), accepted: counts.accepted().to_vec() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use skipstone_engine::ProfileOptions;
    use skipstone_engine::adapt::Learned;
    use skipstone_engine::adapt::store::MemoryStore;
    use skipstone_engine::drafting::PlanIdentity;

    fn control() -> ProfileControl {
        let day = Duration::from_secs(86_400);
        let options =
            ProfileOptions { model: "a fingerprint".into(), half_life: day, write_back: day };
        ProfileControl(Some(Arc::new(
            Profiles::start(Box::new(MemoryStore::new(10)), options).unwrap(),
        )))
    }

    fn record() -> Record {
        let mut learned = Learned::default();
        (0..4).for_each(|index| learned.observe_plan(PlanIdentity([0xab; 16]), 9, index > 0));
        Record { updated: 0, learned }
    }

    #[tokio::test]
    async fn a_profile_travels_from_replica_to_replica() {
        let (here, there) = (control(), control());
        let key = ProfileKey::of("tenant 7").to_string();
        here.put(&key, &record().to_bytes()).await.unwrap();
        let exported = here.export(&key).await.unwrap().record;
        there.put(&key, &exported).await.unwrap();
        let listed = there.list().await.unwrap();
        assert_eq!((listed.key_hashes, listed.store.as_str()), (vec![key.clone()], "memory"));
        let profile = there.get(&key).await.unwrap();
        assert!(profile.updated_unix_seconds > 0, "it is written now");
        assert_eq!(profile.plans[0].identity, "ab".repeat(16));
        let drafts = profile.plans[0].drafts.clone().unwrap();
        assert!(
            (3.9..=4.0).contains(&drafts.judged[9]) && (2.9..=3.0).contains(&drafts.accepted[9]),
            "{drafts:?}"
        );
        there.delete(&key).await.unwrap();
        assert_eq!(there.get(&key).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(there.delete(&key).await.unwrap_err().code(), Code::NotFound);
        // The pool has the empty name.
        there.put("", &exported).await.unwrap();
        let listed = there.list().await.unwrap();
        assert_eq!(listed.key_hashes, std::slice::from_ref(&listed.pool_key_hash));
        assert!(there.get(&listed.pool_key_hash).await.is_ok());
    }

    #[tokio::test]
    async fn what_can_not_be_is_refused_with_the_remedy() {
        let key = ProfileKey::of("a").to_string();
        let sound = record().to_bytes();
        let mut damaged = sound.clone();
        damaged[30] ^= 1;
        for (name, control, key, record, code, says) in [
            ("a key", control(), "tenant 7", &sound, Code::InvalidArgument, "ListProfiles"),
            ("a damaged record", control(), &key, &damaged, Code::InvalidArgument, "ExportProfile"),
            (
                "nobody keeps any",
                ProfileControl(None),
                &key,
                &sound,
                Code::FailedPrecondition,
                "keeps no",
            ),
        ] {
            let status = control.put(key, record).await.unwrap_err();
            assert_eq!(status.code(), code, "{name}: {status:?}");
            assert!(
                status.message().contains(says) && !status.message().contains("tenant"),
                "{name}: {status:?}"
            );
        }
    }
}
