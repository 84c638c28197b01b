//! `holdfast completions`: what a shell needs to complete commands and options.

use clap::Args;
use clap_complete::Shell;

use crate::exit::Failure;
use crate::output;

/// For which shell.
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

const HELP: &str = "\
bash  source <(holdfast completions bash)                                       in ~/.bashrc
zsh   holdfast completions zsh > \"${fpath[1]}/_holdfast\"                        once
fish  holdfast completions fish > ~/.config/fish/completions/holdfast.fish      once";

impl Completions {
    /// Prints the completions of `whole`, the command line of this program.
    pub(crate) fn run(self, mut whole: clap::Command) -> Result<(), Failure> {
        output::bytes(&script(self.shell, &mut whole)).map_err(Failure::Output)
    }
}

fn script(shell: Shell, whole: &mut clap::Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, whole, "holdfast", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::command::Cli;

    #[test]
    fn every_shell_has_the_commands_and_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell, &mut Cli::whole())).unwrap();
            for word in ["takeover", "undrain", "kill-after", "token-only", "inbox-prefix"] {
                assert!(script.contains(word), "{shell} has no {word}");
            }
        }
    }

    #[test]
    fn bash_completes_with_it() {
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-e"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = bash.spawn() else { return };
        let mut script = script(Shell::Bash, &mut Cli::whole());
        script.extend_from_slice(
            b"\nCOMP_WORDS=(holdfast lock acquire s1 --token-o); COMP_CWORD=4; _holdfast holdfast --token-o s1\n\
              echo \"${COMPREPLY[@]}\"\n",
        );
        child.stdin.take().unwrap().write_all(&script).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "--token-only\n");
    }
}
