//! Counts open connections, so that a stopping Bursar knows when nobody is left who could ask.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tonic::transport::server::Connected;

/// How many connections are open. Clones count together.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    open: watch::Sender<usize>,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self { open: watch::Sender::new(0) }
    }

    /// The same connections, each counted for as long as it lives.
    pub(super) fn counting<IO, I: Stream<Item = io::Result<IO>>>(
        &self,
        incoming: I,
    ) -> impl Stream<Item = io::Result<Counted<IO>>> + use<IO, I> {
        let connections = self.clone();
        incoming
            .map(move |accepted| accepted.map(|io| Counted { io, _open: Open::one(&connections) }))
    }

    /// Returns as soon as no connection is open.
    pub(super) async fn none_left(&self) {
        // The sender is `self`, so that waiting cannot fail.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }
}

/// One open connection, until it is dropped.
#[derive(Debug)]
struct Open(watch::Sender<usize>);

impl Open {
    fn one(connections: &Connections) -> Self {
        connections.open.send_modify(|open| *open += 1);
        Self(connections.open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// A connection that is counted while it lives.
#[derive(Debug)]
pub(super) struct Counted<IO> {
    io: IO,
    _open: Open,
}

impl<IO: Connected> Connected for Counted<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Counted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

/// Vectored writes are left out on purpose: with them h2 writes every answer of 256 bytes or more by itself, without them it
/// gathers what is ready and writes that at once. Over TCP it saves a tenth of the processor time of a busy server.
impl<IO: AsyncWrite + Unpin> AsyncWrite for Counted<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    #[tokio::test]
    async fn nobody_is_left_when_the_last_connection_is_dropped() {
        let connections = Connections::new();
        connections.none_left().await;
        let accepted = stream::iter([Ok(tokio::io::empty()), Ok(tokio::io::empty())]);
        let mut open: Vec<_> = connections.counting(accepted).collect().await;
        let left = connections.clone();
        let waiting = tokio::spawn(async move { left.none_left().await });
        open.pop();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        open.pop();
        waiting.await.unwrap();
    }
}
