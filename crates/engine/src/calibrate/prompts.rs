//! Prompts of many kinds, for much text: a stand-in learns from what follows them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// About how many tokens a prompt of these and what follows it have.
pub const TOKENS_PER_PROMPT: usize = 280;

/// What prompts are about.
const SUBJECTS: &str = "tides;bread;the planet Saturn;a violin;earthworms;old maps;\
the stock exchange;a night train;hummingbirds;the invention of paper;basketball;winter coats;a village market;clouds;\
compound interest;honey;the Vikings;a lighthouse keeper;databases;street food;the moon;allergies;\
pottery;marathon runners;glass;elections;a stray cat;volcanic islands;calculus;a broken bicycle;\
mushrooms;the Silk Road;sleep;solar panels;chess;an orchard;the human heart;a spaceship;patience;\
rivers;jazz;the first computers;a wedding;penguins;traffic;inflation;a haunted hotel;vitamins;\
the Olympic Games;deserts;bees;a letter from a friend;wind turbines;the Renaissance;dentists;\
a talking tree;budgets;coral reefs;a job interview;opera;neural networks;snow;the printing press;\
loneliness;trains;a treasure map;dinosaurs;yoga;gravity;a lost suitcase;tea;castles;vaccines;\
photography;a robot gardener;languages;the Sahara;knitting;black holes;an honest thief;\
public parks;wolves;a school play;electric cars;ancient Rome;running shoes;a family recipe;mountains;insurance;\
a detective;whales;libraries;the water cycle;friendship;an island;football;clocks;recycling;\
a dragon who is afraid of fire;taxes;gardens;earthquakes;a new neighbour;poetry;satellites;rice;\
bridges;a rainy Sunday;justice;the immune system;museums;a secret garden;the internet;soap;owls;\
space stations;a long walk;coffee;migration;dreams;sailing;algebra;the Great Barrier Reef;gold;\
kindness;a magician;noise;plastics;a small bakery;comets;horses;the brain;an old radio;democracy";

/// Requests about one of them.
const REQUESTS: &[&str] = &[
    "Tell me about {}.",
    "Explain {} to a child of eight.",
    "Write a short story in which {} plays a part.",
    "Give me ten facts about {}.",
    "What should a beginner know about {}? Answer in a numbered list.",
    "Write a poem of four verses on {}.",
    "Draft an email to a colleague that mentions {}.",
    "What are the good and the bad sides of {}?",
    "Summarise the history of {} in two paragraphs.",
    "Write a conversation between two friends about {}.",
    "Make a table with three columns on {}.",
    "Describe {} without using the word itself.",
    "Invent three riddles about {} and give the answers.",
    "Write an essay: why does {} matter?",
    "How would you teach a class on {}? Give a plan for five lessons.",
    "Compare {} with {}.",
    "Write a newspaper article about {} and {}.",
    "Answer as an expert: what do people get wrong about {}?",
    "Write a speech of one minute about {}.",
    "List the steps to learn more about {}, and explain each.",
    "Translate into French: I have always been interested in {}. Then explain the translation.",
    "Translate into German: Yesterday we talked about {} for an hour.",
    "Write a product advertisement inspired by {}.",
    "What questions would you ask somebody who knows all about {}?",
    "Continue this text: It all began with {}, on a morning when nobody expected it.",
    "Pretend that you are {}. Describe your day.",
    "Write a quiz about {} with four choices for each question, and the right answers at the end.",
    "Give a definition of {}, an example, and a counterexample.",
];

/// Requests with numbers.
const SUMS: &[&str] = &[
    "A box holds {} pens. How many pens are in {} boxes, and how many boxes for {} pens? Explain.",
    "Anna walks {} km each day for {} days. How far is that? Show each step.",
    "A ticket costs {} dollars, with a discount of {} percent. What is the price for {} people?",
    "What is {} times {}, minus {}? Think step by step.",
    "Ben has {} marbles, loses {}, and finds {} more. How many has he now?",
    "If {} workers need {} hours, how long do {} workers need? Explain your reasoning.",
    "Write a Python function that returns the sum of all multiples of {} below {}.",
    "Write a Python program that prints a table of {} rows and {} columns.",
    "Write a function in JavaScript that splits a list into parts of {} elements. Explain it.",
    "Write an SQL query that finds the {} customers with the most orders since day {}.",
];

/// Requests about a text that follows.
pub const ABOUT_TEXT: &[&str] = &[
    "Summarise this text in two sentences:",
    "Rewrite this text in simple words:",
    "What is this text about, and who might have written it?",
    "Correct this text and list your changes:",
    "Write a title and five keywords for this text:",
    "Translate this text into Spanish:",
    "Translate the following text into German.",
    "Using only this text, answer: what happened first, and what came of it?",
    "Answer with the help of the text below: what is the most important point, and why?",
    "Summarize:",
];

/// `count` prompts, the same ones each time.
pub fn prompts(count: usize) -> Vec<String> {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(7));
    (0..count).map(|_| dice.prompt()).collect()
}

struct Dice(ChaCha8Rng);

// === impl Dice ===

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// `pattern` with each `{}` replaced.
    fn filled(&mut self, pattern: &str, fill: impl Fn(&mut Self) -> String) -> String {
        let mut parts = pattern.split("{}");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            text.push_str(&fill(self));
            text.push_str(part);
        }
        text
    }

    fn subject(&mut self) -> String {
        let subjects: Vec<&str> = SUBJECTS.split(';').collect();
        self.one(&subjects).to_owned()
    }

    fn prompt(&mut self) -> String {
        match self.below(20) {
            0..3 => {
                let pattern = self.one(SUMS);
                self.filled(pattern, |dice| (2 + dice.below(97)).to_string())
            }
            _ => {
                let pattern = self.one(REQUESTS);
                self.filled(pattern, Self::subject)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_many_and_complete() {
        let prompts = prompts(2000);
        let different: std::collections::HashSet<&String> = prompts.iter().collect();
        assert!(different.len() > 1500, "{}", different.len());
        assert!(prompts.iter().all(|prompt| !prompt.contains("{}") && prompt.len() > 10));
    }
}
