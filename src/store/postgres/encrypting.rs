//! TLS on the way to the database: what of a URL makes no sense, and what went wrong, told by the parameter to look at.

use std::io;
use std::path::Path;

use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, RootCertStore};

use crate::store::StoreError;

/// How connections may be encrypted. What libpq calls `allow` is not among them: it never asks for encryption unless it is refused
/// without.
const MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];

/// Why connections cannot be encrypted as these parameters of a URL say.
pub(super) fn fault(parameters: &[(&str, &str)]) -> Option<String> {
    let value = |name| parameters.iter().rev().find(|(of, _)| *of == name).map(|(_, value)| *value);
    let mode = value("sslmode");
    if mode.is_some_and(|mode| !MODES.contains(&mode)) {
        return Some(format!("has an sslmode that is none of {}", MODES.join(", ")));
    }
    if value("sslcert").is_some() != value("sslkey").is_some() {
        return Some("has only one of sslcert and sslkey".to_owned());
    }
    let authorities = value("sslrootcert")?;
    if !matches!(mode, Some("verify-ca" | "verify-full")) {
        return Some(
            "has an sslrootcert, which only sslmode=verify-full and verify-ca look at".to_owned(),
        );
    }
    let path = percent_decode_str(authorities).decode_utf8_lossy();
    let why = check_authorities(Path::new(&*path)).err()?;
    Some(format!("has an sslrootcert that cannot be used: {why}"))
}

/// Whether a file has certificates of authorities in it.
fn check_authorities(path: &Path) -> Result<(), String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        authorities.add(certificate).map_err(|error| error.to_string())?;
    }
    if authorities.is_empty() { Err("it has no certificate in PEM".to_owned()) } else { Ok(()) }
}

/// What it means that the handshake of a connection failed; `None` when something else did.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "there are dozens of kinds, and for the others their own words must do"
)]
pub(in crate::store) fn refused(error: &io::Error) -> Option<StoreError> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let advice = match error {
        // The other one is of an authority with the name of one that is known, and another key.
        rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => {
            "the server's certificate is of no authority that is known here; name the authority's file as sslrootcert in \
             store.url"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            "the server's certificate is for another host than store.url names, which sslmode=verify-full does not take"
        }
        _ => "no encrypted connection; see sslmode, sslrootcert and sslcert in store.url",
    };
    Some(StoreError::Unavailable(format!("{advice}: {error}")))
}
