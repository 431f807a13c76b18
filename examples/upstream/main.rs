//! A sample LLM provider for the demo, as a program: `cargo run --example upstream`.

mod provider;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::net::TcpListener;

#[derive(Parser)]
#[command(about = "A sample LLM provider")]
struct Args {
    /// Where to listen; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// The bound address is written here once requests are served.
    #[arg(long)]
    ready_file: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the address is for the person who starts it")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind(&args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    if let Some(path) = &args.ready_file {
        // Renamed into place, so that nobody reads half an address.
        let draft = path.with_extension("draft");
        std::fs::write(&draft, listener.local_addr()?.to_string())?;
        std::fs::rename(&draft, path)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Whoever starts it by hand on port 0 has no other way to learn the port.
    println!("Serving on http://{}", listener.local_addr()?);
    provider::serve(listener).await?;
    Ok(())
}
