//! As little HTTP as Prometheus needs, safe against whoever connects.
//!
//! Each connection is one request and one answer, then it is closed. A client has [`PATIENCE`] for
//! all of its request and as long for all of the answer, [`HEAD_MAX`] bytes, and no body; so many
//! clients at a time are heard, and one more is closed at once. Nothing that a client sends is
//! echoed, logged or believed; the path is compared with two others.

#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, Sender, bounded};

/// For a request to come, for exod to answer, and for an answer to go.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of a request's head.
const HEAD_MAX: usize = 8 << 10;

/// Connections at a time. Each costs a thread for a while.
const CONNECTIONS_MAX: usize = 16;

/// How long to leave the listener alone when there is no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often to look at the stop flag.
const TURN: Duration = Duration::from_millis(250);

const INDEX: &str = "exod's metrics are at /metrics\n";

/// Serves until `stop`; `scrape` gives the text, on this thread.
pub fn serve(
    listener: &TcpListener,
    stop: &AtomicBool,
    mut scrape: impl FnMut() -> String,
) -> anyhow::Result<()> {
    // No more wait than there are connections.
    let (ask, asked) = bounded::<Sender<String>>(CONNECTIONS_MAX);
    let accepting = listener.try_clone()?;
    thread::Builder::new()
        .name("accept".into())
        .spawn(move || accept(&accepting, &ask))?;
    while !stop.load(Ordering::Acquire) {
        match asked.recv_timeout(TURN) {
            // Who asked may have given up.
            Ok(answer) => drop(answer.send(scrape())),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the listener is gone"),
        }
    }
    Ok(())
}

/// A place among the connections, free again when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Place> {
        let place = Place(taken.clone());
        let before = taken.fetch_add(1, Ordering::AcqRel);
        (before < CONNECTIONS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn accept(listener: &TcpListener, ask: &Sender<Sender<String>>) {
    let taken = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        let Some(place) = Place::take(&taken) else {
            continue;
        };
        let ask = ask.clone();
        // Without a thread the connection is closed.
        let _ = thread::Builder::new().spawn(move || {
            // A client that goes away is no news.
            let _ = answer(&stream, &ask);
            drop(place);
        });
    }
}

fn answer(stream: &TcpStream, ask: &Sender<Sender<String>>) -> io::Result<()> {
    let head = match read_head(stream, Instant::now() + PATIENCE) {
        Ok(head) => head,
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            return reply(stream, "431 Request Header Fields Too Large", "", true);
        }
        Err(error) => return Err(error),
    };
    let (method, path) = match parse(&head) {
        Some(request) => request,
        None => return reply(stream, "400 Bad Request", "", true),
    };
    let with_body = method == "GET";
    if !with_body && method != "HEAD" {
        return reply(stream, "405 Method Not Allowed", "", true);
    }
    match path {
        "/metrics" => {
            let (send, receive) = bounded(1);
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            ask.send(send).map_err(gone)?;
            match receive.recv_timeout(2 * PATIENCE) {
                Ok(text) => reply(stream, "200 OK", &text, with_body),
                Err(_) => reply(stream, "503 Service Unavailable", "", with_body),
            }
        }
        "/" => reply(stream, "200 OK", INDEX, with_body),
        _ => reply(stream, "404 Not Found", INDEX, with_body),
    }
}

/// Everything up to the empty line. Too long: `OutOfMemory`.
fn read_head(mut stream: &TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    loop {
        // Zero would mean for ever.
        let left = deadline.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let count = match stream.read(&mut part) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        head.extend_from_slice(&part[..count]);
        if head.windows(4).any(|four| four == b"\r\n\r\n") {
            return Ok(head);
        }
        if head.len() > HEAD_MAX {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Method and path of the request line, without what follows a question mark.
fn parse(head: &[u8]) -> Option<(&str, &str)> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let known = words.next().is_none() && matches!(version, "HTTP/1.0" | "HTTP/1.1");
    let path = target.split('?').next()?;
    (known && path.starts_with('/')).then_some((method, path))
}

fn reply(mut stream: &TcpStream, status: &str, body: &str, with_body: bool) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let body = if with_body { body } else { "" };
    let (bytes, deadline) = (
        [head.as_bytes(), body.as_bytes()].concat(),
        Instant::now() + PATIENCE,
    );
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    // What a client sent beyond its request must not reset the answer away.
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let _ = stream.read(&mut [0; 1024]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_read_or_refused() {
        let good = [
            ("GET /metrics HTTP/1.1\r\n\r\n", ("GET", "/metrics")),
            (
                "HEAD /?x=/metrics HTTP/1.0\r\nHost: x\r\n\r\n",
                ("HEAD", "/"),
            ),
        ];
        for (text, expected) in good {
            assert_eq!(parse(text.as_bytes()), Some(expected));
        }
        let bad = [
            "",
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET /metrics\r\n\r\n",
            "GET /metrics HTTP/2\r\n\r\n",
            "GET  /metrics HTTP/1.1\r\n\r\n",
            "GET http://x/metrics HTTP/1.1\r\n\r\n",
            "GET /metrics HTTP/1.1 more\r\n\r\n",
        ];
        for text in bad {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse(b"GET /\xff HTTP/1.1\r\n\r\n"), None);
    }
}
