//! The real programs put together: Bursar as it is shipped, a real Envoy on the configuration that is shipped, and a
//! sample provider with a count of its own. Each test proves a promise that is made to users.

mod access_log;
mod crash;
mod failover;
mod fleet;
mod harness;
mod metering;
mod outages;
mod rate_limit;
mod replies;
mod sdk;
mod shutdown;
mod soak;
mod sockets;
mod start;
mod tls;
mod trust;
