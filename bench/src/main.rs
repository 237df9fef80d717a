//! The command `netbench`.
#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    let fds = std::env::args()
        .skip(2)
        .map(|arg| arg.parse())
        .collect::<Result<Vec<_>, _>>()?;
    bench::worker::child_main(&fds)
}
