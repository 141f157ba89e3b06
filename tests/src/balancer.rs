//! A load balancer, as people put one in front of two ingresses: it asks each for its `/healthz`, sends
//! new connections to those alone that are ready, and leaves the old ones where they are. It makes up
//! for nothing: a connection that an ingress does not take is lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::process::{free_port, http};
use crate::stage::soon;

/// How often each ingress is asked.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Who has not answered by then is not ready.
const PATIENCE: Duration = Duration::from_millis(1000);

/// A balancer; its connections end with it.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    backends: Arc<[Backend]>,
    /// Goes on until it is dropped.
    _tasks: JoinSet<()>,
}

/// One of those that it balances between.
#[derive(Debug)]
struct Backend {
    address: SocketAddr,
    ready: AtomicBool,
}

impl Balancer {
    /// A balancer in front of these, which need not be there yet.
    pub async fn to(backends: impl IntoIterator<Item = SocketAddr>) -> anyhow::Result<Self> {
        let backends = backends.into_iter().map(|address| Backend {
            address,
            ready: AtomicBool::new(false),
        });
        let backends: Arc<[Backend]> = backends.collect();
        let listener = TcpListener::bind(("127.0.0.1", free_port()?)).await?;
        let address = listener.local_addr()?;
        let mut tasks = JoinSet::new();
        let client = http()?;
        for number in 0..backends.len() {
            tasks.spawn(ask(client.clone(), Arc::clone(&backends), number));
        }
        tasks.spawn(balance(listener, Arc::clone(&backends)));
        Ok(Self {
            address,
            backends,
            _tasks: tasks,
        })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has seen that all are ready.
    pub async fn all_ready(&self) -> anyhow::Result<()> {
        let all = async {
            while !self.backends.iter().all(Backend::is_ready) {
                // It learns by asking, and so does whoever waits for it.
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        soon("the balancer sees that all are ready", all).await
    }
}

impl Backend {
    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

/// Asks one of them, again and again.
async fn ask(client: reqwest::Client, backends: Arc<[Backend]>, number: usize) {
    let Some(backend) = backends.get(number) else {
        return;
    };
    let url = format!("http://{}/healthz", backend.address);
    loop {
        let answer = client.get(&url).timeout(PATIENCE).send().await;
        let ready = answer.is_ok_and(|answer| answer.status().is_success());
        backend.ready.store(ready, Ordering::Relaxed);
        // This is how often it asks.
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Takes connections, and sends each to the next one that is ready.
async fn balance(listener: TcpListener, backends: Arc<[Backend]>) {
    let mut connections = JoinSet::new();
    let mut turn = 0;
    while let Ok((mut visitor, _)) = listener.accept().await {
        turn += 1;
        let ready = backends.iter().filter(|backend| backend.is_ready());
        let ready: Vec<SocketAddr> = ready.map(|backend| backend.address).collect();
        let Some(&chosen) = ready.get(turn % ready.len().max(1)) else {
            // Nobody is ready: the visitor is turned away.
            continue;
        };
        connections.spawn(async move {
            if let Ok(mut inside) = TcpStream::connect(chosen).await {
                // However it ends, both are gone after it.
                let _ = copy_bidirectional(&mut visitor, &mut inside).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}
