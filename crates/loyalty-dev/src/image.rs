//! `./dev image`: the container images, built by buildah, which needs no daemon, and tried
//! as docker/compose.yaml would run them.

mod buildah;
mod trial;

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::chroot;
use crate::context::Context;
use crate::package::VERSION;
use buildah::Buildah;

/// The targets of docker/Dockerfile that are images.
pub const TARGETS: [&str; 3] = ["database", "relay", "mail"];

/// Said in place of a base image: make one.
const DEBOOTSTRAP: &str = "debootstrap";

#[derive(Clone, Debug, clap::Args)]
pub struct ImageArgs {
    /// The image to build on; `debootstrap` makes one of this machine's release, where no
    /// registry can be reached
    #[arg(long, value_name = "IMAGE", default_value = "debian:bookworm-slim")]
    base: String,
    /// PEM file of authorities for the build to believe, behind a proxy that has its own
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Compilers at once
    #[arg(long, value_name = "N")]
    jobs: Option<u16>,
    /// How layers are kept: overlay, or where that cannot be mounted, vfs
    #[arg(long, value_name = "NAME", default_value = "overlay")]
    storage_driver: String,
    /// Only build
    #[arg(long, conflicts_with = "no_build")]
    no_try: bool,
    /// Only try what was built before
    #[arg(long)]
    no_build: bool,
}

/// The name by which docker/compose.yaml knows an image.
pub fn name(target: &str) -> String {
    format!("pg_loyalty/{target}:{VERSION}")
}

pub fn image(context: &Context, args: &ImageArgs) -> Result<()> {
    let buildah = Buildah::at(&context.state.join("image"), &args.storage_driver)?;
    if !args.no_build {
        build(context, &buildah, args)?;
    }
    if !args.no_try {
        trial::run(context, &buildah)?;
    }
    print!("{}", buildah.sizes()?);
    Ok(())
}

fn build(context: &Context, buildah: &Buildah, args: &ImageArgs) -> Result<()> {
    let base = if args.base == DEBOOTSTRAP {
        let release = chroot::release()?;
        let base = format!("localhost/loyalty-{release}");
        if !buildah.has(&base) {
            buildah.import(&chroot::debian(context, &release)?, &base)?;
        }
        base
    } else {
        args.base.clone()
    };
    let docker = context.repo.join("docker");
    for target in TARGETS {
        eprintln!("dev: building the image {}", name(target));
        let mut command = buildah.command("bud");
        command
            .args(["--isolation", "chroot", "--network", "host"])
            // Only this format knows health checks.
            .args(["--layers", "--format", "docker", "--target", target])
            .args(["--tag", &name(target)])
            .arg("--file")
            .arg(docker.join("Dockerfile"))
            .arg("--ignorefile")
            .arg(docker.join("Dockerfile.dockerignore"))
            .arg(format!("--build-arg=BASE={base}"))
            .arg(format!("--build-arg=PG_MAJOR={}", context.pg_major));
        if let Some(jobs) = args.jobs {
            command.arg(format!("--build-arg=CARGO_BUILD_JOBS={jobs}"));
        }
        if let Some(ca) = &args.ca {
            command.arg(format!("--secret=id=ca,src={}", ca.display()));
        }
        loyalty_testkit::os::run_visible(command.arg(&context.repo))
            .with_context(|| format!("the image {target} does not build"))?;
    }
    Ok(())
}
