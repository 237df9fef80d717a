//! QEMU: out of its packages with its own libraries, what it is started with, and what its exit
//! says about the guest.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::apt::{Packages, output};
use crate::cache::{Cache, key};
use crate::test::Machine;

/// Grows with each change of how QEMU is unpacked.
const FORM: &str = "qemu 1";

/// The I/O port at which a guest leaves its verdict.
pub const VERDICT_PORT: u64 = 0xf4;

/// Name of the virtio port for what the agent reports.
pub const REPORT: &str = "guest.report";
/// Name of the virtio port for files that come back.
pub const FILES: &str = "guest.files";

/// Libraries and programs of the packages, side by side as they were packed.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
/// Where QEMU looks for firmware.
const FIRMWARE: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// QEMU, ready to start.
#[derive(Clone, Debug)]
pub struct Qemu {
    root: PathBuf,
}

/// What a guest is given and where its words go.
#[derive(Debug)]
pub struct Start<'a> {
    /// The kernel.
    pub kernel: &'a Path,
    /// Its initial file system.
    pub initrd: &'a Path,
    /// The machine.
    pub machine: Machine,
    /// A listening Unix socket for the agent's report.
    pub report: &'a Path,
    /// The file that the archive of files is written to.
    pub files: &'a Path,
    /// Whether standard input and output become the console.
    pub interactive: bool,
}

impl Qemu {
    /// Takes QEMU out of its packages.
    pub fn prepare(cache: &Cache, packages: &Packages) -> anyhow::Result<Qemu> {
        let made_of = packages.qemu.iter().map(String::as_str);
        let name = format!("qemu-{}", key(made_of.chain([FORM])));
        let root = cache.get(&name, |path| {
            fs::create_dir(path)?;
            for package in &packages.qemu {
                let package = Packages::path(cache, package);
                output(Command::new("dpkg-deb").arg("-x").arg(package).arg(path))?;
            }
            Ok(())
        })?;
        Ok(Qemu { root })
    }

    /// A program of the packages. It dies with the thread that starts it.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        // Its own loader and libraries: this machine's may be older, newer, or not there.
        command.arg(self.inside("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
        let libraries = LIBRARIES.map(|path| self.inside(path));
        command.args(["--library-path", &libraries.join(":")]);
        command.arg(self.inside("usr/bin") + "/" + name);
        command
    }

    fn inside(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }

    /// The command that boots a guest.
    pub fn command(&self, start: &Start) -> Command {
        let mut command = self.program("qemu-system-x86_64");
        let modules = self.inside("usr/lib/x86_64-linux-gnu/qemu");
        command.env("QEMU_MODULE_DIR", modules);
        for path in FIRMWARE {
            command.arg("-L").arg(self.inside(path));
        }
        command.args(arguments(start));
        command
    }
}

fn arguments(start: &Start) -> Vec<String> {
    let machine = start.machine;
    // With a person at it, Ctrl-C is for the guest, and Ctrl-A X ends QEMU.
    let console = if start.interactive {
        "stdio,id=console,mux=on,signal=off"
    } else {
        "stdio,id=console"
    };
    let mut arguments: Vec<String> = [
        "-accel tcg,thread=multi -machine q35 -cpu max -nodefaults -no-user-config -display none",
        // Without this a panic would boot again and again.
        "-no-reboot",
        "-serial chardev:console",
        "-device virtio-serial-pci -device virtserialport,chardev=report,name=guest.report",
        "-device virtserialport,chardev=files,name=guest.files",
    ]
    .iter()
    .flat_map(|line| line.split(' '))
    .map(str::to_owned)
    .collect();
    if start.interactive {
        arguments.extend(["-mon".to_owned(), "chardev=console".to_owned()]);
    }
    let pairs = [
        ("-chardev", console.to_owned()),
        (
            "-chardev",
            format!("socket,id=report,path={}", start.report.display()),
        ),
        (
            "-chardev",
            format!("file,id=files,path={}", start.files.display()),
        ),
        (
            "-device",
            format!("isa-debug-exit,iobase={VERDICT_PORT:#x},iosize=4"),
        ),
        ("-smp", machine.cpus.to_string()),
        ("-m", format!("{}M", machine.memory_mib)),
        ("-kernel", start.kernel.display().to_string()),
        ("-initrd", start.initrd.display().to_string()),
        ("-append", kernel_command_line(machine)),
    ];
    for (name, value) in pairs {
        arguments.extend([name.to_owned(), value]);
    }
    arguments
}

fn kernel_command_line(machine: Machine) -> String {
    // panic=-1 ends QEMU at once. Its status is then even, as after a power-off: no verdict.
    let hugepages = machine.hugepages;
    format!("console=ttyS0 rdinit=/init panic=-1 loglevel=4 hugepages={hugepages}")
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The agent said so, with this number.
    Verdict(u8),
    /// Nobody said anything: a panic, a reset, a power-off, or QEMU itself failed.
    Silent(i32),
    /// QEMU was killed by this signal.
    Killed(i32),
}

impl End {
    /// Decodes QEMU's status. A verdict arrives doubled, plus one; an even status is not a verdict,
    /// and 0 least of all.
    pub fn of(status: ExitStatus) -> End {
        match (status.code(), status.signal()) {
            (Some(code), _) if code & 1 == 1 => End::Verdict((code >> 1) as u8),
            (Some(code), _) => End::Silent(code),
            (None, signal) => End::Killed(signal.unwrap_or_default()),
        }
    }

    /// What to tell about it.
    pub fn describe(self) -> String {
        match self {
            End::Verdict(code) => format!("the guest ended with {code}"),
            End::Silent(code) => format!(
                "the guest died without a verdict (a panic, a power-off, or QEMU failed; QEMU's \
                 status is {code})"
            ),
            End::Killed(signal) => format!("QEMU was killed by signal {signal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::Root;

    #[test]
    fn only_an_odd_status_is_a_verdict() {
        let end = |raw: i32| End::of(ExitStatus::from_raw(raw));
        assert_eq!(end(1 << 8), End::Verdict(0));
        assert_eq!(end(3 << 8), End::Verdict(1));
        assert_eq!(end(255 << 8), End::Verdict(127));
        assert_eq!(end(0), End::Silent(0));
        assert_eq!(end(2 << 8), End::Silent(2));
        assert_eq!(end(9), End::Killed(9));
        assert!(end(0).describe().contains("without a verdict"));
    }

    #[test]
    fn a_machine_becomes_arguments() {
        let mut machine = Machine::usual(Root::Lean);
        (machine.cpus, machine.hugepages) = (4, 7);
        let start = Start {
            kernel: Path::new("/k"),
            initrd: Path::new("/i"),
            machine,
            report: Path::new("/r"),
            files: Path::new("/f"),
            interactive: false,
        };
        let line = arguments(&start).join(" ");
        for part in [
            "-smp 4",
            "hugepages=7",
            "iobase=0xf4",
            "-no-reboot",
            "panic=-1",
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(line.contains(REPORT) && line.contains(FILES));
        assert!(!line.contains("signal=off"));
    }
}
