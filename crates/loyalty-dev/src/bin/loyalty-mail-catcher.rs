//! `loyalty-mail-catcher`: takes all mail, delivers none, and shows it on a web page.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Parser;
use loyalty_testkit::mail::{Catcher, Options, Store, page};
use tokio::net::TcpListener;

#[derive(Parser)]
struct Cli {
    /// Where the messages are kept
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    smtp: SocketAddr,
    #[arg(long)]
    http: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let store = Arc::new(Store::open(&cli.dir)?);
    let _catcher = Catcher::start(Options {
        listen: Some(cli.smtp),
        store: Some(Arc::clone(&store)),
        ..Options::default()
    })
    .await?;
    let listener = TcpListener::bind(cli.http)
        .await
        .with_context(|| format!("the page cannot be served on {}", cli.http))?;
    page::serve(listener, store).await
}
