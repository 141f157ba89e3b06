//! A server of raw bytes: every connection gets the one prepared answer, and what was asked is kept.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What happens to a request.
#[derive(Clone)]
pub(crate) enum Answer {
    /// These bytes, then the end.
    Bytes(Vec<u8>),
    /// These bytes, then silence with the connection open.
    Stall(Vec<u8>),
    /// These bytes, then more and more.
    Endless(Vec<u8>),
    /// These bytes over and over.
    Over(Vec<u8>),
    /// These bytes, then a byte now and then.
    Dribble(Vec<u8>),
    /// The connection is closed.
    Drop,
}

/// So long a dribble takes from byte to byte.
const DRIBBLE: Duration = Duration::from_millis(100);

/// The server.
pub(crate) struct Canned {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

/// An answer with a status, header lines and a body.
pub(crate) fn answer(status: u16, headers: &[&str], body: &str) -> Answer {
    let mut head = format!("HTTP/1.1 {status} Canned\r\nconnection: close\r\n");
    for header in headers {
        head += &format!("{header}\r\n");
    }
    // A 204 has neither body nor length.
    if status != 204 {
        head += &format!("content-length: {}\r\n", body.len());
    }
    Answer::Bytes(format!("{head}\r\n{body}").into_bytes())
}

/// The head of an answer whose body goes on without end.
pub(crate) fn endless(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} Canned\r\n\r\n").into_bytes()
}

impl Canned {
    pub(crate) async fn serve(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::default());
        let kept = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(one(stream, answer.clone(), Arc::clone(&kept)));
            }
        });
        Self { url, requests }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Head and body of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }

    /// The only request so far.
    pub(crate) fn request(&self) -> String {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "one request");
        requests.remove(0)
    }
}

async fn one(mut stream: TcpStream, answer: Answer, kept: Arc<Mutex<Vec<String>>>) {
    let Some(request) = request(&mut stream).await else {
        return;
    };
    kept.lock().expect("not poisoned").push(request);
    match answer {
        Answer::Bytes(bytes) => {
            let _ = stream.write_all(&bytes).await;
        }
        Answer::Stall(bytes) => {
            let _ = stream.write_all(&bytes).await;
            // Until the client goes.
            let _ = stream.read(&mut [0]).await;
        }
        Answer::Endless(bytes) => {
            let mut more = stream.write_all(&bytes).await;
            while more.is_ok() {
                more = stream.write_all(&[b'x'; 4096]).await;
            }
        }
        Answer::Over(bytes) => while stream.write_all(&bytes).await.is_ok() {},
        Answer::Dribble(bytes) => {
            let mut more = stream.write_all(&bytes).await;
            while more.is_ok() {
                // Not a wait: so slow is this server.
                tokio::time::sleep(DRIBBLE).await;
                more = stream.write_all(b"1").await;
            }
        }
        Answer::Drop => {}
    }
}

/// Reads one request to the end of its body.
async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let read = stream
            .read(&mut chunk)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        bytes.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        if body.len() >= length {
            return Some(text.into_owned());
        }
    }
}
