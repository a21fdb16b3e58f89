//! The reading itself: sentences, words, and which sentences say the most. Plain text in, JSON out; used by `main.rs`.

use std::collections::HashMap;

use serde_json::{Value, json};

/// Words that say nothing about a text.
const STOP_WORDS: &str = "a about above after again all also although am an and any are as at be because been before \
    being between both but by can cannot could did do does each either every few for from further had has have he her \
    here him his how however i if in into is it its itself may me might more most much must my no nor not now of off on \
    once one only or other our out over own shall she should so some such than that the their them then there these \
    they this those through to too under until up upon us very was we were what when where which while who whom why \
    will with would yet you your";

/// Short forms whose dot ends no sentence; single letters, and words with a dot in them, don't either.
const SHORT_FORMS: [&str; 6] = ["mr", "mrs", "dr", "st", "prof", "vol"];

/// Splits at `.`, `!` and `?` before white space and a capital, a quote or a digit, and at empty lines.
pub fn sentences(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for paragraph in text.split("\n\n") {
        let paragraph = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut start = 0;
        for (i, mark) in paragraph.match_indices(['.', '!', '?']) {
            let rest = paragraph[i + mark.len()..].trim_start_matches(['"', '\'', ')', '”', '’']);
            let mut following = rest.chars();
            let ends = following.next().is_none_or(char::is_whitespace)
                && following.next().is_none_or(|c| c.is_uppercase() || c.is_numeric() || "\"'“‘(".contains(c));
            let last_word = paragraph[start..i].rsplit([' ', '(']).next().unwrap_or_default().to_lowercase();
            let short = mark == "."
                && (SHORT_FORMS.contains(&last_word.as_str())
                    || last_word.contains('.')
                    || last_word.chars().count() == 1);
            if ends && !short {
                let end = paragraph.len() - rest.len();
                found.push(paragraph[start..end].trim().to_owned());
                start = end;
            }
        }
        found.push(paragraph[start..].trim().to_owned());
    }
    found.retain(|sentence| words(sentence).next().is_some());
    found
}

/// The words of a text in lower case.
pub fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’')
        .map(|word| word.trim_matches(['\'', '’']).to_lowercase())
        .filter(|word| !word.is_empty())
}

/// What was read so far.
#[derive(Default)]
pub struct Reading {
    sentences: Vec<String>,
    frequencies: HashMap<String, usize>,
    words: usize,
    characters: usize,
}

impl Reading {
    /// Reads one more sentence.
    pub fn take(&mut self, sentence: &str) {
        for word in words(sentence) {
            self.words += 1;
            if word.chars().count() > 2 && !STOP_WORDS.split_whitespace().any(|stop| stop == word) {
                *self.frequencies.entry(word).or_default() += 1;
            }
        }
        self.characters += sentence.chars().count();
        self.sentences.push(sentence.to_owned());
    }

    /// How many different words that mean something.
    pub fn vocabulary(&self) -> usize {
        self.frequencies.len()
    }

    /// The sentences with the most frequent words, in the order of the text, and what else there is to say.
    pub fn report(&self, keep: usize) -> Value {
        let mut ranked: Vec<(usize, f64)> = self.sentences.iter().map(|s| self.score(s)).enumerate().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut best: Vec<usize> = ranked.iter().take(keep).map(|(i, _)| *i).collect();
        best.sort_unstable();
        let summary: Vec<&str> = best.iter().map(|i| self.sentences[*i].as_str()).collect();
        let mut keywords: Vec<(&String, &usize)> = self.frequencies.iter().collect();
        keywords.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let keywords: Vec<Value> =
            keywords.iter().take(8).map(|(word, count)| json!({ "word": word, "count": count })).collect();
        json!({
            "summary": summary.join(" "),
            "keywords": keywords,
            "counts": { "sentences": self.sentences.len(), "words": self.words, "characters": self.characters },
            "readingSeconds": (self.words as f64 / 230.0 * 60.0).round() as u64,
        })
    }

    /// The mean frequency of the words that mean something. The root keeps long sentences from losing to short ones.
    fn score(&self, sentence: &str) -> f64 {
        let frequencies: Vec<usize> = words(sentence).filter_map(|w| self.frequencies.get(&w).copied()).collect();
        if frequencies.is_empty() {
            0.0
        } else {
            frequencies.iter().sum::<usize>() as f64 / (frequencies.len() as f64).sqrt()
        }
    }
}
