//! exod: whether one runs here, answers this user, and would start with its configuration.

#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use exod::config::{CONFIG_PATH, Config, ConfigError};
use libexo::Error;

use super::Finding;
use crate::Exod;

const PART: &str = "exod";

/// An exod that takes longer to answer is stopped or hangs.
const PATIENCE: Duration = Duration::from_millis(100);

pub fn look(exod: &Exod) -> Vec<Finding> {
    vec![configuration(), answers(exod)]
}

fn configuration() -> Finding {
    let path = Path::new(CONFIG_PATH);
    match Config::load(path) {
        Ok(loaded) => {
            let rules = loaded.config.policy.rules.len();
            Finding::told(
                PART,
                "configuration",
                format!("{CONFIG_PATH}: good, {rules} rules"),
            )
            .should(rules > 0, "nobody may use exod: add a [[rule]] section")
        }
        Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Finding::told(PART, "configuration", format!("no {CONFIG_PATH}"))
        }
        Err(ConfigError::Read { source, .. }) => {
            Finding::told(PART, "configuration", format!("{CONFIG_PATH}: {source}"))
        }
        Err(error) => Finding::told(PART, "configuration", "wrong").must(false, error.to_string()),
    }
}

/// An exod that is not there is no fault of the machine's; one that is there must answer.
fn answers(exod: &Exod) -> Finding {
    let place = exod.place();
    match exod.connect_within(PATIENCE) {
        Ok(client) => {
            let session = client.session();
            let found = format!(
                "answers at {place}: {} pages, {} frames left for this user",
                session.page_kind.name(),
                session.frames_left
            );
            Finding::good(PART, "daemon", found)
        }
        Err(Error::Connect { source, .. }) if is_away(&source) => {
            let found = format!("none at {place}");
            Finding::told(PART, "daemon", found).should(
                false,
                "systemctl start exod, or `exod --config FILE --socket PATH` as any user",
            )
        }
        Err(error) => {
            let found = format!("does not answer at {place}");
            Finding::told(PART, "daemon", found).must(false, error.to_string())
        }
    }
}

fn is_away(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused)
}
