//! Random bits for ids, fetched from the operating system a page at a time.

/// Bytes fetched at once: ids for 256 requests for one system call.
const PAGE: usize = 4096;

/// A page of random bytes.
#[derive(Debug, Default)]
pub(super) struct Entropy {
    page: Vec<u8>,
}

impl Entropy {
    /// 128 random bits.
    ///
    /// # Errors
    /// When the operating system has none.
    pub(super) fn bits(&mut self) -> Result<u128, getrandom::Error> {
        if self.page.len() < 16 {
            // Only a page that was filled takes the place of the old one: zeros are no random bits.
            let mut page = vec![0; PAGE];
            getrandom::fill(&mut page)?;
            self.page = page;
        }
        let bits = *self.page.last_chunk::<16>().ok_or(getrandom::Error::UNEXPECTED)?;
        self.page.truncate(self.page.len().saturating_sub(bits.len()));
        Ok(u128::from_be_bytes(bits))
    }
}
