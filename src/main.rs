//! The `bursar` program. All of it is in the library, so that tests can run it in process.

use std::process::ExitCode;

fn main() -> ExitCode {
    bursar::cli::main()
}
