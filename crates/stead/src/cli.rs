//! The command line: names and flags, which are a contract.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// StatefulSets, and everything they need, from one binary that speaks the Kubernetes API.
#[derive(Debug, Parser)]
#[command(
    name = "stead",
    version,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// Where the cluster keeps its state
    #[arg(long, global = true, value_name = "DIR", default_value = crate::place::DEFAULT_DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the cluster, or say that it already runs
    Up(Up),
    /// Stop the pods, each in its grace period, and the server; state and claims stay
    Down,
    /// Remove the cluster and all its data
    Delete(Delete),
    /// Show the server, the node and the pods; exits with 3 if the cluster is stopped
    Status(Status),
    /// Show where a Service is reached, and open it in the browser
    Service(Service),
    /// Reach Services of type LoadBalancer at 127.0.0.1
    #[command(subcommand)]
    Tunnel(Tunnel),
    /// Images that pods can run
    #[command(subcommand)]
    Image(Image),
    /// Run the kubectl that is on the PATH, on this cluster
    #[command(disable_help_flag = true)]
    Kubectl {
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<OsString>,
    },
    /// Print the server's own log
    Logs(Logs),
    /// Print the version
    Version,
    /// Print a script that completes commands in a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Serve the cluster, reporting on standard output; what `up` starts
    #[command(hide = true)]
    Serve(Serve),
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Return when the node is Ready and leave the cluster running in the background
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) serve: Serve,
    /// The kubeconfig to write [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Serve {
    /// Where the API listens on this machine [default: 127.0.0.1:6443, or the next free port]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Who gives Services of type LoadBalancer their addresses
    #[arg(long, value_enum, default_value_t, value_name = "WHO")]
    pub(crate) load_balancer: LoadBalancer,
    /// Open Services of type LoadBalancer and NodePort to other machines, at ports of this one
    #[arg(long)]
    pub(crate) expose: bool,
    /// Write down who asks for what, as this policy wants it (audit.k8s.io/v1)
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_policy: Option<PathBuf>,
    /// Where that is written to [default: audit.log in the data directory]
    #[arg(long, value_name = "FILE", requires = "audit_policy")]
    pub(crate) audit_log: Option<PathBuf>,
}

/// Who gives Services of type LoadBalancer their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LoadBalancer {
    /// stead, from a pool that this machine and the pods reach
    #[default]
    Builtin,
    /// Nobody, or somebody in the cluster: they stay <pending>
    None,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Service {
    #[command(subcommand)]
    pub(crate) what: Option<ServiceCommand>,
    /// The Service's name
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Its namespace
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    /// Print its URLs, one a line, and open nothing
    #[arg(long)]
    pub(crate) url: bool,
    /// How long to wait until a pod takes requests
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    pub(crate) wait: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// List the URLs of all Services
    List {
        /// Only those of this namespace
        #[arg(long, short)]
        namespace: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum Tunnel {
    /// Forward the ports of Services of type LoadBalancer on 127.0.0.1, in the background
    Start,
    /// Forward them no longer
    Stop,
    /// Show what is forwarded; exits with 3 if nothing is to be
    Status,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// How to print
    #[arg(long, short, value_enum)]
    pub(crate) output: Option<Output>,
}

/// A form for programs.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Output {
    /// A JSON document.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on as the log grows
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only this many lines from the end
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Load images from a docker-archive or an OCI layout; `-` is standard input
    Load {
        /// The archive
        #[arg(value_name = "FILE.tar")]
        file: PathBuf,
    },
    /// List images
    Ls {
        /// How to print
        #[arg(long, short, value_enum)]
        output: Option<Output>,
    },
    /// Remove images
    Rm {
        /// Their names, or ids
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Pull an image from its registry, as whom `docker login` has written down, if anyone
    Pull {
        /// Its name; `busybox:1.36` is `docker.io/library/busybox:1.36`
        #[arg(value_name = "REF")]
        reference: String,
    },
}
