//! A connection that can be cut: the client sees it lost, without as much as a status line.

use std::any::Any;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;

use actix_web::HttpRequest;
use actix_web::dev::Extensions;

/// A second handle to the client's connection, beside the one the server reads and writes.
struct Connection(TcpStream);

/// Keeps a handle to every new connection; actix itself never closes one without an answer.
pub(crate) fn remember(stream: &dyn Any, extensions: &mut Extensions) {
    let handle = stream
        .downcast_ref::<actix_web::rt::net::TcpStream>()
        .and_then(|stream| stream.as_fd().try_clone_to_owned().ok());
    if let Some(handle) = handle {
        extensions.insert(Connection(TcpStream::from(handle)));
    }
}

/// Cuts the connection that a request came by. What is answered afterwards reaches nobody.
pub(crate) fn cut(request: &HttpRequest) {
    if let Some(Connection(stream)) = request.conn_data() {
        // An error means that the client was faster.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
