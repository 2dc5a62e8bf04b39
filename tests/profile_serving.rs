//! Promise: streams start from what is known of their traffic, replicas share it, and no store can
//! cost more than speed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
mod server_fixture;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use common::engine::{Outcome, generate, options, prompt, request, start};
use common::redis_server::RedisServer;
use common::tiny_model::{Loaded, TinyModel};
use common::weights::Random;
use server_fixture::{Fixture, spec};
use skipstone::adapt::store::{
    EmbeddedStore, MemoryStore, ProfileKey, ProfileStore, Record, RecordKey, StoreError, merge,
};
use skipstone::adapt::{Allowed, BINS, Counts, FrontierPlan, Learned, NGRAM_BINS, PlanKnowledge};
use skipstone::drafting::{DraftPlan, SkipSet};
use skipstone::engine::{
    Engine, EngineOptions, FETCH_BUDGET, ProfileOptions, Profiles, Speculation, Traffic,
    ValidRequest,
};
use skipstone::model::TokenId;
use skipstone::server::wire;

const MODEL_NAME: &str = "a fingerprint";
const VOCABULARY: usize = 48;
const DAY: Duration = Duration::from_secs(86_400);

/// No test waits for it: what is to be written is flushed.
const LONG: Duration = Duration::from_secs(600);

static MODEL: LazyLock<Loaded> = LazyLock::new(|| TinyModel::default().load());

/// An engine with its keeper. The engine goes first.
struct Replica {
    engine: Engine,
    profiles: Arc<Profiles>,
    asynchronous: tokio::runtime::Runtime,
}

fn plans() -> Vec<FrontierPlan> {
    [(&[2][..], 0.8), (&[1, 2, 3], 0.4)]
        .map(|(layers, cost)| FrontierPlan {
            name: format!("{layers:?}"),
            plan: Arc::new(DraftPlan::new(SkipSet::new(layers, layers, 6).unwrap(), 0.0)),
            profile_tokens: 0,
            knowledge: PlanKnowledge::unknown(cost),
        })
        .into()
}

fn keeper(store: Box<dyn ProfileStore>) -> Profiles {
    let options = ProfileOptions { model: MODEL_NAME.into(), half_life: DAY, write_back: LONG };
    Profiles::start(store, options).unwrap()
}

fn replica(store: Box<dyn ProfileStore>) -> Replica {
    let profiles = Arc::new(keeper(store));
    let frontier = plans();
    let options = EngineOptions { frontier, profiles: Some(profiles.link()), ..options(&MODEL) };
    let asynchronous = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Replica { engine: start(&MODEL, options), profiles, asynchronous }
}

fn record_key(name: &str) -> RecordKey {
    RecordKey { model: MODEL_NAME.into(), profile: ProfileKey::of(name) }
}

fn prompt_of(seed: u64) -> Vec<TokenId> {
    prompt(20, VOCABULARY, &mut Random(seed + 1))
}

/// Bets whatever the odds, so that each stream teaches; or as the odds say.
fn betting(seed: u64, always: bool) -> ValidRequest {
    let allowed = Allowed { always, ..Allowed::default() };
    request(&prompt_of(seed), 40, Speculation::Adaptive { max_draft_tokens: Some(4), allowed })
}

fn plainly(replica: &Replica, seed: u64) -> Vec<TokenId> {
    generate(&replica.engine, request(&prompt_of(seed), 40, Speculation::Off)).unwrap().tokens
}

// === impl Replica ===

impl Replica {
    /// As the server does it: asks what is known of the traffic, and submits.
    fn serve(&self, name: &str, request: ValidRequest) -> Outcome {
        let traffic = self.traffic(name);
        generate(&self.engine, ValidRequest { traffic, ..request }).unwrap()
    }

    fn traffic(&self, name: &str) -> Traffic {
        self.asynchronous.block_on(self.profiles.traffic(ProfileKey::of(name)))
    }

    fn flush(&self) {
        self.asynchronous.block_on(self.profiles.flush()).unwrap();
    }

    fn judged(&self, name: &str) -> f64 {
        let record = self.asynchronous.block_on(self.profiles.get(ProfileKey::of(name))).unwrap();
        record.map_or(0.0, |record| record.learned.judged())
    }
}

#[test]
fn a_stream_starts_from_what_the_last_of_its_key_taught() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("learned.redb");
    let open = || Box::new(EmbeddedStore::open(&path, 100).unwrap());
    let first = replica(open());
    assert_eq!(first.traffic("a").learned, None);
    first.serve("a", betting(1, true));
    first.serve("", betting(2, true));
    first.serve("a", ValidRequest { teaches: false, ..betting(3, true) });
    first.flush();
    let (of_a, of_all) = (first.judged("a"), first.judged(""));
    assert!(of_a > 20.0 && of_all > of_a + 20.0 && of_all < 3.0 * of_a, "{of_a} of {of_all}");
    let known = first.traffic("a").learned.unwrap();
    assert!((known.judged() - of_a).abs() < 0.1, "{known:?}");
    drop(first);

    let second = replica(open());
    let known = second.traffic("a").learned.unwrap();
    assert!((known.judged() - of_a).abs() < 0.1, "after a start: {known:?}");
    assert_eq!(second.traffic("b").learned, None, "a key of its own");
    assert_eq!(second.traffic("").learned, None, "the pool is the engine's already");
    second.flush();
    let _ = second.asynchronous.block_on(second.profiles.delete(ProfileKey::of("a"))).unwrap();
    assert_eq!(second.judged("a"), 0.0);
    drop(second);
    let bytes = std::fs::read(&path).unwrap();
    assert!(!bytes.is_empty());
}

#[test]
fn the_end_of_the_process_writes_what_was_learned_last() {
    let server = RedisServer::start();
    let replica = replica(Box::new(server.store()));
    replica.serve("a", betting(1, true));
    drop(replica);
    let record =
        Record::from_bytes(&server.store().read(&record_key("a")).unwrap().unwrap()).unwrap();
    assert!(record.learned.judged() > 20.0, "{record:?}");
}

#[test]
fn replicas_learn_from_each_other() {
    let server = RedisServer::start();
    let replicas = [replica(Box::new(server.store())), replica(Box::new(server.store()))];
    for seed in 0..6 {
        replicas[0].serve("a", betting(seed, true));
        replicas[1].serve("b", betting(100 + seed, true));
    }
    replicas.iter().for_each(Replica::flush);
    let (a, b) = (replicas[1].judged("a"), replicas[0].judged("b"));
    assert!(a > 100.0 && b > 100.0, "each sees the other's traffic: {a} {b}");
    let pools = replicas.each_ref().map(|replica| replica.judged(""));
    assert!((pools[0] - pools[1]).abs() < 0.1, "and they agree: {pools:?}");
    assert!(
        pools[0] > 0.8 * (a + b) && pools[0] <= a + b,
        "on the sum of both: {pools:?}, {a} + {b}"
    );
    // The traffic of the one starts warm on the other.
    assert!((replicas[1].traffic("a").learned.unwrap().judged() - a).abs() < 0.1);
}

#[test]
fn a_server_that_dies_costs_no_request_and_gets_the_lessons_when_it_is_back() {
    let mut server = RedisServer::start();
    let replica = replica(Box::new(server.store()));
    for seed in 0..12_u64 {
        if seed == 4 {
            server.kill();
        }
        let asked = Instant::now();
        // Known keys and new ones.
        let traffic = replica.traffic(if seed % 2 == 0 {
            "a"
        } else {
            ["b", "c", "d", "e", "f", "g"][seed as usize / 2]
        });
        assert!(
            asked.elapsed() < FETCH_BUDGET + Duration::from_millis(200),
            "{seed}: {:?}",
            asked.elapsed()
        );
        let outcome =
            generate(&replica.engine, ValidRequest { traffic, ..betting(seed, true) }).unwrap();
        assert_eq!(outcome.tokens, plainly(&replica, seed), "stream {seed}");
    }
    assert!(replica.traffic("a").learned.is_some(), "memory goes on");
    assert!(replica.asynchronous.block_on(replica.profiles.flush()).is_err());
    server.come_back();
    replica.flush();
    assert!(replica.judged("a") > 100.0, "{}", replica.judged("a"));
}

#[test]
fn what_a_store_says_changes_no_output() {
    let counts = |share: f64| Counts::new([share * 2000.0; BINS], [2000.0; BINS]).unwrap();
    let ngram =
        |share: f64| Counts::new([share * 2000.0; NGRAM_BINS], [2000.0; NGRAM_BINS]).unwrap();
    let mut bets = Vec::new();
    for (pool, own) in [(1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.9, 0.1)] {
        let mut store = MemoryStore::new(100);
        for (name, share) in [("", pool), ("a", own)] {
            let of_plan = |plan: FrontierPlan| (plan.plan.identity(), counts(share));
            let learned = Learned::new(plans().into_iter().map(of_plan).collect(), ngram(share));
            merge(&mut store, &record_key(name), &learned, DAY).unwrap();
        }
        let replica = replica(Box::new(store));
        let mut drafted = 0;
        for seed in 0..8 {
            let outcome = replica.serve("a", betting(seed, false));
            assert_eq!(
                outcome.tokens,
                plainly(&replica, seed),
                "pool {pool}, own {own}, stream {seed}"
            );
            drafted += outcome.finished.speculation.draft_tokens;
        }
        bets.push(drafted);
    }
    assert!(bets[0] > bets[1], "but it changes the bets: {bets:?}");
}

/// A store that answers when the test says so.
struct SlowStore(Receiver<()>);

impl ProfileStore for SlowStore {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn read(&mut self, key: &RecordKey) -> Result<Option<Vec<u8>>, StoreError> {
        if key.profile != ProfileKey::pool() {
            let _ = self.0.recv();
        }
        let mut learned = Learned::default();
        learned.observe_ngram(3, true);
        Ok(Some(Record { updated: u64::MAX, learned }.to_bytes()))
    }

    fn update(
        &mut self,
        _: &RecordKey,
        change: &mut dyn FnMut(Option<&[u8]>) -> Vec<u8>,
    ) -> Result<(), StoreError> {
        change(None);
        Ok(())
    }

    fn remove(&mut self, _: &RecordKey) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn keys(&mut self, _: &str) -> Result<Vec<ProfileKey>, StoreError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_slow_store_delays_a_stream_by_its_budget_only() {
    let (answer, answers): (Sender<()>, _) = channel();
    let profiles = keeper(Box::new(SlowStore(answers)));
    let key = ProfileKey::of("a");
    let asked = Instant::now();
    assert_eq!(profiles.traffic(key).await.learned, None, "it starts cold");
    let waited = asked.elapsed();
    assert!(
        waited >= FETCH_BUDGET && waited < FETCH_BUDGET + Duration::from_millis(200),
        "{waited:?}"
    );
    answer.send(()).unwrap();
    // The keeper answers in turn, so what it was asked before is done.
    profiles.list().await.unwrap();
    assert!(profiles.traffic(key).await.learned.is_some(), "what came late serves the next");
}

#[tokio::test]
async fn the_server_hashes_the_key_and_hands_on_what_is_known() {
    let mut store = MemoryStore::new(10);
    let mut learned = Learned::default();
    learned.observe_ngram(3, true);
    merge(&mut store, &record_key("tenant 7"), &learned, DAY).unwrap();
    let profiles = Some(Arc::new(keeper(Box::new(store))));
    let fixture =
        Fixture::with(skipstone::server::ServerOptions { profiles, ..server_fixture::options() })
            .await;
    let mut client = fixture.client().await;
    let modes = [wire::SpeculationMode::Unspecified, wire::SpeculationMode::Off];
    for (mode, key) in
        [(modes[0], "tenant 7"), (modes[0], "tenant 8"), (modes[0], ""), (modes[1], "tenant 7")]
    {
        let speculation = wire::SpeculationParams {
            mode: mode.into(),
            profile_key: key.to_owned(),
            ..Default::default()
        };
        let spec = wire::GenerationSpec { speculation: Some(speculation), ..spec(&[1, 2]) };
        client.generate(wire::GenerateRequest { spec: Some(spec) }).await.unwrap();
    }
    let requests = fixture.engine.requests();
    let keys = requests.iter().map(|request| request.traffic.key);
    assert!(keys.eq(["tenant 7", "tenant 8", "", "tenant 7"].map(ProfileKey::of)), "{requests:?}");
    let known: Vec<bool> =
        requests.iter().map(|request| request.traffic.learned.is_some()).collect();
    assert_eq!(known, [true, false, false, false], "nobody asks for a stream that drafts nothing");
    assert!(!format!("{requests:?}").contains("tenant"), "the key itself went on");
}

#[test]
fn no_store_ever_sees_a_key() {
    let (server, folder) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let path = folder.path().join("learned.redb");
    let stores: [Box<dyn ProfileStore>; 2] =
        [Box::new(server.store()), Box::new(EmbeddedStore::open(&path, 10).unwrap())];
    for store in stores {
        replica(store).serve("tenant-7", betting(1, true));
    }
    let mut connection = server.connection();
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    let values =
        names.iter().map(|name| redis::cmd("GET").arg(name).query(&mut connection).unwrap());
    let mut seen: BTreeMap<String, Vec<u8>> = names.iter().cloned().zip(values).collect();
    assert_eq!(seen.len(), 2, "the key's and the pool's: {:?}", seen.keys());
    seen.insert("the file".to_owned(), std::fs::read(&path).unwrap());
    for (name, bytes) in seen {
        let text = format!("{name} {}", String::from_utf8_lossy(&bytes));
        assert!(!text.contains("tenant"), "{text}");
    }
}
