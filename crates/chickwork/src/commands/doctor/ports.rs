//! Whether the process could listen where it is told to, or does so already.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use chickwork_ingress::WEBHOOKS;
use chickwork_queue::examine::Finding;

use super::Readable;
use crate::admin::ADMIN;
use crate::commands::healthcheck;
use crate::settings::parse::reachable;
use crate::settings::{ADMIN_LISTEN, LISTEN};
use crate::words;

/// How long whoever listens there may take to say who it is.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What it says is told up to this length, in characters.
const LONGEST_ANSWER: usize = 40;

/// Tries each address for a moment, for a process of this command.
pub(super) async fn examine(settings: &Readable, command: &str) -> Vec<Finding> {
    let admin = format!("{ADMIN} {command}");
    let ports = [
        (LISTEN.about.name, settings.listen, WEBHOOKS),
        (ADMIN_LISTEN.about.name, settings.admin_listen, &admin),
    ];
    let mut findings = Vec::new();
    for (name, address, listens_for) in ports {
        if let Some(address) = address {
            findings.push(listen(name, address, listens_for).await);
        }
    }
    findings
}

async fn listen(name: &str, address: SocketAddr, listens_for: &str) -> Finding {
    let Err(error) = TcpListener::bind(address) else {
        return Finding::good(name, format!("{address} is free to listen on"));
    };
    match error.kind() {
        ErrorKind::AddrInUse => match who_listens(address).await {
            Some(other) => taken(name, address, listens_for, &other),
            None => {
                let cure =
                    "Is the bot running already? Else end that program or choose another port.";
                Finding::notice(name, format!("Another program listens on {address}"))
                    .with_cure(cure)
            }
        },
        ErrorKind::AddrNotAvailable => Finding::wrong(
            name,
            format!("{address} is not an address of this machine"),
            format!(
                "Write an address that it has, or 0.0.0.0:{} for all of them.",
                address.port()
            ),
        ),
        ErrorKind::PermissionDenied => Finding::wrong(
            name,
            format!("This user may not listen on port {}", address.port()),
            "Choose a port from 1024 on, and let the proxy in front use the other.",
        ),
        _ => Finding::wrong(
            name,
            format!("{address} cannot be listened on: {error}"),
            "Choose another address.",
        ),
    }
}

/// One of ours listens there, for what it says itself. It may be the process that is looked at.
fn taken(name: &str, address: SocketAddr, listens_for: &str, other: &str) -> Finding {
    let of_worker = format!("{ADMIN} worker");
    if other == listens_for && other != of_worker {
        return Finding::good(name, format!("Chickwork is listening on {address} already"));
    }
    let Some(command) = other.strip_prefix(ADMIN) else {
        return Finding::wrong(
            name,
            format!("A running Chickwork takes webhooks on {address}"),
            "Choose another port.",
        );
    };
    let command = words::line(command.trim(), LONGEST_ANSWER);
    let says = format!("A running `chickwork {command}` has its admin port on {address}");
    if listens_for.starts_with(ADMIN) {
        // Any number of workers may run on one machine.
        Finding::notice(name, says)
            .with_cure("If it is not the process that you look at, give this one another port.")
    } else {
        Finding::wrong(name, says, "Choose another port.")
    }
}

/// What one of our processes says that it listens there for; `None`: it is not one of ours.
async fn who_listens(address: SocketAddr) -> Option<String> {
    let asking =
        tokio::task::spawn_blocking(move || healthcheck::ask(reachable(address), "/healthz"));
    let answer = tokio::time::timeout(ANSWER_LIMIT, asking).await;
    answer.ok()?.ok()?.ok()?.listens_for
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::Ipv4Addr;

    use chickwork_queue::examine::Grade;

    use super::*;

    const HERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[tokio::test]
    async fn a_port_is_free_or_somebody_elses() {
        let listener = TcpListener::bind(HERE).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let foreign = std::thread::spawn(move || {
            let silent = listener.accept().expect("somebody asks");
            drop(silent);
            let (mut stream, _) = listener.accept().expect("somebody asks again");
            let _ = stream.read(&mut [0; 1024]);
            let unready = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\nready\n");
            unready.expect("it is read");
        });
        for how in ["says nothing", "speaks as anybody might"] {
            let taken = listen("CHICKWORK_LISTEN", address, WEBHOOKS).await;
            assert_eq!(taken.grade, Grade::Notice, "{how}: {taken:?}");
            assert!(taken.says.starts_with("Another program"), "{taken:?}");
        }
        foreign.join().expect("it ends");
        let free = listen("CHICKWORK_LISTEN", address, WEBHOOKS).await;
        assert_eq!(free.grade, Grade::Good, "{free:?}");
        let foreign = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 8080));
        let foreign = listen("CHICKWORK_LISTEN", foreign, WEBHOOKS).await;
        assert_eq!(foreign.grade, Grade::Wrong, "{foreign:?}");
    }

    #[test]
    fn one_of_ours_is_welcome_where_it_does_the_same() {
        for (listens_for, other, grade) in [
            (WEBHOOKS, WEBHOOKS, Grade::Good),
            ("admin serve", "admin serve", Grade::Good),
            ("admin ingress", "admin ingress", Grade::Good),
            ("admin worker", "admin worker", Grade::Notice),
            ("admin worker", "admin ingress", Grade::Notice),
            ("admin serve", "admin worker", Grade::Notice),
            (WEBHOOKS, "admin serve", Grade::Wrong),
            ("admin serve", WEBHOOKS, Grade::Wrong),
        ] {
            let told = taken("CHICKWORK_LISTEN", HERE, listens_for, other);
            assert_eq!(told.grade, grade, "{listens_for}, {other}: {told:?}");
            assert_eq!(told.cure.is_some(), grade != Grade::Good, "{told:?}");
        }
    }
}
