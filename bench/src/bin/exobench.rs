//! The command `exobench`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    bench::exobench::main()
}
