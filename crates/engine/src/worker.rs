//! The engine thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::activity::Activity;
use super::batch;
use super::betting::Betting;
use super::board::Board;
use super::cost::{Company, CostFile, CostModel, PassLog};
use super::event::GenerationError;
use super::lab::SparePages;
use super::options::EngineOptions;
use super::outbox::Delivery;
use super::queue::{Queue, queue};
use super::stream::Stream;
use super::thread::Engine;
use crate::adapt::Seat;
use crate::drafting::SharedStates;
use crate::record;
use skipstone_model::text::TextModel;
use skipstone_model::{Model, PagePool, Runner, RunnerOptions};

/// Time that the thread sleeps when every stream waits for its reader.
const READER_POLL: Duration = Duration::from_millis(1);

/// Streams that may be held for each place in the batch, those included that wait for nothing but
/// their readers.
const LATE_READERS: usize = 4;

struct Worker {
    runner: Runner,
    pages: PagePool,
    spare: SparePages,
    text: Arc<TextModel>,
    options: EngineOptions,
    betting: Betting,
    /// State that streams of a policy share.
    shared: SharedStates,
    queue: Queue,
    running: Vec<Stream>,
    board: Board,
}

// === impl Engine ===

impl Engine {
    /// Allocates the cache, measures the plain step and starts the thread.
    ///
    /// # Errors
    /// If the system refuses a thread, or the file that passes are to be written to.
    pub fn start(
        model: Arc<Model>,
        text: Arc<TextModel>,
        options: EngineOptions,
    ) -> std::io::Result<Self> {
        let total_pages = PagePool::pages_for(options.kv_cache_tokens);
        let spare = SparePages::new(total_pages);
        let (threads, kv_precision) = (options.threads, options.kv_precision);
        let runner_options = RunnerOptions {
            pages: total_pages + SparePages::COUNT,
            threads,
            kv_precision,
            stand_in_layers: stand_in_layers(&options.frontier),
            ..RunnerOptions::default()
        };
        let mut runner = Runner::with_options(model, runner_options);
        let pages = PagePool::new(total_pages);
        let kept = options.cost_file.as_ref().and_then(CostFile::read);
        let most_rows = options.prefill_tokens_per_step + options.max_streams;
        let costs = CostModel::measure(&mut runner, &pages, most_rows, kept.as_ref());
        record::plain_step_seconds(costs.plain_seconds(0, Company::default()));
        let log =
            options.pass_log.as_ref().map(|path| PassLog::create(path, &costs)).transpose()?;
        let (entrance, queue) = queue(options.max_waiting, options.event_buffer);
        let mut betting = Betting::new(options.frontier.clone(), runner.model(), costs);
        betting.knowledge.set_mechanisms(options.mechanisms);
        log.into_iter().for_each(|log| betting.log_passes(log));
        let board = Board::new();
        let observer = board.observer();
        let mut worker = Worker {
            runner,
            pages,
            spare,
            text,
            betting,
            shared: SharedStates::default(),
            queue,
            running: Vec::with_capacity(options.max_streams),
            options,
            board,
        };
        Self::spawn(entrance, observer, move || worker.run())
    }
}

// === impl Worker ===

impl Worker {
    fn run(&mut self) {
        while self.receive() {
            self.sweep();
            self.admit();
            self.report();
            let mut ready: Vec<&mut Stream> = Vec::with_capacity(self.running.len());
            let now = Instant::now();
            for stream in &mut self.running {
                if stream.outbox.flush(now) == Delivery::Done {
                    ready.push(stream);
                }
            }
            let budget = self.options.prefill_tokens_per_step;
            let worked = batch::step(&mut self.runner, &mut ready, budget, &mut self.betting);
            for stream in ready {
                if stream.is_decoding() {
                    stream.study(&mut self.runner, &self.spare, &self.betting);
                }
                stream.outbox.flush(now);
            }
            if !worked && !self.running.is_empty() {
                std::thread::sleep(READER_POLL);
            }
        }
        let now = Instant::now();
        for stream in &mut self.running {
            if !stream.is_finished() {
                stream.fail(GenerationError::ShuttingDown);
            } else if stream.outbox.flush(now) != Delivery::Done {
                // It has been counted; only its reader is late.
                stream.outbox.fail(GenerationError::ShuttingDown);
            }
        }
        self.queue.shut_down();
        self.running.clear();
        self.report();
        self.show();
        self.board.set_idle(true);
        if let Some(file) = &self.options.cost_file
            && let Err(error) = file.write(&self.betting.costs)
        {
            tracing::warn!(path = %file.path.display(), %error, "what passes cost could not be kept; see engine.state_folder");
        }
    }

    /// Takes new requests; blocks while there is nothing else to do. Returns false when the engine
    /// shall end.
    fn receive(&mut self) -> bool {
        if self.running.is_empty() && self.queue.is_empty() {
            self.show();
            self.board.set_idle(true);
            self.queue.block();
            self.board.set_idle(false);
        }
        self.queue.receive()
    }

    /// Drops what has ended, was cancelled, is too late or is not read.
    fn sweep(&mut self) {
        let now = Instant::now();
        let stall_timeout = self.options.stall_timeout;
        let (board, betting) = (&mut self.board, &self.betting);
        let stays = |stream: &mut Stream| {
            if stream.cancel.is_set() && !stream.is_finished() {
                stream.abandon(now);
                return false;
            }
            if stream.is_expired(now) {
                let error = stream.deadline_error();
                stream.fail(error);
            }
            match stream.outbox.flush(now) {
                Delivery::Done => !stream.is_finished(),
                Delivery::Blocked(time) if time >= stall_timeout => {
                    // One whose last token is committed has been counted; only its reader is late.
                    if !stream.is_finished() {
                        stream.fail(GenerationError::ReaderStalled {
                            seconds: stall_timeout.as_secs(),
                        });
                    }
                    false
                }
                Delivery::Blocked(_) => true,
                Delivery::Gone => {
                    if !stream.is_finished() {
                        stream.abandon(now);
                    }
                    false
                }
            }
        };
        self.running.retain_mut(|stream| {
            let stays = stays(stream);
            if !stays {
                board.retire(stream.activity(betting));
            }
            stays
        });
        self.queue.sweep(now);
    }

    /// Starts waiting requests, first come first served, while there is room.
    fn admit(&mut self) {
        while self.has_room()
            && let Some(pending) = self.queue.take()
        {
            let positions = pending.request.prompt.len() + pending.request.stop.max_new_tokens;
            let lease = self.pages.lease(positions);
            if lease.is_none() && PagePool::pages_for(positions) <= self.pages.total() {
                self.queue.put_back(pending);
                return;
            }
            match lease {
                Some(lease) => {
                    let policies = (&mut self.shared, &**self.runner.model());
                    let (text, options) = (&self.text, &self.options);
                    let betting = &mut self.betting;
                    let stream = Stream::admit(pending, lease, text, options, betting, policies);
                    self.running.push(stream);
                    self.queue.set_running(self.running.len());
                }
                None => {
                    let room = self.pages.total() * skipstone_kernels::PAGE_POSITIONS;
                    let message = format!(
                        "prompt and new tokens take {positions} positions, the cache has {room} (engine.kv_cache_tokens)"
                    );
                    pending.refuse(GenerationError::Internal(message));
                }
            }
            self.queue.admitted();
        }
    }

    /// Whether another stream may run. Finished ones whose readers are late take no part in the
    /// batch, so they count only in numbers.
    fn has_room(&self) -> bool {
        self.active() < self.options.max_streams
            && self.running.len() < LATE_READERS * self.options.max_streams
    }

    /// Streams that take part in the batch.
    fn active(&self) -> usize {
        self.running.iter().filter(|stream| !stream.is_finished()).count()
    }

    fn report(&mut self) {
        self.queue.set_running(self.running.len());
        record::running(self.active());
        record::waiting(self.queue.len());
        record::kv_usage(self.kv_usage());
        if self.board.is_asked() {
            self.show();
        }
    }

    /// Share of the cache's pages that is leased.
    fn kv_usage(&self) -> f64 {
        self.pages.leased() as f64 / self.pages.total().max(1) as f64
    }

    /// Tells those who ask what is going on.
    fn show(&mut self) {
        self.board.show(Activity {
            running: self.running.iter().map(|stream| stream.activity(&self.betting)).collect(),
            waiting: self.queue.len(),
            plain_step_seconds: self.betting.costs.plain_seconds(0, Company::default()),
            kv_cache_usage: self.kv_usage(),
            ..Activity::default()
        });
    }
}

/// Layers of the stand-in that some plan drafts by.
fn stand_in_layers(frontier: &[Seat]) -> usize {
    let stand_ins = frontier.iter().filter_map(|seat| seat.plan.stand_in());
    stand_ins.map(|stand_in| stand_in.layers()).max().unwrap_or(0)
}
