//! Every encoding at every chunking, and what is no such encoding.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use proptest::prelude::*;

use super::packing::{self, BROTLI, BROTLI_ZEROS, zlib, zstd};
use super::*;

const TEXT: &[u8] = br#"{"usage":{"prompt_tokens":12,"completion_tokens":34}}"#;
const ZSTD: &[u8] = include_bytes!("testdata/usage.json.zst");

fn decoded(encoding: &str, body: &[u8], size: usize) -> Result<Vec<u8>, DecodeError> {
    let (mut decoder, mut text) = (Decoder::new(encoding), Vec::new());
    for chunk in body.chunks(size) {
        decoder.push(chunk, |piece| text.extend_from_slice(piece))?;
    }
    Ok(text)
}

/// With everything that its header may have.
fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::GzBuilder::new()
        .filename("name")
        .comment("comment")
        .extra(&b"extra"[..])
        .write(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn deflate(text: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn every_encoding_is_undone_at_every_chunking() {
    let plain_gzip = packing::gzip(TEXT);
    let cases = [
        ("gzip", gzip(TEXT)),
        ("X-GZIP", plain_gzip.clone()),
        ("", plain_gzip),
        ("deflate", zlib(TEXT)),
        ("deflate", deflate(TEXT)),
        ("br", BROTLI.to_vec()),
        ("zstd", ZSTD.to_vec()),
        ("zstd", zstd(TEXT)),
        ("identity", TEXT.to_vec()),
        // Decoded on the way, with the header left behind.
        ("gzip", TEXT.to_vec()),
    ];
    for (encoding, body) in cases {
        for size in [1, 2, 5, 1000] {
            assert_eq!(decoded(encoding, &body, size).as_deref(), Ok(TEXT), "{encoding} by {size}");
        }
    }
}

#[test]
fn members_and_frames_follow_one_another() {
    let gzips = [gzip(b"one "), gzip(b"two"), b"trailing".to_vec()].concat();
    let skipped = [&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
    let zstds = [zstd(b"one "), skipped, zstd(b"two")].concat();
    for size in [1, 3, 1000] {
        assert_eq!(decoded("gzip", &gzips, size).as_deref(), Ok(&b"one two"[..]));
        assert_eq!(decoded("zstd", &zstds, size).as_deref(), Ok(&b"one two"[..]));
    }
}

#[test]
fn large_bodies_come_out_as_they_went_in() {
    let text: Vec<u8> = (0..200_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_string().into_bytes())
        .collect();
    for (encoding, body) in [("gzip", gzip(&text)), ("deflate", zlib(&text)), ("zstd", zstd(&text))]
    {
        assert!(decoded(encoding, &body, 4096).as_deref() == Ok(&text), "{encoding}");
    }
}

#[test]
fn a_body_that_unpacks_to_too_much_is_refused() {
    let zeros = vec![0; 50_000_000];
    for (encoding, body) in [
        ("gzip", gzip(&zeros)),
        ("deflate", deflate(&zeros)),
        ("br", BROTLI_ZEROS.to_vec()),
        ("zstd", zstd(&zeros)),
    ] {
        let (mut decoder, mut total) = (Decoder::new(encoding), 0);
        let result = decoder.push(&body, |piece| total += piece.len());
        assert_eq!(result, Err(DecodeError::TooDense), "{encoding}");
        assert!(total <= body.len() * 100 + 1024 * 1024, "{encoding}: {total}");
    }
}

#[test]
fn decoders_hold_no_more_together_than_there_is_room_for() {
    // For the decoder of one and the windows of a megabyte.
    let room = Room::of(17 * 64 * 1024);
    let text: Vec<u8> = (0..150_000_u32).flat_map(u32::to_le_bytes).collect();
    let decode = |decoder: &mut Decoder, body: &[u8]| {
        let mut total = 0;
        decoder.push(body, |piece| total += piece.len()).map(|()| total)
    };
    let body = zstd(&text);
    let begin = |encoding: &str| Decoder::new(encoding).within(&room);
    let mut first = begin("zstd");
    assert_eq!(decode(&mut first, &body), Ok(600_000));
    let mut second = begin("zstd");
    assert_eq!(decode(&mut second, &body), Err(DecodeError::NoRoom));
    // It gave back what it had, and stays as it is.
    assert_eq!(decode(&mut second, b"x"), Err(DecodeError::NoRoom));
    let mut others: Vec<_> = (0..6).map(|_| begin("gzip")).collect();
    for other in &mut others {
        assert_eq!(decode(other, &gzip(TEXT)), Ok(TEXT.len()));
    }
    assert_eq!(decode(&mut begin("gzip"), &gzip(TEXT)), Err(DecodeError::NoRoom));
    assert_eq!(decode(&mut begin("br"), BROTLI), Err(DecodeError::NoRoom));
    assert_eq!(decode(&mut begin("gzip"), TEXT), Ok(TEXT.len()), "what is plain takes no room");
    drop((first, others));
    assert_eq!(decode(&mut begin("zstd"), &body), Ok(600_000));
}

#[test]
fn what_is_corrupt_or_unknown_stays_an_error() {
    let mut wrong_sum = gzip(TEXT);
    let at = wrong_sum.len() - 6;
    wrong_sum[at] ^= 1;
    assert_eq!(decoded("gzip", &wrong_sum, 7), Err(DecodeError::Corrupt));
    assert_eq!(decoded("deflate", b"\xff\xff\xff\xff", 7), Err(DecodeError::Corrupt));
    assert_eq!(
        decoded("zstd", b"\x28\xb5\x2f\xfd\x00\xff\xff\xff\xff", 7),
        Err(DecodeError::Corrupt)
    );
    assert_eq!(decoded("gzip, br", TEXT, 7), Err(DecodeError::Unknown));
    let mut decoder = Decoder::new("compress");
    for _ in 0..2 {
        assert_eq!(decoder.push(b"x", |_| ()), Err(DecodeError::Unknown));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..300), size in 1..50_usize) {
        for (encoding, magic) in [("gzip", &b"\x1f\x8b\x08"[..]), ("deflate", b""), ("br", b""), ("zstd", b"\x28\xb5\x2f\xfd")] {
            let body = [magic, &body].concat();
            let _ = decoded(encoding, &body, size);
        }
    }

    #[test]
    fn a_flipped_bit_never_panics(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        for (encoding, mut body) in [("gzip", gzip(TEXT)), ("deflate", zlib(TEXT)), ("br", BROTLI.to_vec()), ("zstd", ZSTD.to_vec())] {
            let at = at.index(body.len());
            body[at] ^= 1 << bit;
            let _ = decoded(encoding, &body, 16);
        }
    }
}

#[test]
fn what_a_window_holds_back_takes_room_too() {
    // A window of 8 MiB, and blocks of which each is one byte 128 Ki times. Nothing of it is given out yet.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3];
    for _ in 0..32 {
        frame.extend_from_slice(&[0x02, 0x00, 0x10, b' ']);
    }
    let push = |room: &Room| {
        let mut decoder = Decoder::new("zstd").within(room);
        decoder.push(&frame, |piece| assert_eq!(piece, b""))
    };
    assert_eq!(push(&Room::of(4 * 1024 * 1024)), Err(DecodeError::NoRoom));
    assert_eq!(push(&Room::of(5 * 1024 * 1024)), Ok(()));
}
