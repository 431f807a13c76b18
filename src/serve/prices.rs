//! Follows the operator's file of prices: a change is in force within seconds, a broken file changes nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info};

use crate::config::{self, prices};
use crate::domain::pricing::PriceTable;
use crate::telemetry::Metrics;

/// How often the file is looked at. Its text is compared, not its time: a mounted configuration is swapped by links.
const INTERVAL: Duration = Duration::from_secs(2);

/// Follows a file until the handle is dropped.
pub(super) fn follow(
    file: PathBuf,
    in_force: watch::Sender<Arc<PriceTable>>,
    metrics: &Metrics,
) -> AbortOnDropHandle<()> {
    let metrics = metrics.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let seen = Seen::Text(in_force.borrow().version().to_owned());
        let mut follower = Follower { file, seen };
        loop {
            tokio::time::sleep(INTERVAL).await;
            // Reading the tables takes a tenth of a second, which no request should wait for.
            let looked = tokio::task::spawn_blocking(move || {
                let news = follower.look();
                (follower, news)
            });
            let Ok((back, news)) = looked.await else { return };
            follower = back;
            take(news, &in_force, &metrics);
        }
    }))
}

fn take(news: News, in_force: &watch::Sender<Arc<PriceTable>>, metrics: &Metrics) {
    match news {
        News::None => {}
        News::Table(table) => {
            info!(
                before = in_force.borrow().version(),
                now = table.version(),
                "prices have changed"
            );
            in_force.send_replace(Arc::from(table));
            metrics.prices_taken();
        }
        News::Faults(faults) => {
            let now = in_force.borrow().version().to_owned();
            for fault in faults {
                error!(in_force = now, "prices.file: {fault}");
            }
            metrics.prices_refused();
        }
    }
}

/// What was seen of a file.
struct Follower {
    file: PathBuf,
    seen: Seen,
}

/// The file as it was last seen.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The version that its text makes.
    Text(String),
    /// Why it could not be read.
    Unreadable(String),
}

/// What a look at the file showed.
#[derive(Debug)]
enum News {
    /// It is as it was.
    None,
    /// It has changed, and these are the prices.
    Table(Box<PriceTable>),
    /// It has changed, and cannot be taken.
    Faults(Vec<String>),
}

impl Follower {
    fn look(&mut self) -> News {
        let read = config::prices_text(&self.file);
        let seen = match &read {
            Ok(text) => Seen::Text(prices::version(text)),
            Err(cause) => Seen::Unreadable(cause.to_string()),
        };
        if seen == self.seen {
            return News::None;
        }
        self.seen = seen;
        let file = self.file.display();
        let text = match read {
            Ok(text) => text,
            Err(cause) => return News::Faults(vec![format!("{file} cannot be read: {cause}")]),
        };
        match prices::with_overrides(prices::shipped(), &text) {
            Ok(table) => News::Table(Box::new(table)),
            Err(faults) => {
                News::Faults(faults.iter().map(|fault| format!("{file}: {fault}")).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str =
        r#"{"own-1": {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}}"#;

    #[test]
    fn a_changed_file_makes_other_prices_and_a_broken_one_makes_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("prices.json");
        std::fs::write(&file, OWN).unwrap();
        let seen = Seen::Text(prices::version(OWN));
        let mut follower = Follower { file: file.clone(), seen };
        let mut look_at = |text: Option<&str>| {
            match text {
                Some(text) => std::fs::write(&file, text).unwrap(),
                None => std::fs::remove_file(&file).unwrap(),
            }
            match follower.look() {
                News::None => "same".to_owned(),
                News::Table(table) => {
                    assert!(table.lookup(None, "own-1").is_some());
                    format!("table {}", table.version())
                }
                News::Faults(faults) => faults.join("; "),
            }
        };
        assert_eq!(look_at(Some(OWN)), "same");
        let changed = OWN.replace("1e-06", "3e-06");
        assert_eq!(look_at(Some(&changed)), format!("table {}", prices::version(&changed)));
        assert_eq!(look_at(Some(&changed)), "same");
        let broken = look_at(Some(r#"{"a": 1, "b": "no-such"}"#));
        assert!(broken.contains("a: is neither") && broken.contains("b: is an alias"), "{broken}");
        assert_eq!(look_at(Some(r#"{"a": 1, "b": "no-such"}"#)), "same", "told once");
        assert!(look_at(None).contains("cannot be read"));
        assert_eq!(look_at(Some(OWN)), format!("table {}", prices::version(OWN)));
    }

    #[test]
    fn what_is_refused_leaves_the_prices_and_shows_in_the_metrics() {
        let metrics = Metrics::new();
        let (sender, in_force) = watch::channel(Arc::new(prices::shipped()));
        let shows =
            |line: &str| assert!(metrics.encode().contains(line), "{line}\n{}", metrics.encode());
        shows("bursar_prices_valid 1");
        take(News::Faults(vec!["a: is wrong".to_owned()]), &sender, &metrics);
        assert_eq!(in_force.borrow().version(), prices::shipped().version());
        shows("bursar_prices_valid 0");
        shows("bursar_config_reload_failures_total 1");
        let table = prices::with_overrides(prices::shipped(), OWN).unwrap();
        take(News::Table(Box::new(table)), &sender, &metrics);
        assert_eq!(in_force.borrow().version(), prices::version(OWN));
        shows("bursar_prices_valid 1");
    }
}
