//! The `bursar` program. All of it is in the library, so that tests can run it in process.

use std::process::ExitCode;

/// A Check is mostly small strings that come and go: this allocator takes a sixth off what it costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    bursar::cli::main()
}
