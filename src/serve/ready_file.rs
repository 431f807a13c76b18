//! The file that tells other processes that Bursar is ready and where it listens. It appears complete or not at all, and
//! goes when Bursar does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::listeners::Addresses;

/// A ready file that was written; removed when it is dropped.
#[derive(Debug)]
pub(super) struct ReadyFile(PathBuf);

#[derive(Serialize)]
struct Content {
    grpc: Option<String>,
    http: String,
    unix: Option<String>,
}

impl ReadyFile {
    /// Writes the file beside its place and moves it there, so that nobody reads half of it.
    pub(super) fn write(path: &Path, addresses: &Addresses) -> Result<Self> {
        let content = Content {
            grpc: addresses.grpc.map(|address| address.to_string()),
            http: addresses.http.to_string(),
            unix: addresses.unix.as_ref().map(|path| path.display().to_string()),
        };
        let mut text = serde_json::to_string(&content)?;
        text.push('\n');
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, path))
            .with_context(|| format!("cannot write the ready file {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // Somebody else may have removed it already.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_tells_the_addresses_while_bursar_is_ready() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        let addresses = Addresses {
            grpc: None,
            unix: Some(PathBuf::from("/run/b.sock")),
            http: ([127, 0, 0, 1], 80).into(),
        };
        let ready = ReadyFile::write(&path, &addresses).unwrap();
        let told = fs::read_to_string(&path).unwrap();
        assert_eq!(told, "{\"grpc\":null,\"http\":\"127.0.0.1:80\",\"unix\":\"/run/b.sock\"}\n");
        drop(ready);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let addresses = Addresses { grpc: None, unix: None, http: ([127, 0, 0, 1], 80).into() };
        let refused = ReadyFile::write(Path::new("/dev/null/ready"), &addresses).unwrap_err();
        assert!(refused.to_string().contains("/dev/null/ready"), "{refused}");
    }
}
