//! A line to the server that can stall, as a network can.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;

use crate::store::postgres::PostgresSettings;
use crate::store::postgres::testing::socket_directory;

pub(super) struct Line {
    port: u16,
    is_stalled: watch::Sender<bool>,
}

impl Line {
    pub(super) async fn to_server() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_stalled, stalled) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = socket_directory().join(".s.PGSQL.5432");
                let (from_server, to_server) =
                    UnixStream::connect(server).await.unwrap().into_split();
                let (from_client, to_client) = client.into_split();
                tokio::spawn(carry(from_client, to_server, stalled.clone()));
                tokio::spawn(carry(from_server, to_client, stalled.clone()));
            }
        });
        Self { port, is_stalled }
    }

    /// The URL by way of this line.
    pub(super) fn url(&self, settings: &PostgresSettings) -> Arc<str> {
        let (place, _) = settings.url.split_once('?').unwrap();
        let database = place.rsplit('/').next().unwrap();
        format!("postgres://bursar@127.0.0.1:{}/{database}", self.port).into()
    }

    /// Nothing goes through any more, and nobody is told.
    pub(super) fn stall(&self) {
        self.is_stalled.send_replace(true);
    }

    /// All goes through again, what was held up first.
    pub(super) fn flow(&self) {
        self.is_stalled.send_replace(false);
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut stalled: watch::Receiver<bool>,
) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let _ = stalled.wait_for(|is_stalled| !is_stalled).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
