//! A door in front of a service, which can be shut: whoever knocks is refused then, and whoever was
//! inside is thrown out.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::process::free_port;
use crate::stage::{SOON, within};

/// How long to wait until it is tried again to open one.
const COPY_IS_GONE: Duration = Duration::from_millis(50);

/// A door.
#[derive(Debug)]
pub struct Door {
    address: SocketAddr,
    service: SocketAddr,
    keeper: Option<JoinHandle<()>>,
}

impl Door {
    /// An open door to a service, which need not be there yet.
    pub async fn to(service: SocketAddr) -> anyhow::Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut door = Self {
            address,
            service,
            keeper: None,
        };
        door.open().await?;
        Ok(door)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.keeper.is_some()
    }

    /// Opens it, if it is shut.
    pub async fn open(&mut self) -> anyhow::Result<()> {
        if self.keeper.is_some() {
            return Ok(());
        }
        let opening = async {
            loop {
                if let Ok(listener) = TcpListener::bind(self.address).await {
                    return listener;
                }
                // A process that was just being started when it was shut has a copy of it for a moment.
                tokio::time::sleep(COPY_IS_GONE).await;
            }
        };
        let listener = within(SOON, "the door can be opened", opening).await?;
        self.keeper = Some(tokio::spawn(keep(listener, self.service)));
        Ok(())
    }

    /// Shuts it.
    pub async fn shut(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            keeper.abort();
            // With it go the listener and all connections.
            let _ = keeper.await;
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

async fn keep(listener: TcpListener, service: SocketAddr) {
    let mut visits = JoinSet::new();
    while let Ok((mut visitor, _)) = listener.accept().await {
        visits.spawn(async move {
            if let Ok(mut inside) = TcpStream::connect(service).await {
                // As whoever is on either side does: else small messages wait for each other here.
                let at_once = |stream: &TcpStream| stream.set_nodelay(true);
                if at_once(&visitor).and_then(|()| at_once(&inside)).is_ok() {
                    // However it ends, both are gone after it.
                    let _ = copy_bidirectional(&mut visitor, &mut inside).await;
                }
            }
        });
        while visits.try_join_next().is_some() {}
    }
}
