//! Guests that end in every way, as their watch sees them.

use super::*;
use crate::test::Root;
use std::os::unix::process::ExitStatusExt;

/// The outcomes of a guest with tests `a` and `b`, after these events and this end.
fn outcomes(events: Vec<Event>, ended: Ended) -> Vec<String> {
    let test = |name: &str| Test::command(name, Root::Lean, "");
    let boot = Boot {
        kernel: "6.1".to_owned(),
        machine: Machine::usual(Root::Lean),
        tests: vec![test("a"), test("b")],
    };
    let mut watch = Watch::new(&boot, Path::new("/nonexistent"));
    let mut told = Vec::new();
    let mut tell = |outcome: &Outcome| {
        let verdict = match &outcome.verdict {
            Verdict::Passed => "passed".to_owned(),
            Verdict::Skipped(why) => format!("skipped: {why}"),
            Verdict::Failed(why) => format!("failed: {why}"),
        };
        told.push(format!("{} {verdict}", outcome.test));
    };
    for event in events {
        watch.hear(event, &mut tell);
    }
    watch.finish(ended, &mut tell);
    told
}

fn begin(test: &str) -> Event {
    Event::Begin {
        test: test.to_owned(),
    }
}

fn end(status: i32) -> Event {
    Event::End {
        status,
        seconds: 1.0,
        timed_out: false,
    }
}

fn exit(code: i32) -> Ended {
    Ended::By(ExitStatus::from_raw(code << 8))
}

#[test]
fn a_guest_that_is_through_leaves_its_tests_as_they_ended() {
    let text = "no cards here".to_owned();
    let events = vec![
        begin("a"),
        end(0),
        begin("b"),
        Event::Line { text },
        end(SKIPPED),
        Event::Done,
    ];
    let expected = ["a passed", "b skipped: no cards here"];
    assert_eq!(outcomes(events, exit(1)), expected);
}

#[test]
fn a_test_fails_by_its_status_and_by_the_clock() {
    let late = Event::End {
        status: 137,
        seconds: 60.0,
        timed_out: true,
    };
    let events = vec![begin("a"), end(3), begin("b"), late, Event::Done];
    let expected = [
        "a failed: exit status 3",
        "b failed: killed, its time was over",
    ];
    assert_eq!(outcomes(events, exit(1)), expected);
}

#[test]
fn a_guest_that_dies_fails_the_test_that_ran_and_those_that_did_not() {
    let told = outcomes(vec![begin("a")], exit(0));
    assert!(told[0].starts_with("a failed: the guest died without a verdict"));
    assert_eq!(told[1], "b failed: did not run: its guest died before");
    assert_eq!(told.len(), 2);
    // Before anything ran.
    let told = outcomes(Vec::new(), Ended::TooLate);
    assert!(told[0].starts_with("a failed: the guest fell silent"));
    assert_eq!(told.len(), 2);
}

#[test]
fn a_guest_that_dies_after_its_tests_is_a_failure_of_its_own() {
    let all = || vec![begin("a"), end(0), begin("b"), end(0)];
    let told = outcomes(all(), exit(0));
    assert!(told[2].starts_with("end-of-guest failed"), "{told:?}");
    // Nor does a good status help when the agent did not say that it was through.
    assert_eq!(outcomes(all(), exit(1)).len(), 3);
    let mut through = all();
    through.push(Event::Done);
    assert_eq!(outcomes(through, exit(1)).len(), 2);
}

#[test]
fn words_of_the_agent_survive_the_way() {
    for event in [begin("a \"quoted\" name"), end(-1), Event::Done] {
        let line = serde_json::to_string(&event).expect("written");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Event>(&line).expect("read"), event);
    }
}
