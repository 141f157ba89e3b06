//! Cuts off clients that hold a connection without getting anywhere.
//!
//! actix limits the time for the head of the *first* request of a connection, and for idling
//! between requests; a later head that dribbles in byte by byte is limited by nobody, nor is the rest
//! of a body in pieces that was answered before its end, which actix goes on reading. So every
//! connection has a guard of its own, which also covers clients that do not read their answers.

use std::any::Any;
use std::cell::Cell;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::rc::{Rc, Weak};
use std::time::Duration;

use actix_web::dev::Extensions;
use actix_web::rt;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// A connection on which no request has begun or ended for this long is cut off.
pub(crate) const LONGEST_SILENCE: Duration = Duration::from_secs(29);
/// How long a client may take to read an answer after which the connection is to be closed.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(2);
/// The same while the ingress is stopping, and its successor cannot start before it is gone.
pub(crate) const HURRIED_LAST_WORDS: Duration = Duration::from_millis(500);

/// A connection that is watched for as long as it is open.
#[derive(Clone)]
pub(crate) struct Connection(Rc<Watched>);

struct Watched {
    /// A second handle on the socket, by which it can be shut down under actix's hands.
    socket: TcpStream,
    /// When it is cut off.
    deadline: Cell<Instant>,
    guard: Cell<Option<AbortHandle>>,
}

impl Connection {
    /// Begins to watch a connection that was just accepted; called by actix on the thread that is
    /// going to serve it.
    pub(crate) fn watch(accepted: &dyn Any, connection_data: &mut Extensions) {
        let Some(accepted) = accepted.downcast_ref::<rt::net::TcpStream>() else {
            return;
        };
        let socket = match accepted.as_fd().try_clone_to_owned() {
            Ok(socket) => TcpStream::from(socket),
            Err(error) => {
                log::warn!(error:%; "a connection cannot be watched");
                return;
            }
        };
        let watched = Rc::new(Watched {
            socket,
            deadline: Cell::new(Instant::now() + LONGEST_SILENCE),
            guard: Cell::new(None),
        });
        let connection = Self(watched);
        connection.guard();
        connection_data.insert(connection);
    }

    /// Notes that a request has begun, or ended and may be followed by another.
    pub(crate) fn touch(&self) {
        self.0.deadline.set(Instant::now() + LONGEST_SILENCE);
    }

    /// Notes that no request follows: what the client still sends is of no interest.
    pub(crate) fn wind_up(&self, within: Duration) {
        self.0.deadline.set(Instant::now() + within);
        // The guard that there is sleeps longer.
        self.guard();
    }

    fn guard(&self) {
        let guard = rt::spawn(cut_off_in_time(Rc::downgrade(&self.0)));
        if let Some(former) = self.0.guard.replace(Some(guard.abort_handle())) {
            former.abort();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.abort();
        }
    }
}

async fn cut_off_in_time(watched: Weak<Watched>) {
    while let Some(connection) = watched.upgrade() {
        let deadline = connection.deadline.get();
        if deadline <= Instant::now() {
            // Fails only if the client has closed it already.
            let _ = connection.socket.shutdown(Shutdown::Both);
            return;
        }
        drop(connection);
        tokio::time::sleep_until(deadline).await;
    }
}
