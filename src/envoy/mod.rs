//! Floor 3: what Envoy speaks. ext_authz comes in as protobuf, is mapped to a subject and an estimate, asked of the
//! engine, and goes out as protobuf. By ext_proc the responses come by, are metered and settled; the
//! access log tells of those that nobody saw. Nothing here talks to the
//! store except through the engine.

pub mod access_log;
pub mod attributes;
pub mod authorize;
pub mod decode;
mod dialect;
mod handover;
mod headers;
pub mod keys;
pub mod mapping;
pub mod packed;
pub mod process;
pub mod rate_limit;
pub mod reply;
pub mod settling;
pub mod source;
#[cfg(test)]
mod testing;
mod told_usage;

use std::time::Duration;

pub use hyper::header::HeaderName;

use crate::domain::estimate::Policy;
use crate::envoy::mapping::Mapping;
use crate::envoy::reply::Style;

/// How long a decision may wait for the store. Envoy's own default for an ext_authz call is 200 ms; a client does not feel a
/// quarter of it.
const PATIENCE: Duration = Duration::from_millis(50);

/// What an operator can choose about the Envoy side. The default is what holds without any configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where ids come from and whom to believe.
    pub mapping: Mapping,
    /// How requests are estimated.
    pub estimate: Policy,
    /// How long to wait for a lease; less when Envoy's own deadline is nearer.
    pub patience: Duration,
    /// How answers look.
    pub style: Style,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mapping: Mapping::default(),
            estimate: Policy::default(),
            patience: PATIENCE,
            style: Style::default(),
        }
    }
}
