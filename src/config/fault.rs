//! What is wrong with a configuration: every fault of the file and the environment at once, each with its place.

use std::cell::RefCell;
use std::fmt;

/// One thing that is wrong, or that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its line in the file; `None` for the environment.
    pub line: Option<usize>,
    /// The setting, such as `listen.grpc`, or the variable, such as `BURSAR_LISTEN_GRPC`.
    pub place: String,
    /// What is wrong and what is accepted.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Why a configuration is refused. Shows one line for each fault, in the order of the file, the environment's last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} {}", if count == 1 { "fault" } else { "faults" })?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}

/// Collects faults while the settings are read, so that reading goes on after the first.
#[derive(Debug, Default)]
pub(super) struct FaultLog {
    faults: RefCell<Vec<Fault>>,
    warnings: RefCell<Vec<Fault>>,
}

impl FaultLog {
    /// Notes what refuses the configuration.
    pub(super) fn fault(
        &self,
        line: Option<usize>,
        place: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.faults.borrow_mut().push(Fault { line, place: place.into(), message: message.into() });
    }

    /// Notes what a person should look at.
    pub(super) fn warning(
        &self,
        line: Option<usize>,
        place: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.warnings.borrow_mut().push(Fault {
            line,
            place: place.into(),
            message: message.into(),
        });
    }

    /// The warnings when there was no fault, otherwise the faults.
    pub(super) fn verdict(self) -> Result<Vec<Fault>, Faults> {
        let mut faults = self.faults.into_inner();
        faults.sort_by_key(|fault| (fault.line.is_none(), fault.line));
        if faults.is_empty() { Ok(self.warnings.into_inner()) } else { Err(Faults(faults)) }
    }
}
