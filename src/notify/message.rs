//! What a notice says, and how its receiver can tell that it is ours.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::Sha256;

use crate::domain::credits::{Notice, Secret};
use crate::domain::money::NanoUsd;
use crate::domain::time::Wall;

/// The header of the signature.
pub(super) const SIGNATURE: &str = "bursar-signature";

#[derive(Serialize)]
struct Message<'a> {
    /// The same for every attempt, so that a receiver can tell repetitions.
    id: String,
    r#type: &'static str,
    workspace_id: &'a str,
    balance: Box<RawValue>,
    threshold: Box<RawValue>,
    crossed_at: String,
}

/// The JSON of a notice, the same for every attempt.
pub(super) fn body(notice: &Notice) -> serde_json::Result<String> {
    let Notice { workspace, crossing, terms, .. } = notice;
    let crossed_at = Timestamp::from_millisecond(crossing.at.as_ms()).unwrap_or_default();
    serde_json::to_string(&Message {
        id: format!("{workspace}:{}", crossing.at.as_ms()),
        r#type: "credits.low_balance",
        workspace_id: workspace.as_str(),
        balance: number(crossing.balance)?,
        threshold: number(terms.threshold)?,
        crossed_at: crossed_at.to_string(),
    })
}

/// `t=SECONDS,v1=HEX`: the HMAC-SHA256 of `SECONDS.BODY`. The time of the attempt is signed, so that a receiver can turn down
/// an old one that somebody recorded.
pub(super) fn signature(secret: &Secret, body: &str, now: Wall) -> String {
    let seconds = now.as_ms().div_euclid(1000);
    // Any key fits: longer ones are hashed first.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.0.as_bytes()) else {
        return String::new();
    };
    mac.update(format!("{seconds}.{body}").as_bytes());
    let hex: String =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

/// Dollars as an exact JSON number.
fn number(amount: NanoUsd) -> serde_json::Result<Box<RawValue>> {
    RawValue::from_string(amount.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_signature_is_the_hmac_of_time_and_body() {
        let secret = Secret(Arc::from("whsec_0123456789abcdef"));
        let signed = signature(&secret, "{\"a\":1}", Wall::from_ms(1_795_305_600_250));
        assert_eq!(
            signed,
            "t=1795305600,v1=1d0f5093a0710da9d05e208fc26396f804b8fff32bb69581d17c8a8aec8a8099"
        );
    }
}
