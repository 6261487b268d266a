//! `cargo xtask test kernels`: the programs of this build on kernels of Debian's releases, in virtual machines.
//!
//! [`image`] gets the kernels and [`contents`] what runs on them, both with [`packages`]; [`guest`] boots, with an archive made by
//! [`cpio`]; [`transcript`] judges what came of it. The cache holds what was fetched: remove a directory of it to fetch anew.

mod contents;
mod cpio;
mod guest;
mod image;
mod packages;
mod transcript;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::{
    contents::{Contents, Tools},
    guest::{Guest, Step},
    image::{SOURCES, Source},
    transcript::Transcript,
};
use crate::{bpf, cargo::Workspace, privilege::Root, tally::Tally};

/// How long a guest may take: several times what it takes on two idle cores, because it may have to share them.
const LIMIT: Duration = Duration::from_secs(1200);

/// Test programs and their arguments on a kernel that xlb is made for.
const SUPPORTED: [(&str, &[&str]); 4] = [
    ("guest", &["instructions::", "--nocapture"]),
    // One of each kind: translation, link header, IP header, fragments, what has one direction only. The layer as a whole takes too long
    // where the processor is emulated: the verifier alone needs seconds for each test.
    (
        "packet",
        &[
            "translation::",
            "extensions::",
            "tags::connection_opens",
            "tags::reply_leaves",
            "fragments::fragments_in_order",
            "fragments::two_clients",
            "icmp::error_reaches",
            "icmp::quoted_header",
            "refusal::sender_is_told",
            "dsr::ethernet",
        ],
    ),
    ("guest", &["attachment::", "ipvs::"]),
    ("netns", &["forwarding::"]),
];
/// On a kernel that is too old: the reason.
const UNSUPPORTED: [(&str, &[&str]); 1] = [("guest", &["floor::", "--nocapture"])];

/// Runs the layer. `arguments` replace the selection of tests.
///
/// # Errors
///
/// When something can't be built, fetched or started; what fails in a guest is in the result.
pub(crate) fn test(workspace: &Workspace, root: Root, arguments: &[String]) -> Result<Tally> {
    ensure!(
        cfg!(target_arch = "x86_64"),
        "the kernels of this layer are those for x86_64"
    );
    let cache = bpf::cache_directory()?.join("kernels");
    let directory = workspace.target.join("kernels").into_std_path_buf();
    let tools = Tools::open(&cache)?;
    let contents = Contents::gather(workspace, &tools, &directory)?;

    let mut reports = vec![this_machine(root, &contents)?];
    for source in &SOURCES {
        eprintln!("== kernels: Linux {} ==", source.series);
        let image = source.image(&cache, &tools.busybox())?;
        let guest = Guest {
            image: &image.file,
            modules: &image.modules,
            programs: &contents.programs,
            libraries: &contents.libraries,
            steps: &steps(source, arguments),
        };
        let started = Instant::now();
        let transcript = guest
            .run(&directory.join(source.series), LIMIT)
            .with_context(|| format!("no guest with Linux {}", source.series))?;
        reports.push((transcript, started.elapsed()));
    }
    let mut sum = Tally::default();
    for (transcript, duration) in &reports {
        println!("{}", transcript.summary(*duration));
        sum.add(transcript.tally);
    }
    Ok(sum)
}

/// The verifier's counts on the kernel that runs here, to be compared.
fn this_machine(root: Root, contents: &Contents) -> Result<(Transcript, Duration)> {
    eprintln!("== kernels: this machine ==");
    let started = Instant::now();
    let mut tests = root.command(&contents.guest_tests, &[]);
    tests.args(["instructions::", "--nocapture"]);
    let transcript = guest::here(&mut tests, LIMIT)?;
    Ok((transcript, started.elapsed()))
}

/// What runs on a kernel. Below the floor there is nothing to choose from.
fn steps(source: &Source, arguments: &[String]) -> Vec<Step> {
    let selection: &[(&str, &[&str])] = if source.is_supported { &SUPPORTED } else { &UNSUPPORTED };
    let mut steps = Vec::new();
    for (program, own) in selection {
        let arguments = if arguments.is_empty() || !source.is_supported {
            own.iter().map(|argument| (*argument).to_owned()).collect()
        } else {
            arguments.to_vec()
        };
        let step = Step {
            program: (*program).to_owned(),
            arguments,
        };
        // With arguments of the caller two selections of one program become the same.
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_below_the_floor_runs_nothing_but_the_reason() {
        let programs = |source: &Source| steps(source, &[]).len();
        assert_eq!(programs(&SOURCES[0]), UNSUPPORTED.len());
        assert_eq!(programs(&SOURCES[1]), SUPPORTED.len());
    }

    #[test]
    fn arguments_of_the_caller_replace_the_selection() {
        let steps = steps(&SOURCES[1], &["reply_".to_owned()]);
        assert_eq!(steps.len(), 3, "each program once");
        assert!(steps.iter().all(|step| step.arguments == ["reply_"]));
    }
}
