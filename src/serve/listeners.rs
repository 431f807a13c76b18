//! The sockets that Bursar listens on. Every one is bound before anything is started, and what stands in the way is told
//! with the setting that chooses another place.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::config::Listen;

/// Who may connect to the Unix socket: its user and its group. Whoever connects can report usage, so nobody else may.
const SOCKET_MODE: u32 = 0o660;

/// Bound sockets. The Unix socket's file is removed when they are dropped.
#[derive(Debug)]
pub struct Listeners {
    pub(super) grpc: Option<TcpListener>,
    pub(super) unix: Option<(UnixListener, SocketFile)>,
    pub(super) http: TcpListener,
}

/// Where the sockets are bound, with the ports that were chosen for port 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Of the gRPC services on TCP.
    pub grpc: Option<SocketAddr>,
    /// Of the gRPC services on a Unix socket.
    pub unix: Option<PathBuf>,
    /// Of the HTTP API.
    pub http: SocketAddr,
}

/// The file of a Unix socket, removed when it is dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever finds it left behind takes it for stale, because nobody answers on it.
        let _ = fs::remove_file(&self.0);
    }
}

impl Listeners {
    /// Binds all sockets.
    ///
    /// # Errors
    /// Names the setting, its value and what is in the way.
    pub async fn bind(listen: &Listen) -> Result<Self> {
        let grpc = match listen.grpc {
            Some(address) => Some(tcp("listen.grpc", "BURSAR_LISTEN_GRPC", address).await?),
            None => None,
        };
        let http = tcp("listen.http", "BURSAR_LISTEN_HTTP", listen.http).await?;
        let unix = match &listen.unix {
            Some(path) => Some(unix(path).await.context("listen.unix")?),
            None => None,
        };
        Ok(Self { grpc, unix, http })
    }

    /// Where they are bound.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn addresses(&self) -> Result<Addresses> {
        Ok(Addresses {
            grpc: self.grpc.as_ref().map(TcpListener::local_addr).transpose()?,
            unix: self.unix.as_ref().map(|(_, file)| file.0.clone()),
            http: self.http.local_addr()?,
        })
    }
}

async fn tcp(setting: &str, variable: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|cause| {
        if cause.kind() == io::ErrorKind::AddrInUse {
            return anyhow!(
                "{setting}: {address} is in use by another process; stop it, or choose another address with {setting} or {variable}"
            );
        }
        anyhow!("{setting}: cannot listen on {address}: {cause}")
    })
}

async fn unix(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory
        && !directory.is_dir()
    {
        bail!("{} is no directory; make it before Bursar starts", directory.display());
    }
    remove_stale(path).await?;
    let shown = path.display();
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {shown}"))?;
    let file = SocketFile(path.to_owned());
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))
        .with_context(|| format!("cannot set the mode of {shown}"))?;
    Ok((listener, file))
}

/// Removes a socket that an earlier process left behind, and nothing else: nobody may lose a file or be cut off.
async fn remove_stale(path: &Path) -> Result<()> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(cause).with_context(|| format!("cannot look at {shown}")),
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{shown} exists and is no socket; choose another path or remove it");
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("cannot remove the stale socket {shown}"))
        }
        Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{shown} belongs to another user's process; choose another path");
        }
        // A connection, or a queue that is full: either way there is a process behind it.
        _ => bail!(
            "{shown} is in use: another process listens on this socket path; stop it or choose another path"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(unix: Option<PathBuf>) -> Listen {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Listen { grpc: Some(free), unix, http: free }
    }

    async fn refusal(unix: &Path) -> String {
        let refused = Listeners::bind(&listen(Some(unix.to_owned()))).await;
        format!("{:#}", refused.expect_err("the path cannot be listened on"))
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let live = Listeners::bind(&listen(Some(path.clone()))).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        assert_eq!(live.addresses().unwrap().unix.as_ref(), Some(&path));
        let told = refusal(&path).await;
        assert!(told.starts_with("listen.unix: ") && told.contains("is in use"), "{told}");
        assert!(UnixStream::connect(&path).await.is_ok(), "the first still answers");
        drop(live);
        assert!(!path.exists(), "the file goes with its listener");
    }

    #[tokio::test]
    async fn other_files_and_missing_directories_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("notes.txt");
        fs::write(&file, "mine").unwrap();
        assert!(
            refusal(&file)
                .await
                .ends_with("notes.txt exists and is no socket; choose another path or remove it")
        );
        assert_eq!(fs::read(&file).unwrap(), b"mine");
        let missing = refusal(&folder.path().join("missing/b.sock")).await;
        assert!(
            missing.ends_with("missing is no directory; make it before Bursar starts"),
            "{missing}"
        );
        let long = refusal(&folder.path().join("x".repeat(120))).await;
        assert!(long.contains("cannot listen on") && long.contains("SUN_LEN"), "{long}");
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_its_setting() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let holder = TcpListener::bind(taken).await.unwrap();
        let told = |listen: Listen| async move {
            format!("{:#}", Listeners::bind(&listen).await.expect_err("in use"))
        };
        let grpc = told(Listen { grpc: Some(taken), ..listen(None) }).await;
        assert!(
            grpc.starts_with(&format!("listen.grpc: {taken} is in use"))
                && grpc.contains("BURSAR_LISTEN_GRPC"),
            "{grpc}"
        );
        let http = told(Listen { http: taken, ..listen(None) }).await;
        assert!(http.starts_with(&format!("listen.http: {taken} is in use")), "{http}");
        drop(holder);
    }
}
