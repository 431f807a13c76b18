//! Feeds arbitrary bytes to the meter, through every content-encoding and at arbitrary cuts: it must not panic, and the cuts
//! must not matter.

#![no_main]

use bursar::domain::usage::{Hints, Meter, Metered};
use bursar::envoy::decode::Decoder;
use libfuzzer_sys::fuzz_target;

const ENCODINGS: [&str; 5] = ["", "gzip", "deflate", "br", "zstd"];
const PROVIDERS: [Option<&str>; 4] = [None, Some("openrouter"), Some("xai"), Some("perplexity")];

fuzz_target!(|input: (u8, u8, Vec<u8>)| {
    let (settings, size, body) = input;
    let encoding = ENCODINGS[usize::from(settings) % ENCODINGS.len()];
    let provider = PROVIDERS[usize::from(settings >> 4) % PROVIDERS.len()];
    let size = usize::from(size).max(1);
    let [cut, whole] = [size, body.len().max(1)].map(|size| fed(encoding, provider, &body, size));
    // How far a corrupt encoding is undone before it shows depends on the cuts.
    if let (Some(cut), Some(whole)) = (cut, whole) {
        assert_eq!(cut, whole);
    }
});

/// The result, unless the encoding is corrupt.
fn fed(encoding: &str, provider: Option<&str>, body: &[u8], size: usize) -> Option<Metered> {
    let mut decoder = Decoder::new(encoding);
    let mut meter = Meter::new(Hints { provider, ..Hints::default() });
    for chunk in body.chunks(size) {
        if decoder.push(chunk, |piece| meter.push(piece)).is_err() {
            let _ = meter.finish_cut();
            return None;
        }
    }
    Some(meter.finish())
}
