//! Promise: what streams learn survives in every store, adds up over replicas, and whatever a store
//! holds instead is dropped.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::redis_server::RedisServer;
use proptest::prelude::*;
use skipstone::adapt::store::{
    EmbeddedStore, MAX_RECORD_BYTES, MemoryStore, ProfileKey, ProfileStore, Record, RecordError,
    RecordKey, SharedStore, SharedStoreOptions, load, merge, replace,
};
use skipstone::adapt::{BINS, Counts, Learned, MAX_JUDGED, NGRAM_BINS};
use skipstone::drafting::PlanIdentity;

const DAY: Duration = Duration::from_secs(86_400);

fn key(name: &str) -> RecordKey {
    RecordKey { model: Arc::from("0f".repeat(32)), profile: ProfileKey::of(name) }
}

/// So many drafts of a plan, all in one bin.
fn lessons(plan: u8, judged: usize, accepted: usize) -> Learned {
    let mut learned = Learned::default();
    (0..judged)
        .for_each(|index| learned.observe_plan(PlanIdentity([plan; 16]), 7, index < accepted));
    learned
}

/// Stores keep single precision.
fn as_stored(record: &Record) -> Record {
    Record::from_bytes(&record.to_bytes()).unwrap()
}

fn judged(learned: &Learned, plan: u8) -> f64 {
    learned.plans().get(&PlanIdentity([plan; 16])).map_or(0.0, Counts::total)
}

/// Runs `check` with a store of each kind.
fn with_each_store(check: impl Fn(&mut dyn ProfileStore)) {
    let (folder, server) = (tempfile::tempdir().unwrap(), RedisServer::start());
    check(&mut MemoryStore::new(100));
    check(
        &mut EmbeddedStore::open(&folder.path().join("state").join("learned.redb"), 100).unwrap(),
    );
    check(&mut server.store());
}

#[test]
fn what_is_stored_comes_back_under_its_key_only() {
    with_each_store(|store| {
        let name = store.name();
        assert_eq!(load(store, &key("a")), Ok(None), "{name}");
        let record = replace(store, &key("a"), &lessons(1, 30, 20)).unwrap();
        assert_eq!(load(store, &key("a")), Ok(Some(Ok(as_stored(&record)))), "{name}");
        assert_eq!(load(store, &key("b")), Ok(None), "{name}");
        let other = RecordKey { model: Arc::from("another model"), ..key("a") };
        assert_eq!(load(store, &other), Ok(None), "{name}");
        replace(store, &other, &lessons(1, 1, 1)).unwrap();
        assert_eq!(store.keys(&key("a").model), Ok(vec![ProfileKey::of("a")]), "{name}");
        assert_eq!(store.flush(), Ok(()), "{name}");
        assert_eq!(store.remove(&key("a")), Ok(true), "{name}");
        assert_eq!(store.remove(&key("a")), Ok(false), "{name}");
        assert_eq!(load(store, &key("a")), Ok(None), "{name}");
    });
}

#[test]
fn merging_adds_up_and_old_lessons_fade() {
    with_each_store(|store| {
        let name = store.name();
        for (plan, count) in [(1, 40), (2, 10), (1, 20)] {
            assert_eq!(
                merge(store, &key("a"), &lessons(plan, count, 0), DAY).unwrap().dropped,
                None,
                "{name}"
            );
        }
        let Ok(Some(Ok(record))) = load(store, &key("a")) else { panic!("{name} lost the record") };
        assert!((59.0..=60.0).contains(&judged(&record.learned, 1)), "{name}: {record:?}");
        assert!((9.5..=10.0).contains(&judged(&record.learned, 2)), "{name}: {record:?}");

        let yesterday = Record { updated: record.updated - DAY.as_secs(), ..record.clone() };
        store.update(&key("a"), &mut |_| yesterday.to_bytes()).unwrap();
        let merged = merge(store, &key("a"), &lessons(1, 10, 10), DAY).unwrap().record;
        let expected = 0.5 * judged(&record.learned, 1) + 10.0;
        let found = judged(&merged.learned, 1);
        assert!((found - expected).abs() < 0.3, "{name}: {found}, not {expected}");
    });
}

#[test]
fn what_is_no_record_is_dropped_and_replaced() {
    let sound = Record { updated: 1, learned: lessons(1, 30, 20) }.to_bytes();
    let changed = |place: usize, value: u8| {
        let mut bytes = sound.clone();
        bytes[place] = value;
        bytes
    };
    let cases: [(&str, Vec<u8>, RecordError); 5] = [
        ("damaged", changed(sound.len() - 1, 9), RecordError::Damaged),
        ("of a later version", changed(4, 3), RecordError::Version { found: 3, expected: 2 }),
        ("too large", vec![7; 1 << 20], RecordError::TooLarge { limit: MAX_RECORD_BYTES }),
        ("cut", sound[..sound.len() / 2].to_vec(), RecordError::Damaged),
        ("something else", b"hello".to_vec(), RecordError::Foreign),
    ];
    with_each_store(|store| {
        for (name, bytes, error) in &cases {
            let name = format!("{} in {}", name, store.name());
            store.update(&key("a"), &mut |_| bytes.clone()).unwrap();
            assert_eq!(load(store, &key("a")), Ok(Some(Err(error.clone()))), "{name}");
            let merged = merge(store, &key("a"), &lessons(2, 5, 5), DAY).unwrap();
            assert_eq!(merged.dropped.as_ref(), Some(error), "{name}");
            assert_eq!(merged.record.learned, lessons(2, 5, 5), "{name}");
            assert!(load(store, &key("a")).unwrap().unwrap().is_ok(), "{name}");
        }
    });
}

#[test]
fn a_value_of_another_type_on_the_server_is_dropped_too() {
    let server = RedisServer::start();
    let name = format!("skipstone:learned:{}", key("a"));
    redis::cmd("RPUSH").arg(&name).arg("x").exec(&mut server.connection()).unwrap();
    let mut store = server.store();
    assert_eq!(load(&mut store, &key("a")), Ok(Some(Err(RecordError::Foreign))));
    let merged = merge(&mut store, &key("a"), &lessons(2, 5, 5), DAY).unwrap();
    assert_eq!(merged.dropped, Some(RecordError::Foreign));
    let seconds: i64 = redis::cmd("TTL").arg(&name).query(&mut server.connection()).unwrap();
    assert!((1..=3600).contains(&seconds), "records on a server end by themselves: {seconds}");
}

#[test]
fn replicas_that_write_at_once_lose_nothing() {
    let server = RedisServer::start();
    let writers: Vec<_> = (1..=4)
        .map(|plan| {
            let mut store = server.store();
            std::thread::spawn(move || {
                for _ in 0..25 {
                    while merge(&mut store, &key("a"), &lessons(plan, 2, 1), DAY).is_err() {}
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let record = load(&mut server.store(), &key("a")).unwrap().unwrap().unwrap();
    for plan in 1..=4 {
        assert!(judged(&record.learned, plan) > 48.0, "plan {plan}: {record:?}");
    }
}

#[test]
fn stores_of_this_machine_hold_so_many_records_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let most = 20;
    let stores: [Box<dyn ProfileStore>; 2] = [
        Box::new(MemoryStore::new(most)),
        Box::new(EmbeddedStore::open(&folder.path().join("learned.redb"), most).unwrap()),
    ];
    for mut store in stores {
        let name = store.name();
        for number in 0..50_u64 {
            let record = Record { updated: 1000 + number, learned: lessons(1, 1, 1) };
            store.update(&key(&number.to_string()), &mut |_| record.to_bytes()).unwrap();
            let kept = store.keys(&key("").model).unwrap();
            assert!(kept.len() <= most, "{name}: {} after {number}", kept.len());
            assert!(
                kept.contains(&ProfileKey::of(&number.to_string())),
                "{name} forgot the latest"
            );
        }
        assert!(
            !store.keys(&key("").model).unwrap().contains(&ProfileKey::of("0")),
            "{name} kept the oldest"
        );
    }
}

#[test]
fn the_embedded_store_survives_its_process_and_refuses_what_it_can_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("learned.redb");
    let mut store = EmbeddedStore::open(&path, 10).unwrap();
    let record = replace(&mut store, &key("a"), &lessons(1, 30, 20)).unwrap();
    let second = EmbeddedStore::open(&path, 10).map(drop).unwrap_err().to_string();
    assert!(second.contains("another process") && second.contains("profiles.store"), "{second}");
    drop(store);
    let mut again = EmbeddedStore::open(&path, 10).unwrap();
    assert_eq!(load(&mut again, &key("a")), Ok(Some(Ok(as_stored(&record)))));
    drop(again);
    for garbage in [&b"no database"[..], &[0; 8192]] {
        std::fs::write(&path, garbage).unwrap();
        let error = EmbeddedStore::open(&path, 10).map(drop).unwrap_err().to_string();
        assert!(error.contains("learned.redb") && error.contains("remove the file"), "{error}");
    }
    let error = EmbeddedStore::open(std::path::Path::new("/proc/none/learned.redb"), 10)
        .map(drop)
        .unwrap_err();
    assert!(error.to_string().contains("engine.state_folder"), "{error}");
}

#[test]
fn a_server_with_a_password_wants_it() {
    let server = RedisServer::with(&["--requirepass", "open sesame"]);
    let with = |password: Option<&str>| {
        let password = password.map(str::to_owned);
        SharedStore::new(&SharedStoreOptions { password, ..server.options() }).unwrap()
    };
    assert!(merge(&mut with(Some("open sesame")), &key("a"), &lessons(1, 1, 1), DAY).is_ok());
    for wrong in [None, Some("open wide")] {
        let error = load(&mut with(wrong), &key("a")).unwrap_err().to_string();
        assert!(!error.contains("open wide"), "{error}");
    }
    let options = |url: &str| SharedStoreOptions { url: url.to_owned(), ..server.options() };
    let error = SharedStore::new(&options("http://127.0.0.1")).map(drop).unwrap_err().to_string();
    assert!(error.contains("http://127.0.0.1") && error.contains("profiles.url"), "{error}");
}

fn counts<const N: usize>() -> impl Strategy<Value = Counts<N>> {
    prop::collection::vec((0.0..=1.0_f64, 0.0..=MAX_JUDGED), N).prop_map(|bins| {
        // Single precision, as records keep them.
        let judged = std::array::from_fn(|bin| f64::from(bins[bin].1 as f32));
        let accepted = std::array::from_fn(|bin| {
            f64::from((bins[bin].0 * judged[bin]) as f32).min(judged[bin])
        });
        Counts::new(accepted, judged).unwrap()
    })
}

fn learned() -> impl Strategy<Value = Learned> {
    let plans = prop::collection::btree_map(any::<[u8; 16]>(), counts::<BINS>(), 0..12);
    (plans, counts::<NGRAM_BINS>()).prop_map(|(plans, ngram)| {
        let plans: BTreeMap<_, _> =
            plans.into_iter().map(|(identity, counts)| (PlanIdentity(identity), counts)).collect();
        Learned::new(plans, ngram)
    })
}

proptest! {
    #[test]
    fn records_read_back_as_written(updated: u64, learned in learned()) {
        let record = Record { updated, learned };
        prop_assert_eq!(Record::from_bytes(&record.to_bytes()), Ok(record));
    }

    #[test]
    fn sums_of_records_are_records(first in learned(), second in learned(), share in 0.0..=1.0_f64) {
        let mut sum = first;
        sum.fade(share);
        sum.add(&second);
        let bytes = Record { updated: 0, learned: sum }.to_bytes();
        prop_assert!(Record::from_bytes(&bytes).is_ok());
    }

    #[test]
    fn damage_is_seen(learned in learned(), place: prop::sample::Index, flip in 1..=255_u8) {
        let mut bytes = Record { updated: 5, learned }.to_bytes();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        prop_assert!(Record::from_bytes(&bytes).is_err(), "byte {}", place);
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Record::from_bytes(&bytes).is_err());
        let mut headed = b"SKSL\x01\x00".to_vec();
        headed.extend(bytes);
        prop_assert!(Record::from_bytes(&headed).is_err());
    }
}
