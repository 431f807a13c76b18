//! Temporary.
pub(super) struct Decoder;
impl Decoder {
    pub(super) fn new(_: &str) -> Self {
        Self
    }
    pub(super) fn push(&mut self, bytes: &[u8], mut to: impl FnMut(&[u8])) {
        to(bytes);
    }
}
