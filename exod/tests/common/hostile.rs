//! The hostile process's side: raw system calls on inherited descriptors, one command a line.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use exod::frames::FRAME_BYTES;

use crate::common::CLIENT;

/// Does commands from descriptor 0 until it closes.
pub fn serve() {
    // SAFETY: the parent made descriptor 0 a socket for this function alone.
    let stream = unsafe { UnixStream::from_raw_fd(0) };
    let mut answers = stream.try_clone().expect("dup");
    let mut state = State::default();
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = state.command(&words);
        if writeln!(answers, "{answer}").is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct State {
    /// By the name that the command gave.
    maps: HashMap<String, (usize, usize)>,
    kept: Vec<c_int>,
    racing: Arc<AtomicBool>,
    racer: Option<JoinHandle<()>>,
}

fn number(word: &str) -> i64 {
    // In frames where it ends so.
    match word.strip_suffix('f') {
        Some(frames) => frames.parse::<i64>().expect("a number") * FRAME_BYTES as i64,
        None => word.parse().expect("a number"),
    }
}

fn answer(rc: i64) -> String {
    if rc != -1 {
        return "ok".into();
    }
    let e = std::io::Error::last_os_error();
    let raw = e.raw_os_error().unwrap_or(0);
    format!("{:?}", nix::errno::Errno::from_raw(raw))
}

impl State {
    fn command(&mut self, words: &[&str]) -> String {
        match *words {
            ["hello"] => "ok".into(),
            ["map", name, fd, how, offset, len] => self.map(name, fd, how, offset, len),
            ["load", name, offset] => in_fork(self.at(name, offset), None),
            ["store", name, offset, value] => {
                in_fork(self.at(name, offset), Some(number(value) as u8))
            }
            // SAFETY: the range is a mapping of ours that nothing in Rust refers to.
            ["unmap", name] => unsafe {
                let (at, len) = self.maps.remove(name).expect("mapped");
                answer(libc::munmap(at as *mut c_void, len).into())
            },
            // SAFETY: as above; what is lost is ours to lose.
            ["remove", name] => unsafe {
                let (at, len) = self.maps[name];
                answer(libc::madvise(at as *mut c_void, len, libc::MADV_REMOVE).into())
            },
            // SAFETY: as above.
            ["make-writable", name] => unsafe {
                let (at, len) = self.maps[name];
                let prot = libc::PROT_READ | libc::PROT_WRITE;
                answer(libc::mprotect(at as *mut c_void, len, prot).into())
            },
            ["pin-pipe", name] => self.pin_in_pipe(name),
            ["pin-uring", name] => self.pin_in_uring(name),
            ["hog"] => self.hog(),
            ["race"] => self.race(),
            ["rest"] => {
                self.racing.store(false, Ordering::Relaxed);
                let racer = self.racer.take().expect("racing");
                racer.join().expect("it only calls the kernel");
                "ok".into()
            }
            _ => on_descriptor(words),
        }
    }

    fn at(&self, name: &str, offset: &str) -> usize {
        self.maps[name].0 + number(offset) as usize
    }

    fn map(&mut self, name: &str, fd: &str, how: &str, offset: &str, len: &str) -> String {
        let (prot, flags) = match how {
            "ro" => (libc::PROT_READ, libc::MAP_SHARED),
            "rw" => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
            "rw-noreserve" => (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
            ),
            "private" => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
            other => panic!("{other}"),
        };
        let len = number(len) as usize;
        let (fd, offset) = (number(fd) as c_int, number(offset));
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe { libc::mmap(ptr::null_mut(), len, prot, flags, fd, offset) };
        if at == libc::MAP_FAILED {
            return answer(-1);
        }
        self.maps.insert(name.to_owned(), (at as usize, len));
        "ok".into()
    }

    fn pin_in_pipe(&mut self, name: &str) -> String {
        let mut pipe = [0; 2];
        let iov = libc::iovec {
            iov_base: self.maps[name].0 as *mut c_void,
            iov_len: 4096,
        };
        // SAFETY: the array and the vector live through the calls; the page is only read.
        let rc = unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            libc::vmsplice(pipe[1], &iov, 1, 0)
        };
        self.kept.extend(pipe);
        answer(rc as i64)
    }

    fn pin_in_uring(&mut self, name: &str) -> String {
        const REGISTER_BUFFERS: c_int = 0;
        let iov = libc::iovec {
            iov_base: self.maps[name].0 as *mut c_void,
            iov_len: 4096,
        };
        // struct io_uring_params, of which all that we do not set is zero.
        let mut params = [0u32; 30];
        // SAFETY: the kernel writes 120 bytes of parameters and reads one vector.
        unsafe {
            let ring = libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr());
            if ring == -1 {
                return answer(-1);
            }
            self.kept.push(ring as c_int);
            answer(libc::syscall(
                libc::SYS_io_uring_register,
                ring,
                REGISTER_BUFFERS,
                &iov,
                1,
            ))
        }
    }

    /// Goes on taking pages of the client's descriptor, by allocating and by mapping, until `rest`.
    fn race(&mut self) -> String {
        self.racing.store(true, Ordering::Relaxed);
        let racing = Arc::clone(&self.racing);
        self.racer = Some(std::thread::spawn(move || {
            let frame = FRAME_BYTES as i64;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
            for round in 0.. {
                if !racing.load(Ordering::Relaxed) {
                    return;
                }
                // SAFETY: nothing but the kernel touches the mapping, which ends here.
                unsafe {
                    let mode = libc::FALLOC_FL_KEEP_SIZE;
                    libc::fallocate(CLIENT, mode, (round % 64) * frame, frame);
                    let at = libc::mmap(ptr::null_mut(), FRAME_BYTES, prot, flags, CLIENT, 0);
                    if at != libc::MAP_FAILED {
                        libc::munmap(at, FRAME_BYTES);
                    }
                }
            }
        }));
        "ok".into()
    }

    /// Takes every hugepage that the pool gives; answers how many.
    fn hog(&mut self) -> String {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        for taken in 0.. {
            // SAFETY: a new mapping, whose reservation alone takes the page from everybody else.
            let at = unsafe { libc::mmap(ptr::null_mut(), FRAME_BYTES, prot, flags, -1, 0) };
            if at == libc::MAP_FAILED {
                return taken.to_string();
            }
            self.maps
                .insert(format!("hog{taken}"), (at as usize, FRAME_BYTES));
        }
        unreachable!("memory has an end")
    }
}

/// One real load or store in a forked child, so that a signal kills nobody else. Answers the byte,
/// or the signal.
fn in_fork(at: usize, store: Option<u8>) -> String {
    // SAFETY: the child only touches one byte and exits; the parent waits for it.
    let status = unsafe {
        let child = libc::fork();
        assert_ne!(child, -1, "fork");
        if child == 0 {
            let byte = at as *mut u8;
            if let Some(value) = store {
                byte.write_volatile(value);
            }
            libc::_exit(c_int::from(byte.read_volatile()));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        status
    };
    if libc::WIFEXITED(status) {
        return libc::WEXITSTATUS(status).to_string();
    }
    let signal = nix::sys::signal::Signal::try_from(libc::WTERMSIG(status));
    signal.map_or_else(|_| "unknown signal".into(), |s| s.to_string())
}

fn on_descriptor(words: &[&str]) -> String {
    let fd = number(words[1]) as c_int;
    let path = CString::new(format!("/proc/self/fd/{fd}")).expect("no zero in it");
    let argument = |n: usize| number(words[n]);
    // SAFETY: calls on a descriptor of ours with integers and a string that lives through them.
    let rc = unsafe {
        match words[0] {
            "close" => libc::close(fd).into(),
            "truncate" => libc::ftruncate(fd, argument(2)).into(),
            "truncate-path" => libc::truncate(path.as_ptr(), argument(2)).into(),
            "extend" => libc::fallocate(fd, 0, argument(2), argument(3)).into(),
            "extend-keep-size" => {
                libc::fallocate(fd, libc::FALLOC_FL_KEEP_SIZE, argument(2), argument(3)).into()
            }
            "punch" => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                libc::fallocate(fd, mode, argument(2), argument(3)).into()
            }
            "reopen-writable" => libc::open(path.as_ptr(), libc::O_RDWR).into(),
            "reopen-readable" => libc::open(path.as_ptr(), libc::O_RDONLY).into(),
            "reopen-truncating" => libc::open(path.as_ptr(), libc::O_RDWR | libc::O_TRUNC).into(),
            "seal" => {
                let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
                libc::fcntl(fd, libc::F_ADD_SEALS, seals).into()
            }
            "chmod" => libc::fchmod(fd, 0o777).into(),
            other => panic!("no such command: {other}"),
        }
    };
    answer(rc)
}
