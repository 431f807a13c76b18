//! What is read of requests in every encoding, whole, cut off and hostile.

use proptest::prelude::*;

use super::*;
use crate::envoy::decode::packing::{BROTLI, BROTLI_ZEROS, gzip, zlib, zstd};
use crate::envoy::testing::{Form, Request};

/// A request of some 60 KB of numbers, which pack to about half.
fn long() -> Vec<u8> {
    let numbers: Vec<String> =
        (0..6_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_string()).collect();
    format!(r#"{{"model":"m","input":"{}"}}"#, numbers.join(" ")).into_bytes()
}

fn unpacked(encoding: &str, body: &[u8], length: usize) -> Option<Unpacked> {
    let request = Request::new(Form::Raw)
        .header("content-encoding", encoding)
        .header("content-length", length.to_string())
        .body(body)
        .size(length.try_into().unwrap());
    Unpacked::of(&Attributes::of(&request.build()))
}

/// What there is in all likelihood at the most, behind a body that was not seen as a whole.
fn likely(unpacked: &Option<Unpacked>) -> u64 {
    match unpacked.as_ref().map(Unpacked::body) {
        Some(Body::Packed { likely_size, .. }) => likely_size,
        body => panic!("{body:?}"),
    }
}

#[test]
fn a_request_in_any_encoding_reads_as_what_it_unpacks_to() {
    let text = long();
    for (encoding, body) in [("gzip", gzip(&text)), ("deflate", zlib(&text)), ("zstd", zstd(&text))]
    {
        let whole = unpacked(encoding, &body, body.len());
        assert_eq!(whole, Some(Unpacked { seen: text.clone(), rest: Rest::Nothing }), "{encoding}");
    }
    let Some(brotli) = unpacked("BR", BROTLI, BROTLI.len()) else { panic!("not unpacked") };
    assert!(brotli.seen.starts_with(b"{") && brotli.rest == Rest::Nothing, "{brotli:?}");
}

#[test]
fn what_is_not_packed_reads_as_it_is() {
    for (encoding, body) in
        [("identity", "x"), ("Identity", "x"), ("", "x"), ("br", "{}"), ("deflate", "{}")]
    {
        assert_eq!(unpacked(encoding, body.as_bytes(), body.len()), None, "{encoding}");
    }
    assert_eq!(unpacked("gzip", b"", 0), None);
}

#[test]
fn a_body_that_is_cut_off_unpacks_as_far_as_it_goes_and_its_rest_counts_as_dense_as_requests_may_be()
 {
    let text = long();
    let body = gzip(&text);
    let cut = unpacked("gzip", &body[..8_192], body.len());
    let seen = &cut.as_ref().unwrap().seen;
    assert!(text.starts_with(seen) && seen.len() > 8_192, "{}", seen.len());
    let rest = (body.len() - 8_192) * 20;
    assert_eq!(likely(&cut), u64::try_from(seen.len() + rest).unwrap());
    assert_eq!(likely(&unpacked("gzip", b"", 1_000)), 20_000);
}

/// A zstd frame with a window of so many bytes, as a power of two from 1 KiB, of blocks as they are; the last is none to its decoder.
fn stored_zstd(window: u8, text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, window << 3];
    for block in text.chunks(1_000) {
        let header = u32::try_from(block.len()).unwrap() << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

#[test]
fn what_a_window_keeps_back_is_none_that_was_seen() {
    let text = long();
    let body = stored_zstd(11, &text);
    for whole in [body.len(), body.len() + 1] {
        let kept = unpacked("zstd", &body, whole);
        assert_eq!(likely(&kept), u64::try_from(whole * 20).unwrap());
    }
    let small = unpacked("zstd", &stored_zstd(0, &text), body.len());
    assert!(text.starts_with(&small.as_ref().unwrap().seen));
    assert!(likely(&small) > u64::try_from(body.len() * 20).unwrap());
}

#[test]
fn what_ends_too_soon_reads_as_far_as_it_goes() {
    let text = long();
    for (encoding, body) in [("gzip", gzip(&text)), ("deflate", zlib(&text))] {
        let cut = unpacked(encoding, &body[..body.len() - 9], body.len() - 9).unwrap();
        assert!(text.starts_with(&cut.seen) && cut.seen.len() + 64 > text.len(), "{encoding}");
    }
    let cut = unpacked("br", &BROTLI[..BROTLI.len() - 1], BROTLI.len() - 1).unwrap();
    let whole = unpacked("br", BROTLI, BROTLI.len()).unwrap();
    assert!(whole.seen.starts_with(&cut.seen) && cut.seen.len() + 64 > whole.seen.len());
}

#[test]
fn a_body_that_is_cut_off_is_not_whole_though_nobody_says_how_long_it_is() {
    let text = long();
    let request = Request::new(Form::Raw)
        .header("content-encoding", "gzip")
        .header("x-envoy-auth-partial-body", "true")
        .body(&gzip(&text)[..8_192]);
    let cut = Unpacked::of(&Attributes::of(&request.build()));
    assert!(text.starts_with(&cut.as_ref().unwrap().seen));
    assert!(likely(&cut) > 8_192);
}

#[test]
fn members_that_stand_apart_are_of_one_body() {
    let text = long();
    let (head, tail) = text.split_at(20);
    let apart = [gzip(head), vec![0; 5], gzip(tail)].concat();
    let both = unpacked("gzip", &apart, apart.len());
    assert_eq!(both, Some(Unpacked { seen: text, rest: Rest::Nothing }));
}

#[test]
fn space_before_a_body_hides_neither_what_it_is_nor_what_it_unpacks_to() {
    // A stored block of a bare deflate stream: the first byte is padding but for three bits, the next two are the length.
    let text = format!(r#"{{"model":"dear",{:>107}"#, r#""max_tokens":9}"#);
    assert_eq!(text.len(), 0x7b);
    let stored = [&[0x20, 0x7b, 0, 0x84, 0xff], text.as_bytes(), &[0x03, 0]].concat();
    let spaced = unpacked("deflate", &stored, stored.len()).unwrap();
    assert_eq!((spaced.seen, spaced.rest), (text.into_bytes(), Rest::Nothing));
    for encoding in ["br", "deflate"] {
        let plain = unpacked(encoding, b" \n{\"model\":\"dear\"}", 19);
        assert_eq!(plain.as_ref().unwrap().seen, b" \n{\"model\":\"dear\"}", "{encoding}");
        assert!(likely(&plain) >= 19, "{encoding}");
    }
}

#[test]
fn what_is_denser_than_any_request_counts_as_no_honest_one() {
    let dense = gzip(&vec![b' '; 3_000_000]);
    assert!(dense.len() < 4_000);
    assert!(
        likely(&unpacked("gzip", &dense, dense.len())) >= u64::try_from(dense.len() * 100).unwrap()
    );
    let long = long().repeat(100);
    let packed = zstd(&long);
    let honest = likely(&unpacked("zstd", &packed, packed.len()));
    let real = u64::try_from(long.len()).unwrap();
    assert!((real..real * 20).contains(&honest), "{honest} of {real}");
}

#[test]
fn what_cannot_be_unpacked_counts_as_if_it_were() {
    for (encoding, body) in [("gzip, br", "\x1f"), ("compress", "\x1f"), ("br", "\x1c\x1c\x1c")] {
        let unread = unpacked(encoding, body.as_bytes(), body.len());
        assert_eq!(unread.as_ref().unwrap().seen, body.as_bytes(), "{encoding}");
        assert_eq!(likely(&unread), u64::try_from(body.len() * 20).unwrap(), "{encoding}");
    }
    let twice = Request::new(Form::Raw)
        .header("content-encoding", "gzip")
        .header("content-encoding", "br")
        .body(gzip(b"{}"));
    assert!(matches!(
        Unpacked::of(&Attributes::of(&twice.build())),
        Some(Unpacked { rest: Rest::Likely(_), .. })
    ));
}

#[test]
fn no_request_unpacks_to_more_than_its_share() {
    let zeros = vec![b' '; 50_000_000];
    for (encoding, body) in [
        ("gzip", gzip(&zeros)),
        ("deflate", zlib(&zeros)),
        ("zstd", zstd(&zeros)),
        ("br", BROTLI_ZEROS.to_vec()),
    ] {
        for body in [&body[..], &body[..body.len().min(700)]] {
            let dense = unpacked(encoding, body, body.len());
            let share = (body.len() * 32).clamp(64 * 1024, 4 * 1024 * 1024);
            let seen = dense.as_ref().unwrap().seen.len();
            assert!((1..=share).contains(&seen), "{encoding}: {seen} of {}", body.len());
            assert!(likely(&dense) > u64::try_from(seen).unwrap(), "{encoding}");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300), beyond in 0..5_usize) {
        for (encoding, magic) in [("gzip", &b"\x1f\x8b\x08"[..]), ("deflate", b""), ("br", b""), ("zstd", b"\x28\xb5\x2f\xfd")] {
            let body = [magic, &body].concat();
            let _ = unpacked(encoding, &body, body.len() + beyond);
        }
    }
}
