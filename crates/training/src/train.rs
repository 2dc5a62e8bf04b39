//! The training loop.

use std::f64::consts::PI;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::backprop::GradStore;
use candle_core::{D, Device, Tensor};
use candle_nn::loss::huber;
use candle_nn::ops::softmax;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::TrainingError;
use super::block::{Block, Input};
use super::closed_form::{Sums, shifted};
use super::optimizer::Optimizer;
use super::states::States;
use super::target::{Shape, Target};
use skipstone_model::{StandInWeights, TokenId};

/// Weight of being near the true last state, beside the distribution that follows from it.
const FEATURE_WEIGHT: f64 = 0.05;

/// Each further step of a chain weighs this much of the one before.
const STEP_WEIGHT: f64 = 0.8;

/// Tokens learned from before each step of the optimizer.
const BATCH: usize = 4096;

/// Steps over which the learning rate rises.
const WARM_UP: usize = 50;

/// Share of the highest rate that is left at the end.
const LAST_RATE: f64 = 0.01;

/// Share of the training before chains are trained deeper than one step.
const SHALLOW: f64 = 0.3;

/// Steps of a judged chain.
const JUDGED_STEPS: usize = 4;

/// Tokens of a sequence at most: scores of attention take memory by the square.
const MAX_ROWS: usize = 640;

/// Sequences that the warm start is fitted to.
const WARM_START: usize = 400;

/// Time between two checkpoints.
const CHECKPOINT: Duration = Duration::from_secs(120);

/// A sequence of the text.
#[derive(Clone, Debug)]
pub struct Example<'a> {
    /// All tokens. The states are those of all but the last, which only says what followed.
    pub tokens: &'a [TokenId],
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Row of the states' file that has the first token's.
    pub first_row: usize,
}

/// Length and pace of the training.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Schedule {
    /// Tokens to learn from, the same ones again included.
    pub tokens: usize,
    /// The highest learning rate.
    pub rate: f64,
    /// Steps of the chains that are trained.
    pub steps: usize,
    /// Judgements, the last at the end.
    pub judgements: usize,
}

/// How far the training is.
#[derive(Clone, PartialEq, Debug)]
pub struct Progress {
    /// Tokens learned from.
    pub seen: usize,
    /// Mean loss since the last report.
    pub loss: f64,
    /// Where it was just judged: acceptance on the held-back text by position in the chain, each
    /// given that all before were accepted.
    pub acceptance: Option<Vec<f64>>,
}

/// The result.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The stand-in.
    pub weights: StandInWeights,
    /// Acceptance on the held-back text at the end; see [`Progress::acceptance`].
    pub acceptance: Vec<f64>,
    /// Tokens learned from.
    pub seen: usize,
}

/// A training to be run.
pub struct Training<'a> {
    /// The model.
    pub target: Target<'a>,
    /// Shape of the stand-in.
    pub shape: Shape,
    /// Last states of the text.
    pub states: &'a States,
    /// The text to learn from.
    pub examples: Vec<Example<'a>>,
    /// Text that was written greedily, to judge by.
    pub held_back: Vec<Example<'a>>,
    /// Length and pace.
    pub schedule: Schedule,
    /// Threads.
    pub threads: usize,
    /// File that the training is kept in, to go on if it is interrupted.
    pub checkpoint: Option<PathBuf>,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { tokens: 1_000_000, rate: 1.5e-3, steps: 2, judgements: 8 }
    }
}

// === impl Training ===

impl Training<'_> {
    /// Trains. `report` hears after each step how far it is, and may end it early.
    ///
    /// # Errors
    /// If there is too little text or memory, or a file can't be used.
    pub fn run(
        &self,
        report: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Trained, TrainingError> {
        let usable: Vec<&Example<'_>> = self.examples.iter().filter(|it| learned(it) > 4).collect();
        if usable.len() < 2 {
            return Err(TrainingError::TooLittleText(usable.len()));
        }
        let workers = self.workers()?;
        let (mix, bias) = self.warm_start(&usable)?;
        let block = Block::new(&self.target, self.shape, mix, bias)?;
        let mut optimizer = Optimizer::new(block.variables())?;
        let mut seen = self.resume(&mut optimizer)?;
        let mut order = Order::new(usable.len(), optimizer.steps() as u64);
        let mut judged = seen * self.schedule.judgements / self.schedule.tokens.max(1);
        let (mut saved, mut losses) = (Instant::now(), Vec::new());
        let mut acceptance = None;
        while seen < self.schedule.tokens {
            let share = seen as f64 / self.schedule.tokens as f64;
            let steps = if share < SHALLOW { 1 } else { self.schedule.steps.max(1) };
            let mut batch = Vec::new();
            let mut tokens = 0;
            while tokens < BATCH {
                let example = usable[order.next()];
                tokens += learned(example);
                batch.push(example);
            }
            let (gradients, loss) = self.gradients(&workers, &block, &batch, steps)?;
            optimizer.step(&gradients, tokens as f64, self.rate(optimizer.steps(), share))?;
            seen += tokens;
            losses.push(loss / tokens as f64);
            let due = seen * self.schedule.judgements / self.schedule.tokens.max(1);
            acceptance = match due > judged && seen < self.schedule.tokens {
                true => Some(self.judge(&workers, &block)?),
                false => None,
            };
            judged = due;
            let loss = losses.iter().sum::<f64>() / losses.len() as f64;
            let progress = Progress { seen, loss, acceptance: acceptance.clone() };
            if acceptance.is_some() {
                losses.clear();
            }
            if report(&progress).is_break() {
                break;
            }
            if saved.elapsed() > CHECKPOINT {
                self.save(&optimizer, seen)?;
                saved = Instant::now();
            }
        }
        self.save(&optimizer, seen)?;
        let acceptance = match acceptance {
            Some(acceptance) => acceptance,
            None => self.judge(&workers, &block)?,
        };
        Ok(Trained { weights: block.weights(0)?, acceptance, seen })
    }

    /// One pool of a single thread for each worker: what candle computes within stays there.
    fn workers(&self) -> Result<Vec<rayon::ThreadPool>, TrainingError> {
        let build = || rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pools = (0..self.threads.max(1)).map(|_| build().map_err(candle_core::Error::wrap));
        Ok(pools.collect::<Result<_, _>>()?)
    }

    fn rate(&self, step: usize, share: f64) -> f64 {
        let warm = ((step + 1) as f64 / WARM_UP as f64).min(1.0);
        self.schedule.rate * warm * (0.5 * (1.0 + (PI * share).cos()) + LAST_RATE)
    }

    /// The linear map from token and state before to the state that follows.
    fn warm_start(&self, examples: &[&Example<'_>]) -> Result<(Vec<f32>, Vec<f32>), TrainingError> {
        let mut sums = Sums::new(2 * self.target.hidden, self.target.hidden);
        for example in examples.iter().take(WARM_START) {
            let (input, states) = self.load(example)?;
            let both = Tensor::cat(&[&input.entering, &input.features], 1)?;
            // The first positions are like no others.
            let rows = both.dim(0)?.saturating_sub(2);
            if rows > 0 {
                sums.add(&both.narrow(0, 2, rows)?, &states.narrow(0, 2, rows)?)?;
            }
        }
        sums.solve()
    }

    /// A sequence and its last states.
    fn load(&self, example: &Example<'_>) -> Result<(Input, Tensor), TrainingError> {
        let tokens = &example.tokens[..rows(example)];
        let hidden = self.target.hidden;
        let states = self.states.read(example.first_row, tokens.len())?;
        let states = Tensor::from_vec(states, (tokens.len(), hidden), &Device::Cpu)?;
        let input = Input {
            entering: self.target.embeddings(tokens)?,
            features: shifted(&self.target.unscaled(&states)?)?,
            first: first(example),
        };
        Ok((input, states))
    }

    /// Gradients of the summed loss over some sequences, and the loss.
    fn gradients(
        &self,
        workers: &[rayon::ThreadPool],
        block: &Block,
        batch: &[&Example<'_>],
        steps: usize,
    ) -> Result<(Vec<GradStore>, f64), TrainingError> {
        let variables = block.variables();
        let found = in_parallel(workers, batch, |examples| {
            let mut sum: Option<GradStore> = None;
            let mut losses = 0.0;
            for example in examples {
                let loss = self.loss(block, example, steps)?;
                losses += f64::from(loss.to_scalar::<f32>()?);
                let mut gradients = loss.backward()?;
                if let Some(sum) = &sum {
                    for variable in &variables {
                        if let (Some(a), Some(b)) = (sum.get(variable), gradients.get(variable)) {
                            let both = (a + b)?;
                            gradients.insert(variable, both);
                        }
                    }
                }
                sum = Some(gradients);
            }
            Ok((sum, losses))
        })?;
        let loss = found.iter().map(|(_, loss)| loss).sum();
        Ok((found.into_iter().filter_map(|(gradients, _)| gradients).collect(), loss))
    }

    /// The loss of a sequence, summed over its tokens.
    fn loss(
        &self,
        block: &Block,
        example: &Example<'_>,
        steps: usize,
    ) -> Result<Tensor, TrainingError> {
        let target = &self.target;
        let (input, states) = self.load(example)?;
        let count = states.dim(0)? - input.first;
        let states = states.narrow(0, input.first, count)?;
        let head = target.head.t()?;
        // The cross-entropy to p is logsumexp(logits) - p · logits, and p · logits = (p · head) ·
        // state: the second needs no logits of the prediction.
        let distribution = softmax(&target.normed(&states)?.matmul(&head)?, D::Minus1)?;
        let wanted = distribution.matmul(&target.head)?;
        let true_features = target.unscaled(&states)?;
        let mut sum = Tensor::zeros((), candle_core::DType::F32, &Device::Cpu)?;
        let mut weights = 0.0;
        for (step, predicted) in block.chain(target, &input, steps)?.iter().enumerate() {
            let rows = predicted.dim(0)?;
            let later = |tensor: &Tensor| tensor.narrow(0, step, rows);
            let features = target.unscaled(predicted)?;
            let normed = features.broadcast_mul(&target.output_norm)?;
            let all = normed.matmul(&head)?.log_sum_exp(D::Minus1)?;
            let entropy = (all - (normed * later(&wanted)?)?.sum(D::Minus1)?)?.mean_all()?;
            let away = huber(&features, &later(&true_features)?, 1.0)?;
            let weight = STEP_WEIGHT.powi(step as i32);
            sum = (sum + ((entropy + (away * FEATURE_WEIGHT)?)? * weight)?)?;
            weights += weight;
        }
        Ok((sum * (count as f64 / weights))?)
    }

    /// Acceptance on the held-back text, by position in the chain.
    fn judge(
        &self,
        workers: &[rayon::ThreadPool],
        block: &Block,
    ) -> Result<Vec<f64>, TrainingError> {
        let target = &self.target;
        let held_back: Vec<&Example<'_>> = self.held_back.iter().collect();
        let counts = in_parallel(workers, &held_back, |examples| {
            let mut counts = [(0_usize, 0_usize); JUDGED_STEPS];
            for example in examples {
                let (input, _) = self.load(example)?;
                let head = target.head.t()?;
                let mut right: Vec<Vec<bool>> = Vec::new();
                for predicted in block.chain(target, &input, JUDGED_STEPS)? {
                    let logits = target.normed(&predicted.detach())?.matmul(&head)?;
                    let best: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
                    let from = input.first + right.len();
                    let says = |(row, best): (usize, u32)| {
                        example.tokens[from + row + 1] == target.vocabulary[best as usize]
                    };
                    right.push(best.into_iter().enumerate().map(says).collect());
                }
                // Row i of a step's is that of the chain that began at the i-th row.
                for start in 0..learned(example) {
                    for (count, right) in counts.iter_mut().zip(&right) {
                        let Some(&right) = right.get(start) else { break };
                        count.0 += 1;
                        if !right {
                            break;
                        }
                        count.1 += 1;
                    }
                }
            }
            Ok(counts)
        })?;
        let rate = |step: usize| {
            let sum =
                |of: fn(&(usize, usize)) -> usize| counts.iter().map(|all| of(&all[step])).sum();
            let (tried, right): (usize, usize) = (sum(|count| count.0), sum(|count| count.1));
            right as f64 / tried.max(1) as f64
        };
        Ok((0..JUDGED_STEPS).map(rate).collect())
    }

    fn save(&self, optimizer: &Optimizer, seen: usize) -> Result<(), TrainingError> {
        let Some(path) = &self.checkpoint else { return Ok(()) };
        let mut state = optimizer.state()?;
        state.insert("seen".to_owned(), Tensor::new(seen as i64, &Device::Cpu)?);
        // Whole or not at all.
        let fresh = path.with_extension("new");
        candle_core::safetensors::save(&state, &fresh)?;
        std::fs::rename(&fresh, path)
            .map_err(|source| TrainingError::File { path: path.display().to_string(), source })
    }

    /// Goes on from the checkpoint, if there is one that fits. Returns the tokens seen.
    fn resume(&self, optimizer: &mut Optimizer) -> Result<usize, TrainingError> {
        let Some(path) = self.checkpoint.as_ref().filter(|path| path.exists()) else {
            return Ok(0);
        };
        let Ok(state) = candle_core::safetensors::load(path, &Device::Cpu) else { return Ok(0) };
        let seen = state.get("seen").and_then(|seen| seen.to_scalar::<i64>().ok());
        let (Some(seen), true) = (seen, optimizer.resume(&state)?) else { return Ok(0) };
        Ok(usize::try_from(seen).unwrap_or(0))
    }
}

/// The rows that are predicted from begin here: the last of the prompt.
fn first(example: &Example<'_>) -> usize {
    example.prompt.saturating_sub(1).max(1)
}

/// Tokens of a sequence that have states, as far as it is used.
fn rows(example: &Example<'_>) -> usize {
    example.tokens.len().saturating_sub(1).min(MAX_ROWS)
}

/// Tokens that a sequence teaches.
fn learned(example: &Example<'_>) -> usize {
    rows(example).saturating_sub(first(example))
}

/// Hands out `examples` one by one to the workers, and returns what each made of its own.
fn in_parallel<'e, T: Send>(
    workers: &[rayon::ThreadPool],
    examples: &[&'e Example<'e>],
    work: impl Fn(&mut dyn Iterator<Item = &'e Example<'e>>) -> Result<T, TrainingError> + Sync,
) -> Result<Vec<T>, TrainingError> {
    let next = AtomicUsize::new(0);
    let work = &work;
    let next = &next;
    std::thread::scope(|scope| {
        let handles: Vec<_> = workers
            .iter()
            .map(|pool| {
                scope.spawn(move || {
                    let mut mine = std::iter::from_fn(|| {
                        examples.get(next.fetch_add(1, Ordering::Relaxed)).copied()
                    });
                    pool.install(|| work(&mut mine))
                })
            })
            .collect();
        let joined = handles.into_iter().map(|handle| {
            let lost =
                || TrainingError::Tensor(candle_core::Error::Msg("a worker died".to_owned()));
            handle.join().unwrap_or_else(|_| Err(lost()))
        });
        joined.collect()
    })
}

/// Visits all examples in a new order each time.
struct Order {
    random: ChaCha8Rng,
    left: Vec<usize>,
    count: usize,
}

// === impl Order ===

impl Order {
    fn new(count: usize, seed: u64) -> Self {
        Self { random: ChaCha8Rng::seed_from_u64(seed), left: Vec::new(), count }
    }

    fn next(&mut self) -> usize {
        if self.left.is_empty() {
            self.left = (0..self.count).collect();
        }
        let place = self.random.next_u64() % self.left.len() as u64;
        self.left.swap_remove(place as usize)
    }
}
