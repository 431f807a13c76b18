//! A connection that can be cut, refused or left hanging: one replica's way to its store.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Connections are made and nothing gets through.
    Hanging,
    /// Connections are closed as soon as they are made.
    Closed,
}

/// What all connections follow.
#[derive(Debug, Clone)]
struct State {
    way: Way,
    /// Connections of an earlier age are cut.
    age: u64,
    /// Where new ones lead.
    socket: PathBuf,
}

/// A TCP address that leads to a Unix socket.
pub(crate) struct Proxy {
    /// Host and port.
    pub(crate) address: String,
    state: Arc<watch::Sender<State>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own.
    pub(crate) async fn to(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let state = Arc::new(watch::Sender::new(State { way: Way::Open, age: 0, socket }));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    /// Ends all connections. New ones are made as before.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.age += 1);
    }

    /// Nothing gets through any more, and nobody is told.
    pub(crate) fn hang(&self) {
        self.state.send_modify(|state| state.way = Way::Hanging);
    }

    /// Ends all connections and takes no others.
    pub(crate) fn close(&self) {
        self.state.send_modify(|state| {
            state.way = Way::Closed;
            state.age += 1;
        });
    }

    /// Ends all connections. New ones lead to another Unix socket.
    pub(crate) fn turn_to(&self, socket: PathBuf) {
        self.state.send_modify(|state| {
            state.age += 1;
            state.socket = socket;
        });
    }

    /// All is well again. What hung was not lost on the way: it arrives now.
    pub(crate) fn open(&self) {
        self.state.send_modify(|state| state.way = Way::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, state: Arc<watch::Sender<State>>) {
    while let Ok((client, _)) = listener.accept().await {
        if state.borrow().way != Way::Closed {
            tokio::spawn(connect(client, state.subscribe()));
        }
    }
}

async fn connect(client: TcpStream, mut state: watch::Receiver<State>) {
    let State { age, socket, .. } = state.borrow_and_update().clone();
    let Ok(server) = UnixStream::connect(socket).await else { return };
    let _ = client.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let forth = pass(from_client, to_server, state.clone());
    let back = pass(from_server, to_client, state.clone());
    let cut = state.wait_for(|state| state.age != age);
    tokio::select! {
        () = forth => {}
        () = back => {}
        _ = cut => {}
    }
}

/// Passes everything on while the way is open.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if state.wait_for(|state| state.way == Way::Open).await.is_err() {
            return;
        }
        let Some(said) = buffer.get(..length) else { return };
        if to.write_all(said).await.is_err() {
            return;
        }
    }
}
