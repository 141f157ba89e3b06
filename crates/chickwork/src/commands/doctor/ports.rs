//! Whether the process could listen where it is told to, or does so already.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use chickwork_queue::examine::Finding;

use super::{Readable, good, notice, wrong};
use crate::commands::healthcheck;
use crate::settings::parse::reachable;
use crate::settings::{ADMIN_LISTEN, LISTEN};

/// How long whoever listens there may take to say who it is.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Tries each address for a moment.
pub(super) async fn examine(settings: &Readable) -> Vec<Finding> {
    let ports = [
        (LISTEN.about.name, settings.listen),
        (ADMIN_LISTEN.about.name, settings.admin_listen),
    ];
    let mut findings = Vec::new();
    for (name, address) in ports {
        if let Some(address) = address {
            findings.push(listen(name, address).await);
        }
    }
    findings
}

async fn listen(name: &str, address: SocketAddr) -> Finding {
    let Err(error) = TcpListener::bind(address) else {
        return good(name, format!("{address} is free to listen on."));
    };
    match error.kind() {
        ErrorKind::AddrInUse if is_ours(address).await => good(
            name,
            format!("Chickwork is listening on {address} already."),
        ),
        ErrorKind::AddrInUse => notice(
            name,
            format!("Another program listens on {address}."),
            "Is the bot running already? Else end that program or choose another port.",
        ),
        ErrorKind::AddrNotAvailable => wrong(
            name,
            format!("{address} is not an address of this machine."),
            format!(
                "Write an address that it has, or 0.0.0.0:{} for all of them.",
                address.port()
            ),
        ),
        ErrorKind::PermissionDenied => wrong(
            name,
            format!("This user may not listen on port {}.", address.port()),
            "Choose a port from 1024 on, and let the proxy in front use the other.",
        ),
        _ => wrong(
            name,
            format!("{address} cannot be listened on: {error}."),
            "Choose another address.",
        ),
    }
}

/// Whether what listens there speaks as our processes do on both of their ports.
async fn is_ours(address: SocketAddr) -> bool {
    let asking =
        tokio::task::spawn_blocking(move || healthcheck::ask(reachable(address), "/healthz"));
    match tokio::time::timeout(ANSWER_LIMIT, asking).await {
        Ok(Ok(Ok(answer))) => {
            answer.status == 503 || matches!(answer.reason.as_str(), "ready" | "alive")
        }
        Ok(Ok(Err(_)) | Err(_)) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use chickwork_queue::examine::Grade;

    use super::*;

    #[tokio::test]
    async fn a_port_is_free_or_somebody_elses() {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let silent = std::thread::spawn(move || drop(listener.accept()));
        let taken = listen("CHICKWORK_LISTEN", address).await;
        assert_eq!(taken.grade, Grade::Notice, "{taken:?}");
        silent.join().expect("it ends");
        let free = listen("CHICKWORK_LISTEN", address).await;
        assert_eq!(free.grade, Grade::Good, "{free:?}");
        let foreign = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 8080));
        let foreign = listen("CHICKWORK_LISTEN", foreign).await;
        assert_eq!(foreign.grade, Grade::Wrong, "{foreign:?}");
    }
}
