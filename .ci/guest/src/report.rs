//! What a run shows: one line per test as soon as it is over, or one JSON object.

#![forbid(unsafe_code)]

use std::time::Instant;

use serde_json::json;

/// Lines of a failed test's own output that are shown; the log has all.
const OUTPUT_LINES: usize = 60;

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its script ended with 0.
    Passed,
    /// It cannot run there, and says why.
    Skipped(String),
    /// Anything else.
    Failed(String),
}

/// What is known of a test that is over.
#[derive(Debug)]
pub struct Outcome {
    /// Its name.
    pub test: String,
    /// The kernel's version.
    pub kernel: String,
    /// How long it took, without the boot.
    pub seconds: f64,
    /// How it ended.
    pub verdict: Verdict,
    /// What it printed.
    pub output: Vec<String>,
    /// The end of the guest's console, if the test failed.
    pub console: Vec<String>,
}

/// The run so far.
#[derive(Debug)]
pub struct Report {
    json: bool,
    /// Whether output of tests that passed is shown, too.
    verbose: bool,
    since: Instant,
    passed: usize,
    skipped: usize,
    failed: usize,
}

impl Report {
    /// A run that begins now.
    pub fn new(json: bool, verbose: bool) -> Report {
        Report {
            json,
            verbose,
            since: Instant::now(),
            passed: 0,
            skipped: 0,
            failed: 0,
        }
    }

    /// Shows an outcome.
    pub fn tell(&mut self, outcome: &Outcome) {
        match outcome.verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Skipped(_) => self.skipped += 1,
            Verdict::Failed(_) => self.failed += 1,
        }
        if self.json {
            println!("{}", object(outcome));
            return;
        }
        println!("{}", line(outcome));
        let failed = matches!(outcome.verdict, Verdict::Failed(_));
        if self.verbose {
            show("output", &outcome.output, usize::MAX);
        } else if failed {
            show("output", &outcome.output, OUTPUT_LINES);
        }
        if failed {
            show("console", &outcome.console, usize::MAX);
        }
    }

    /// Shows the sum. Whether nothing failed, and something ran.
    pub fn finish(&self) -> bool {
        let good = self.failed == 0 && self.passed + self.skipped > 0;
        let seconds = self.since.elapsed().as_secs_f64();
        if self.json {
            let sum = json!({
                "guest": "sum", "passed": self.passed, "skipped": self.skipped,
                "failed": self.failed, "seconds": rounded(seconds),
            });
            println!("{sum}");
        } else {
            println!(
                "{} passed, {} skipped, {} failed in {seconds:.1} s",
                self.passed, self.skipped, self.failed
            );
        }
        good
    }
}

fn line(outcome: &Outcome) -> String {
    let (word, reason) = match &outcome.verdict {
        Verdict::Passed => ("ok", String::new()),
        Verdict::Skipped(why) => ("skipped", format!(": {why}")),
        Verdict::Failed(why) => ("FAILED", format!(": {why}")),
    };
    let (seconds, test, kernel) = (outcome.seconds, &outcome.test, &outcome.kernel);
    format!("{word:<7} {seconds:>5.1} s  {test} [{kernel}]{reason}")
}

fn object(outcome: &Outcome) -> serde_json::Value {
    let (verdict, reason) = match &outcome.verdict {
        Verdict::Passed => ("ok", None),
        Verdict::Skipped(why) => ("skipped", Some(why)),
        Verdict::Failed(why) => ("failed", Some(why)),
    };
    json!({
        "guest": "test", "test": outcome.test, "kernel": outcome.kernel, "verdict": verdict,
        "reason": reason, "seconds": rounded(outcome.seconds), "output": outcome.output,
        "console": outcome.console,
    })
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn show(title: &str, lines: &[String], most: usize) {
    let left_out = lines.len().saturating_sub(most);
    if left_out > 0 {
        println!("    {title}, without its first {left_out} lines:");
    } else if !lines.is_empty() {
        println!("    {title}:");
    }
    for line in &lines[left_out..] {
        println!("      {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(verdict: Verdict) -> Outcome {
        Outcome {
            test: "systemd-starts".to_owned(),
            kernel: "6.12".to_owned(),
            seconds: 3.4449,
            verdict,
            output: vec!["hello".to_owned()],
            console: Vec::new(),
        }
    }

    #[test]
    fn a_test_is_one_line() {
        let passed = line(&outcome(Verdict::Passed));
        assert_eq!(passed, "ok        3.4 s  systemd-starts [6.12]");
        let failed = line(&outcome(Verdict::Failed("exit status 1".to_owned())));
        assert!(failed.starts_with("FAILED") && failed.ends_with(": exit status 1"));
        let object = object(&outcome(Verdict::Skipped("no card".to_owned())));
        assert_eq!(object["verdict"], "skipped");
        assert_eq!(object["reason"], "no card");
        assert_eq!(object["seconds"], 3.445);
    }

    #[test]
    fn a_run_without_tests_proves_nothing() {
        assert!(!Report::new(false, false).finish());
        let mut report = Report::new(true, false);
        report.tell(&outcome(Verdict::Passed));
        assert!(report.finish());
        report.tell(&outcome(Verdict::Failed(String::new())));
        assert!(!report.finish());
    }
}
