//! `kubectl koco`: users' commands for jobs. See [`koco::cli::plugin`].

fn main() -> std::process::ExitCode {
    koco::cli::plugin::main()
}
