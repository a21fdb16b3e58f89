//! `koco`: the operator's roles and the tools around them. See [`koco::cli`].

fn main() -> std::process::ExitCode {
    koco::cli::main()
}
