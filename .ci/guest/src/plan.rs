//! What the host and the agent in the guest say to each other: a plan that lies in the guest's file
//! system, and events, one JSON object to a line, through a virtio port.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Where the plan is, in the guest.
pub const PLAN: &str = "/guest/plan.json";
/// Where scripts are.
pub const TESTS: &str = "/guest/tests";
/// What a test puts into its own directory there comes back.
pub const OUT: &str = "/guest/out";
/// Where a test's files of the project are, under their own paths.
pub const FILES: &str = "/guest/files";

/// The status of a script that cannot run here. Its last line is the reason.
pub const SKIPPED: i32 = 77;

/// What the agent is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The kernel's version, as tests name it.
    pub kernel: String,
    /// Tests, in their order.
    pub tests: Vec<Step>,
    /// Whether a person is there, who gets a shell instead.
    pub shell: Option<Terminal>,
}

/// One test.
#[derive(Debug, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// When it is killed.
    pub timeout_s: u64,
}

/// The terminal of the person.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Terminal {
    /// Its kind, as `TERM` says.
    pub kind: String,
    /// Its width in columns; 0 if there is none.
    pub columns: u16,
    /// Its height in rows.
    pub rows: u16,
}

/// What happens in the guest.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The system is up.
    Ready {
        /// Seconds since the kernel started, as the guest counts them.
        uptime_s: f64,
    },
    /// A test begins.
    Begin {
        /// Its name.
        test: String,
    },
    /// It printed a line.
    Line {
        /// The line.
        text: String,
    },
    /// It ended.
    End {
        /// Its exit status; a signal's number and 128 if one killed it.
        status: i32,
        /// How long it took.
        seconds: f64,
        /// Whether it was killed because its time was over.
        timed_out: bool,
    },
    /// All tests have run, and their files are on the way.
    Done,
}
