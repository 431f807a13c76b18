//! The deflate encoding: by the standard within a zlib stream, by many servers without one.

use flate2::{Decompress, FlushDecompress, Status};

use crate::envoy::decode::{BUFFER_BYTES, DecodeError, Out};

/// A deflate body.
#[derive(Debug, Default)]
pub(super) struct Deflate {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// Before the two bytes that tell whether it is a zlib stream.
    #[default]
    Start,
    First(u8),
    Inside(Inflate),
    Done,
}

impl Deflate {
    pub(super) fn push(&mut self, mut bytes: &[u8], out: Out<'_>) -> Result<(), DecodeError> {
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.state {
                State::Start => {
                    self.state = State::First(*first);
                    bytes = rest;
                }
                State::First(byte) => {
                    let head = [*byte, *first];
                    let is_zlib = head[0] & 0x0f == 8 && u16::from_be_bytes(head) % 31 == 0;
                    let mut inflate = Inflate::new(is_zlib);
                    inflate.push(&head, out)?;
                    self.state = State::Inside(inflate);
                    bytes = rest;
                }
                State::Inside(inflate) => match inflate.push(bytes, out)? {
                    // What stands behind the end is none of the body's.
                    Some(_) => self.state = State::Done,
                    None => return Ok(()),
                },
                State::Done => return Ok(()),
            }
        }
        Ok(())
    }
}

/// A deflate stream.
#[derive(Debug)]
pub(super) struct Inflate {
    stream: Decompress,
    buffer: Box<[u8]>,
}

impl Inflate {
    /// Within a zlib stream or bare.
    pub(super) fn new(is_zlib: bool) -> Self {
        Self { stream: Decompress::new(is_zlib), buffer: vec![0; BUFFER_BYTES].into() }
    }

    /// Begins another bare stream.
    pub(super) fn reset(&mut self) {
        self.stream.reset(false);
    }

    /// Unpacks on; how many bytes it took when the stream ends within them.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        out: Out<'_>,
    ) -> Result<Option<usize>, DecodeError> {
        let mut read = 0;
        loop {
            let before = (self.stream.total_in(), self.stream.total_out());
            let rest = bytes.get(read..).unwrap_or_default();
            let status = self
                .stream
                .decompress(rest, &mut self.buffer, FlushDecompress::None)
                .map_err(|_| DecodeError::Corrupt)?;
            let took = (self.stream.total_in() - before.0) as usize;
            let gave = (self.stream.total_out() - before.1) as usize;
            read += took;
            out(self.buffer.get(..gave).unwrap_or_default())?;
            match status {
                Status::StreamEnd => return Ok(Some(read)),
                Status::Ok | Status::BufError if took == 0 && gave == 0 => return Ok(None),
                Status::Ok | Status::BufError => {}
            }
        }
    }
}
