//! `holdfast man`: manual pages, made from the same text as `--help`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use clap_mangen::Man as Page;

use crate::exit::Failure;
use crate::output;

/// Which pages.
#[derive(Args, Debug)]
#[command(after_help = "To read one: holdfast man lock run | man -l -")]
pub(crate) struct Man {
    /// The command, like `lock run` [default: holdfast itself]
    #[arg(value_name = "COMMAND", conflicts_with = "out")]
    command: Vec<String>,
    /// Write the pages of all commands into DIR
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    /// Prints one page of `whole`, the command line of this program, or writes all of them.
    pub(crate) fn run(self, whole: clap::Command) -> Result<(), Failure> {
        let pages = pages(whole)?;
        if let Some(folder) = self.out {
            return write(&pages, &folder);
        }
        let name = [&["holdfast".to_owned()], &self.command[..]].concat().join("-");
        let page = pages.into_iter().find(|page| page.name == name);
        let page = page.ok_or_else(|| Failure::Usage(format!("there is no command {:?}", self.command.join(" "))))?;
        output::bytes(&page.text).map_err(Failure::Output)
    }
}

/// One manual page.
struct ManualPage {
    /// `holdfast-lock-run`
    name: String,
    text: Vec<u8>,
}

/// The pages of the command and of all below it.
fn pages(mut whole: clap::Command) -> Result<Vec<ManualPage>, Failure> {
    whole = whole.disable_help_subcommand(true);
    whole.build();
    let mut pages = Vec::new();
    collect(&whole, &mut pages)?;
    Ok(pages)
}

fn collect(command: &clap::Command, pages: &mut Vec<ManualPage>) -> Result<(), Failure> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut text = Vec::new();
    let source = concat!("holdfast ", env!("CARGO_PKG_VERSION"));
    Page::new(command.clone()).source(source).render(&mut text).context("cannot make the page")?;
    pages.push(ManualPage { name, text });
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.into_iter().try_for_each(|command| collect(command, pages))
}

fn write(pages: &[ManualPage], folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for page in pages {
        let file = folder.join(format!("{}.1", page.name));
        fs::write(&file, &page.text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    output::line(format!("{} pages are in {}", pages.len(), folder.display()).as_bytes()).map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Cli;

    fn names(command: &clap::Command, above: &str, names: &mut Vec<String>) {
        let name =
            if above.is_empty() { command.get_name().to_owned() } else { format!("{above}-{}", command.get_name()) };
        names.push(name.clone());
        command.get_subcommands().for_each(|below| self::names(below, &name, names));
    }

    #[test]
    fn every_command_has_a_page_with_its_own_name_and_options() {
        let mut wanted = Vec::new();
        names(&Cli::whole(), "", &mut wanted);
        let pages = pages(Cli::whole()).unwrap();
        let had: Vec<&str> = pages.iter().map(|page| page.name.as_str()).collect();
        assert_eq!(had, wanted);
        let run = pages.iter().find(|page| page.name == "holdfast-lock-run").unwrap();
        let text = String::from_utf8(run.text.clone()).unwrap();
        assert!(text.contains("kill\\-after") && text.contains("HOLDFAST_FENCE"), "{text}");
        assert!(text.contains(".TH holdfast-lock-run 1"), "{text}");
    }
}
