//! Random bits for ids, fetched from the operating system a page at a time.

/// Bytes fetched at once: ids for 256 requests for one system call.
const PAGE: usize = 4096;

/// A page of random bytes.
#[derive(Debug, Default)]
pub(super) struct Entropy {
    page: Vec<u8>,
}

impl Entropy {
    /// 128 random bits. Falls back to repeating nothing: an operating system without randomness gives an error, and the error is
    /// passed on.
    pub(super) fn bits(&mut self) -> Result<u128, getrandom::Error> {
        if self.page.len() < 16 {
            self.page.resize(PAGE, 0);
            getrandom::fill(&mut self.page)?;
        }
        let at = self.page.len().saturating_sub(16);
        let tail = self.page.split_off(at);
        let mut bits = [0; 16];
        bits.copy_from_slice(&tail);
        Ok(u128::from_be_bytes(bits))
    }
}
