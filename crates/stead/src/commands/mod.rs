//! The commands, a file each.

mod delete;
mod down;
mod image;
mod kubectl;
mod logs;
mod serve;
mod service;
mod status;
mod tunnel;
mod up;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli::{Cli, Command};
use crate::place::{Place, require_root};

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let place = || -> anyhow::Result<Place> {
        require_root()?;
        Place::new(&cli.data_dir)
    };
    match cli.command {
        Command::Up(options) => up::up(&place()?, options)?,
        Command::Down => down::down(&place()?)?,
        Command::Delete(options) => delete::delete(&place()?, &options)?,
        Command::Status(options) => return status::status(&place()?, &options),
        Command::Image(what) => image::image(&place()?, what)?,
        Command::Kubectl { arguments } => kubectl::kubectl(&place()?, arguments)?,
        Command::Logs(options) => logs::logs(&place()?, &options)?,
        Command::Service(options) => service::service(&place()?, options)?,
        Command::Tunnel(what) => return tunnel::tunnel(&place()?, what),
        Command::Serve(options) => serve::serve(place()?, options)?,
        Command::Version => print(&version())?,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "stead", &mut script);
            std::io::stdout().write_all(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn version() -> String {
    let (major, minor, _) = stead_api::KUBERNETES_VERSION;
    format!(
        "stead {} (Kubernetes v{major}.{minor})",
        crate::serve::OWN_VERSION
    )
}

/// Prints a result.
fn print(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// For commands that only speak with a server: one thread is enough.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start")?;
    runtime.block_on(work)
}
